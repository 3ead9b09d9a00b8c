"""What is done to a finished model: evaluate, extract, add and remove tasks."""

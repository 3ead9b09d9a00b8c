"""From sources to batches: tasks, their rows and splits, tokens, and the order in which they come."""

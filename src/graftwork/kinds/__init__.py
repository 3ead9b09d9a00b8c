"""What a task's targets are: heads, scores, figures, and how a prediction reads."""

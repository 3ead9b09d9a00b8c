"""What a task's targets are: heads, losses, scores, figures, and how a prediction reads.

Another kind of task is one class in a file of its own (`graftwork.kinds.kind.Kind` says what is asked of it)
plus its entry in `graftwork.kinds.registry.KINDS` and its loss in `graftwork.kinds.losses.LOSSES`.
"""

"""A few rows through everything before training begins."""

"""Tasks that read two texts: together, in one sequence, or each alone."""

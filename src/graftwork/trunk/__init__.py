"""Many tasks on the same rows: the tree of their paths, and one pass that branches where they part."""

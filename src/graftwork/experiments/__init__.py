"""Comparing methods on the user's own tasks: a grid of runs, one file each, and the report made from them."""

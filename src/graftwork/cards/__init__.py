"""Model cards: the README.md of a model folder, from plain data."""

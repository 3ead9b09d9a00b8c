"""Two texts of a row that are two sequences."""

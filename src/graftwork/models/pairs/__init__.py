"""Models that read the two texts of a row separately."""

"""What keeps a structure small: its expected size, its budget, and the controls."""

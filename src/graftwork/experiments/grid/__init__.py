"""Which runs a grid consists of, and the settings whose hash is their key."""

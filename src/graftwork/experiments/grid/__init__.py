"""Which runs a grid comes to, and the settings whose hash is their key."""

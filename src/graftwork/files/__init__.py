"""Files: read what anybody may have written, write so that the old or the new is there, never a part."""

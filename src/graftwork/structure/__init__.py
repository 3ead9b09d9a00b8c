"""The paths of all tasks as data, without torch: chosen, compared, drawn, read."""

"""What can be compared: settings of a method, and how it adapts a backbone."""

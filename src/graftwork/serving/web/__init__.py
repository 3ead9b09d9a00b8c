"""The HTTP side of serving: paths, forms, measurement, and the process that listens."""

"""What the scripts of the page show: points with axes to choose, and structures as maps."""

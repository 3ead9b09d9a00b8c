"""Metrics, and figures beyond them."""

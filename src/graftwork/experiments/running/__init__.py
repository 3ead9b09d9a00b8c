"""Doing the runs of a grid."""

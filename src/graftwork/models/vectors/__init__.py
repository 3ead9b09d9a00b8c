"""Vectors of texts, as the heads of a model see them."""

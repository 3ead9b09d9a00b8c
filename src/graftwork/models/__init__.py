"""Backbone, heads and adapters as one model: loaded, saved, pooled, probed, asked."""

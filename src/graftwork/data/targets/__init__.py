"""Rows whose targets stand in their tokens, as models learn and score them."""

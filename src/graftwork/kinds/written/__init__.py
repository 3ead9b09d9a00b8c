"""Kinds of task whose answers the language model itself writes, without a head."""

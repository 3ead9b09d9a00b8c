"""Recipes: settings as YAML and as dataclasses, without torch."""

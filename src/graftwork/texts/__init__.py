"""Texts that a language model reads and writes: prompts, rows, tokens, and how answers are scored."""

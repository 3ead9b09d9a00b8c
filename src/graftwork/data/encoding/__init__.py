"""From texts to tokens beyond one call of the tokenizer: parts of templates, and windows of long texts."""

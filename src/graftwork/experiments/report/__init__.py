"""One page, Markdown and figures from result files alone."""

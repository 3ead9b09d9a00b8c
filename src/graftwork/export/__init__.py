"""Forms of a model that need no search machinery, or no graftwork at all."""

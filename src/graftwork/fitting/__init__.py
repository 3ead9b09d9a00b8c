"""`graftwork fit`: from a recipe to a compact model with a report."""

"""`graftwork serve`: the tasks of one or several models on one backbone, behind HTTP."""

"""The kinds of task by name. Another kind is a file, its two lines here, and its loss in `losses.py`."""

from __future__ import annotations

from typing import Literal

from graftwork.kinds.classification import Classification
from graftwork.kinds.kind import Kind
from graftwork.kinds.multilabel import Multilabel
from graftwork.kinds.pairs.retrieval import Retrieval
from graftwork.kinds.regression import Regression
from graftwork.kinds.tokens import Tokens
from graftwork.kinds.written.choice import Choice
from graftwork.kinds.written.generation import Generation

__all__ = ["KINDS", "KindName"]

KindName = Literal[
    "classification", "regression", "multilabel", "tokens", "retrieval", "generation", "choice"
]

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Classification(),
        Regression(),
        Multilabel(),
        Tokens(),
        Retrieval(),
        Generation(),
        Choice(),
    )
}
"""Name -> kind."""

"""Second texts as further rows of a batch: one pass reads them with the first; their vectors meet after it.

second = SecondTexts.of(inputs, separate, heads)  # which rows have one
hidden = backbone(**second.joined(inputs))  # [rows + second texts, positions, d], pooled to vectors
pairs = second.features(dropout(vectors), vectors)  # [rows, 3 d + 1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graftwork.data.pairs.second import SECOND
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.kinds.pairs.features import pair_parts, scaled
from graftwork.models.pairs.compared import with_cosine

__all__ = ["SecondTexts", "split_second"]


def split_second(inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs of first texts, and those of second ones under the names of the first."""
    first = {name: value for name, value in inputs.items() if not name.startswith(SECOND)}
    second = {name.removeprefix(SECOND): value for name, value in inputs.items() if name.startswith(SECOND)}
    return first, second


@dataclass(frozen=True)
class SecondTexts:
    """The second texts of a batch.

    Attributes:
        inputs: of the backbone, for all rows of the batch, [rows, ...].
        owner: the row of each second text that is read.
        separate: which rows of the batch have a second text.
    """

    inputs: Mapping[str, Tensor]
    owner: Int[Tensor, " second"]
    separate: Bool[Tensor, " rows"]

    @classmethod
    def of(
        cls, second: Mapping[str, Tensor], separate: Bool[Tensor, " rows"], heads: Sequence[TaskHead]
    ) -> SecondTexts | None:
        """The second texts of a batch; None if no row has one.

        Args:
            second: the inputs of second texts, for all rows; those of other rows are not looked at.
            separate: which rows are of tasks that read their texts separately.
            heads: the tasks of the model.

        Raises:
            DataError: there are such rows, and no second texts.
        """
        if not second:
            if bool(separate.any()):
                name = next(head.name for head in heads if head.separate)
                raise DataError(
                    f"task {name!r} reads its two texts separately; pass the tokens of the second one as "
                    "second_input_ids and second_attention_mask."
                )
            return None
        if torch.compiler.is_compiling():
            # A graph cannot depend on which rows there are: it reads as many second texts as rows.
            return cls(second, torch.arange(separate.shape[0], device=separate.device), separate)
        owner = separate.nonzero().squeeze(1)
        return cls(second, owner, separate) if len(owner) else None

    @classmethod
    def of_all(
        cls,
        second: Mapping[str, Tensor],
        rows: int,
        wanted: Bool[Tensor, "rows tasks"] | None,
        separate: Bool[Tensor, " tasks"],
        heads: Sequence[TaskHead],
    ) -> SecondTexts | None:
        """The same where several tasks are asked about each row.

        Args:
            second: as for `of`.
            rows: of the batch.
            wanted: which tasks are asked; None: all.
            separate: which tasks read their texts separately.
            heads: the tasks of the model.

        Raises:
            DataError: a row is to be read in both ways, or there are no second texts.
        """
        asked = separate.expand(rows, -1) if wanted is None else wanted & separate
        others = ~separate.expand(rows, -1) if wanted is None else wanted & ~separate
        if not torch.compiler.is_compiling() and bool((asked.any(1) & others.any(1)).any()):
            one, other = (next(head.name for head in heads if head.separate is way) for way in (True, False))
            raise DataError(
                f"task {one!r} reads its two texts separately and task {other!r} one sequence; no row "
                "is both, so ask for one of them at a time."
            )
        return cls.of(second, asked.any(1), heads)

    def joined(self, first: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of first texts, and below them those of the second ones.

        Raises:
            DataError: an input of first texts is missing for the second ones, or has another length.
        """
        lacking = [name for name in first if name not in self.inputs]
        if lacking:
            raise DataError(f"second_{lacking[0]} is missing; give all inputs for the second texts, too.")
        for name, value in first.items():
            if self.inputs[name].shape != value.shape:
                raise DataError(
                    f"second_{name} has shape {tuple(self.inputs[name].shape)} and {name} "
                    f"{tuple(value.shape)}; pad first and second texts to one length."
                )
        return {name: torch.cat([value, self.inputs[name][self.owner]]) for name, value in first.items()}

    def features(
        self, pooled: Float[Tensor, "sequences d"], whole: Float[Tensor, "sequences d"]
    ) -> Float[Tensor, "rows features"]:
        """What the vectors of both texts give beside that of the first; zeros for rows without a second.

        Args:
            pooled: the vectors of the rows, and below them those of the second texts.
            whole: the same before dropout, which would make every cosine smaller.
        """
        rows = self.separate.shape[0]
        parts = pair_parts(pooled[:rows][self.owner], pooled[rows:])[1:]
        return self._spread(parts, whole[:rows][self.owner], whole[rows:])

    def compared(self, whole: Float[Tensor, "sequences d"]) -> Float[Tensor, "rows outputs"]:
        """Cosine and vectors of both texts; zeros for rows without a second.

        Args:
            whole: the vectors of the rows, and below them those of the second texts, without dropout.
        """
        rows = self.separate.shape[0]
        return self._placed(with_cosine(whole[:rows][self.owner], whole[rows:]))

    def compared_of_all(
        self,
        pooled: Float[Tensor, "carried d"],
        place: Int[Tensor, "sequences tasks"],
        tasks: Bool[Tensor, " tasks"],
    ) -> Float[Tensor, "rows tasks outputs"]:
        """The same for all tasks; zeros for tasks that compare no texts.

        Args:
            pooled: as for `features_of_all`.
            place: as there.
            tasks: which compare texts.
        """
        rows, own = self.separate.shape[0], tasks.nonzero().squeeze(1)
        found = pooled[place[:, own]]
        made = self._placed(with_cosine(found[:rows][self.owner], found[rows:]))
        return made.new_zeros(rows, len(tasks), made.shape[-1]).index_copy(1, own, made)

    def features_of_all(
        self,
        pooled: Float[Tensor, "carried d"],
        place: Int[Tensor, "sequences tasks"],
        separate: Bool[Tensor, " tasks"],
    ) -> Float[Tensor, "rows separate features"]:
        """The same for every task that reads its texts separately.

        Args:
            pooled: the vectors of all that a pass has carried to its end.
            place: which of them is that of a sequence for a task.
            separate: the tasks whose heads have weights for two vectors.
        """
        rows, own = self.separate.shape[0], separate.nonzero().squeeze(1)
        found = pooled[place[:, own]]
        u, v = found[:rows][self.owner], found[rows:]
        return self._spread(pair_parts(u, v)[1:], u, v)

    def _spread(
        self,
        parts: Sequence[Float[Tensor, "second *tasks d"]],
        u: Float[Tensor, "second *tasks d"],
        v: Float[Tensor, "second *tasks d"],
    ) -> Float[Tensor, "rows *tasks features"]:
        """The parts and the cosine of u and v, at the place of their row."""
        cosine = scaled(F.cosine_similarity(u.float(), v.float(), dim=-1)).to(u.dtype)
        return self._placed(torch.cat([*parts, cosine.unsqueeze(-1)], dim=-1))

    def _placed(self, found: Float[Tensor, "second *tasks d"]) -> Float[Tensor, "rows *tasks d"]:
        """What second texts give, at the place of their row; zeros for rows without one."""
        spread = found.new_zeros(self.separate.shape[0], *found.shape[1:]).index_copy(0, self.owner, found)
        return torch.where(self.separate.view(-1, *[1] * (found.dim() - 1)), spread, 0.0)

"""What a task is: where its rows come from, which fields hold text and label, how it is scored.

`Task` is what a recipe says; `TaskHead` is what is left of it in a saved model. Neither reads data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from graftwork.data.encoding.settings import Pooled, reading_faults
from graftwork.data.text_rows import TextFormat, delimiter_faults
from graftwork.errors import RecipeError
from graftwork.files.decoding import encoding_faults, named_encodings
from graftwork.files.later import LATER, later
from graftwork.files.reading import is_finite
from graftwork.kinds.heads import TaskHead, plain_fields
from graftwork.kinds.kind import Metric, Reads
from graftwork.kinds.labels import label_name
from graftwork.kinds.pairs.setting import PairsSetting, default_pairs, pairs_faults
from graftwork.kinds.registry import KINDS, KindName
from graftwork.messages import did_you_mean, near_misses, shown
from graftwork.texts.template import template_faults
from graftwork.texts.writing import LENGTH, NEW_TOKENS, Writing

__all__ = ["SPLITS", "Task"]

SPLITS = ("train", "validation", "test")
"""Names of the splits."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""What the name of a task is made of; it is part of file names and of logs."""

_KIND_OF = {
    **dict.fromkeys(("target", "references", "max_new_tokens", "max_generate"), "generation"),
    **dict.fromkeys(("choices", "normalise_length"), "choice"),
}
"""Settings that of the kinds that a language model itself answers only one has."""


@dataclass(frozen=True)
class Task:
    """One task of a recipe.

    A source is a `.jsonl`, `.json`, `.csv`, `.tsv`, `.conll` or `.parquet` file, a folder with one file per
    split (`train.jsonl`, ...), a folder with one sub-folder of `.txt` files or images per class, any of these
    inside an installed package (`package:NAME/sub/path`), or a hub dataset (`hub:ID[/CONFIG][:SPLIT]`). Text
    files may be compressed (`.csv.gz`).

    Raises:
        RecipeError: A setting is wrong; the message names all that are.

    Example:
        >>> task = gw.Task("same", "data/same", text=("first", "second"), metric="macro_f1")
        >>> task.kind, task.text_fields
        ('classification', ('first', 'second'))
        >>> task.head(labels=["different", "same"]).size
        2
        >>> offers = gw.Task("offers", "data/offers", text="{title}, {price} [SEP] {body}", stride=32)
        >>> offers.head(labels=["no", "yes"]).fields
        ('title', 'price', 'body')
        >>> gw.Task("no spaces", kind="regression", metric="accuracy")
        Traceback (most recent call last):
            ...
        graftwork.errors.RecipeError: task 'no spaces': a name is made of letters, digits, '_', '.' and '-';
        metric is 'accuracy'; allowed for regression: spearman, pearson
    """

    name: str
    """Name of the task: letters, digits, `_`, `.` and `-`."""
    train: str | None = None
    """Source of the training rows."""
    validation: str | None = None
    """Source of the validation rows; else the train folder's own file, else a tenth of the train texts."""
    test: str | None = None
    """Source of the test rows; else the train folder's own file, else a tenth of the train texts."""
    text: str | tuple[str, ...] = "text"
    """Field that holds the text, or a template over several fields, such as `{title} [SEP] {body}`; or two of
    them for a pair. `[SEP]` is the separator token of the backbone's tokenizer."""
    label: str = "label"
    """Field that holds the label or the score."""
    kind: KindName = "classification"
    """What a target is: a class, a number, several labels (`multilabel`), spans of the text or tags of its
    words (`tokens`), nothing but a passage to be found for a query (`retrieval`), a text to write, by a
    language model (`generation`), or a text to choose (`choice`)."""
    metric: Metric | None = None
    """How the task is scored: accuracy for classes and choices, spearman for numbers, micro_f1 for several
    labels, entity_f1 for tokens, mrr for retrieval and token_f1 for written texts, unless given."""
    labels: tuple[str, ...] | None = None
    """The classes, or types of spans, in a fixed order; found in the train rows and sorted, unless given."""
    max_train: int | None = None
    """Largest number of training rows; they are drawn with the seed."""
    max_validation: int | None = None
    """Largest number of validation rows; they are drawn with the seed."""
    max_test: int | None = None
    """Largest number of test rows; they are drawn with the seed."""
    minimum: dict[str, float] = field(default_factory=dict, hash=False)
    """Keep only the rows whose numeric field is at least this."""
    drop_broken: bool = False
    """Drop rows whose text has a broken character (U+FFFD)."""
    class_weights: str | dict[str, float] | None = field(default=None, hash=False, metadata=LATER)
    """Weight of a row in the training loss, by its class: `balanced` (each class as much as any other), or
    a weight per label, 1 if not named; only their ratios matter. Scores are not weighted."""
    encoding: str | tuple[str, ...] = field(default="utf-8", metadata=LATER)
    """Encoding of text files: one name, or several, such as `[utf-8, cp1252]`, tried per file in this order;
    bytes that the last of several does not know become U+FFFD."""
    delimiter: str | None = field(default=None, metadata=LATER)
    """Delimiter of CSV and TSV files; null: the comma if it fits, else that of `;`, tab and `|` that does."""
    separator: str | None = field(default=None, metadata=LATER)
    """Stands between the labels of a row if they are one text, such as `|`, for `kind: multilabel`."""
    image: str | None = field(default=None, metadata=LATER)
    """Field that holds an image, in place of `text`: a path, relative to the file of the rows or the current
    folder, or an image itself. In a folder with images per class it is `image`."""
    pairs: PairsSetting | None = field(default=None, metadata=later("joint"))
    """How two texts are read: `joint`, as one sequence, `separate`, each alone, their vectors compared by the
    head, or `auto`, whichever scores better on validation after a short training with each. Unless given it
    is `auto` where a head compares two texts, else `joint`."""
    stride: int | None = field(default=None, metadata=LATER)
    """Tokens that neighbouring windows share: a text of more tokens than `training.max_length` is read in
    several windows, all in one pass; null: it is cut. What stands before the last `[SEP]` of a template is in
    every window."""
    windows: Pooled = field(default="mean", metadata=LATER)
    """How the logits of the windows of a row become those of the row: their mean, or the largest of each. Of
    `kind: tokens` each word is read where it stands furthest from a cut."""
    target: str | None = field(default=None, metadata=LATER)
    """generation: field of the answer that is learned; null: `target`, and of rows of chats the last message
    of the assistant."""
    references: str | None = field(default=None, metadata=LATER)
    """generation: field of a list of answers that count as right in scoring, beside the target."""
    prompt: str | None = field(default=None, metadata=LATER)
    """generation, choice: template over the fields of a row, such as `Question: {question}`; null: the text
    field, the fields `instruction` and `input`, or the messages in `messages` or `conversations`, whichever
    the rows have."""
    chat: bool = field(default=False, metadata=LATER)
    """generation, choice: put the prompt into the tokenizer's chat template; rows of messages always are."""
    system: str | None = field(default=None, metadata=LATER)
    """generation, choice: message of the system, for conversations that begin without one."""
    max_length: int | None = field(default=None, metadata=LATER)
    """generation, choice: tokens of prompt and answer together; longer rows are cut at their end; null:
    512."""
    max_new_tokens: int | None = field(default=None, metadata=LATER)
    """generation: tokens that are written at most for a row; null: 128."""
    max_generate: int | None = field(default=None, metadata=LATER)
    """generation: rows of a split, evenly spaced, whose answers are written for the score; null: 200."""
    train_on_prompt: bool = field(default=False, metadata=LATER)
    """generation, choice: learn the tokens of the prompt, too."""
    mask_history: bool = field(default=True, metadata=LATER)
    """generation, choice: of a conversation learn the last answer alone; false: those before it, too."""
    choices: str | None = field(default=None, metadata=LATER)
    """choice: field of the list of texts that a row chooses from, if each has its own; `label` is then the
    right one, or its place, from 0. null: all rows have the same labels."""
    normalise_length: bool = field(default=False, metadata=LATER)
    """choice: divide the log-likelihood of a label by its tokens, so that long ones are not at a loss."""

    def __post_init__(self) -> None:
        """Turn lists into tuples, fill in the metric, and check everything at once."""
        self._normalise()
        faults = list(self._faults())
        if faults:
            raise RecipeError(f"task {shown(self.name)}: " + "; ".join(faults))
        if self.metric is None:
            object.__setattr__(self, "metric", KINDS[self.kind].metrics[0])
        if self.pairs is None:
            object.__setattr__(self, "pairs", default_pairs(self, KINDS[self.kind]))

    def _normalise(self) -> None:
        for split in SPLITS:
            source = getattr(self, split)
            if isinstance(source, os.PathLike):
                object.__setattr__(self, split, os.fspath(source))
        for name in ("text", "encoding"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.labels, list | tuple):
            try:
                object.__setattr__(self, "labels", tuple(label_name(label) for label in self.labels))
            except ValueError as error:
                raise RecipeError(f"task {self.name!r}: labels has {error}") from None
        if isinstance(self.class_weights, Mapping):
            try:
                weights = {label_name(label): weight for label, weight in self.class_weights.items()}
            except ValueError as error:
                raise RecipeError(f"task {self.name!r}: class_weights has {error}") from None
            object.__setattr__(self, "class_weights", weights)

    def _faults(self) -> list[str]:
        faults = []
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            faults.append("a name is made of letters, digits, '_', '.' and '-'")
        for split in SPLITS:
            source = getattr(self, split)
            if source is not None and (not isinstance(source, str) or not source.strip()):
                faults.append(f"{split} is {shown(source)}, not a path, 'package:NAME/path' or 'hub:ID'")
            most = getattr(self, f"max_{split}")
            if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
                faults.append(f"max_{split} is {shown(most)}, not a whole number of at least 1")
        faults += self._image_faults()
        faults += reading_faults(self)
        faults += self._scoring_faults()
        faults += self._writing_faults()
        if not isinstance(self.minimum, Mapping) or not all(map(is_finite, self.minimum.values())):
            faults.append(f"minimum is {shown(self.minimum)}, not field names with numbers")
        if not isinstance(self.drop_broken, bool):
            faults.append(f"drop_broken is {self.drop_broken!r}, not true or false")
        return [*faults, *encoding_faults(self.encoding), *delimiter_faults(self.delimiter)]

    def _image_faults(self) -> list[str]:
        if self.image is None:
            return []
        faults = [] if self.text == "text" else ["a task reads text or image, not both; leave one out"]
        if self.kind == "tokens":
            faults.append("kind: tokens reads texts; an image has no words")
        if self.kind in KINDS and KINDS[self.kind].written:
            faults.append(f"kind: {self.kind} reads texts, not images; leave image out")
        if self.drop_broken:
            faults.append("drop_broken is for texts; a broken image is always refused")
        return faults

    def _scoring_faults(self) -> list[str]:
        if self.kind not in KINDS:
            return [f"kind is {self.kind!r}; allowed: {', '.join(KINDS)}"]
        faults, kind = [], KINDS[self.kind]
        if self.metric is not None and self.metric not in kind.metrics:
            allowed = ", ".join(kind.metrics)
            faults.append(f"metric is {self.metric!r}; allowed for {self.kind}: {allowed}")
        if self.separator is not None:
            if kind.per != "label":
                faults.append(f"separator is for kind: multilabel, not {self.kind}")
            elif not isinstance(self.separator, str) or not self.separator:
                faults.append(f"separator is {shown(self.separator)}, not a text such as '|'")
        return [*faults, *kind.faults(self), *pairs_faults(self.pairs, self, kind)]

    def _writing_faults(self) -> list[str]:
        """What is wrong with the settings of tasks that a language model itself answers."""
        if self.kind not in KINDS:
            return []
        known = {item.name: item.default for item in fields(self)}
        own = list(known)[list(known).index("target") :]
        given = [name for name in own if getattr(self, name) != known[name]]
        if not KINDS[self.kind].written:
            kind = _KIND_OF.get(given[0], "generation") if given else ""
            return [f"{given[0]} is for kind: {kind}; remove it, or set the kind"] if given else []
        other = [name for name in given if _KIND_OF.get(name, self.kind) != self.kind]
        faults = [f"{name} is for kind: {_KIND_OF[name]}; remove it, or set the kind" for name in other[:1]]
        faults += template_faults(self.prompt)
        for name in ("target", "references", "system", "choices"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                faults.append(f"{name} is {shown(value)}, not a text")
        for name in ("max_length", "max_new_tokens", "max_generate"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                faults.append(f"{name} is {shown(value)}, not a whole number of at least 1")
        for name in ("chat", "train_on_prompt", "mask_history", "normalise_length"):
            if not isinstance(getattr(self, name), bool):
                faults.append(f"{name} is {shown(getattr(self, name))}, not true or false")
        if len(self.text_fields) > 1:
            faults.append(
                "text names two fields, which only encoders read as a pair; write a prompt: with both, "
                f"such as '{{{self.text_fields[0]}}} {{{self.text_fields[1]}}}'"
            )
        return faults

    def writing(self) -> Writing:
        """How rows become prompts and answers; their form is that of the first row."""
        return Writing(
            source=self.text_fields[0],
            target=self.target or "target",
            references=self.references,
            prompt=self.prompt,
            chat=self.chat,
            system=self.system,
            max_length=self.max_length or LENGTH,
            max_new_tokens=self.max_new_tokens or NEW_TOKENS,
            train_on_prompt=self.train_on_prompt,
            mask_history=self.mask_history,
            choices=self.choices,
            normalise_length=self.normalise_length,
        )

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The text fields or templates as a tuple of one or two; of a task that reads images their field."""
        if self.image is not None:
            return (self.image,)
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)

    @property
    def reads(self) -> Reads:
        """What the task reads of a row."""
        return "text" if self.image is None else "image"

    @property
    def text_format(self) -> TextFormat:
        """How the task's text files are read."""
        return TextFormat(named_encodings(self.encoding), self.delimiter)

    def head(
        self,
        labels: Sequence[str] = (),
        mean: float = 0.0,
        std: float = 1.0,
        *,
        class_weights: Sequence[float] = (),
        thresholds: Sequence[float] = (),
    ) -> TaskHead:
        """Make the task's head: with its classes, or with the mean and deviation of its training scores."""
        metric = self.metric or KINDS[self.kind].metrics[0]
        return TaskHead(
            self.name,
            self.text_fields,
            self.label,
            self.kind,
            metric,
            tuple(labels),
            mean,
            std,
            class_weights=tuple(class_weights),
            thresholds=tuple(thresholds),
            reads=self.reads,
            pairs="separate" if self.pairs == "separate" else "joint",
            stride=self.stride,
            windows=self.windows,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the task as JSON types."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a task from a mapping.

        Raises:
            RecipeError: A key is unknown, the name is missing, or a value is wrong.
        """
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                hint = did_you_mean(key, known)
                allowed = "" if near_misses(key, known) else f" Allowed: {', '.join(known)}"
                raise RecipeError(
                    f"task {values.get('name', '?')!r} has the unknown key {key!r}{hint}{allowed}"
                )
        if "name" not in values:
            raise RecipeError(f"a task has no name (its keys: {', '.join(map(str, values)) or 'none'})")
        return cls(**values)

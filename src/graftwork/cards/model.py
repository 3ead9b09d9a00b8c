"""The card of a finished model, from what its folder holds."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from graftwork.cards.markdown import code, codes, table
from graftwork.cards.metadata import model_metadata, source_of
from graftwork.cards.training import training_lines
from graftwork.hub.names import is_backbone_id
from graftwork.structure.structure import Structure
from graftwork.texts.template import fields_read, is_template

__all__ = ["ModelFacts", "model_card"]

OWNER = "USER"
"""Stands for the user in the name of a model that has not been pushed."""
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ModelFacts:
    """What a card is made of."""

    name: str
    """Of the model: that of its folder, or on the hub."""
    described: Mapping[str, Any]
    """The contents of `tasks.json`."""
    structure: Structure
    """That of the file, perhaps with adapters that were closed."""
    report: Mapping[str, Any]
    """The contents of `report.json`; empty if there is none."""
    picture: str | None = None
    """Name of the picture of the structure."""
    repo: str | None = None
    """`user/model` on the hub."""

    @property
    def tasks(self) -> list[Mapping[str, Any]]:
        """The heads, as JSON types."""
        return list(self.described["tasks"])


def model_card(facts: ModelFacts) -> str:
    """The whole text, metadata first."""
    from huggingface_hub import ModelCard

    parts = [f"# {facts.name}", _sentence(facts), _tasks(facts), _scores(facts), _sizes(facts)]
    parts += [_structure(facts), _use(facts), _data(facts), *training_lines(facts.report), _limits(facts)]
    parts += [_licence(facts)]
    metadata = model_metadata(facts.name, facts.described["model"], facts.tasks, facts.report)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"))


def _backbone(facts: ModelFacts) -> str:
    """The backbone by its name on the hub or in a package, else by its type: paths mean nothing elsewhere."""
    name, known = facts.described["model"], facts.described["backbone"]
    if is_backbone_id(name):
        return f"[{name}](https://huggingface.co/{name})"
    if name.startswith("package:"):
        return code(name)
    kind, width = known.get("model_type"), known.get("hidden_size")
    return f"a model of type {code(str(kind))}" + (f" and width {width}" if width else "")


def _sentence(facts: ModelFacts) -> str:
    names = [task["name"] for task in facts.tasks]
    stored = facts.structure.parameters()
    share = _share(stored, facts)
    tasks = "task" if len(names) == 1 else f"{len(names)} tasks"
    return (
        f"Adapters and heads for the {tasks} {codes(names)} on one frozen backbone, {_backbone(facts)}: "
        f"{stored:,} adapter parameters{share}. Made with graftwork: which adapters there are and which "
        "of them a task uses is part of the model."
    )


def _share(stored: int, facts: ModelFacts) -> str:
    backbone = facts.report.get("parameters", {}).get("backbone")
    return f" ({100 * stored / backbone:.2g} % of the backbone's {backbone:,})" if backbone else ""


def _tasks(facts: ModelFacts) -> str:
    rows = []
    for task in facts.tasks:
        many = {"multilabel": "any of", "tokens": "every word one of"}.get(task["kind"], "one of")
        answer = f"{many} {len(task['labels'])}: {codes(task['labels'])}" if task["labels"] else _free(task)
        alone = ", each alone" if task.get("pairs") == "separate" else ""
        rows.append([code(task["name"]), task["kind"], codes(task["text"]) + alone, answer])
    return "## Tasks\n\n" + table(["task", "kind", "fields it reads", "answer"], rows)


def _free(task: Mapping[str, Any]) -> str:
    """The answer of a task without labels."""
    if task["kind"] == "choice":
        return f"one of the texts in {code(task['writing']['choices'])} of the row"
    if task["kind"] == "generation":
        return "a text"
    if task["kind"] == "retrieval":
        return "the cosine of their vectors, by which texts are searched"
    return f"a number (training rows: mean {task.get('mean', 0):.3g}, deviation {task.get('std', 1):.3g})"


def _scores(facts: ModelFacts) -> str:
    known = facts.report.get("tasks", {})
    if not any("test" in known.get(task["name"], {}) for task in facts.tasks):
        return "## Scores\n\nThe folder has no report, so its scores are not known here."
    rows, below = [], []
    for task in facts.tasks:
        found = known.get(task["name"], {})
        compared = task["kind"] == "retrieval"
        floor = ("frozen_cosine", "chance") if compared else ("linear_probe", "majority")
        figures = [found.get(name) for name in ("test", *floor, "validation")]
        count = found.get("rows", {}).get("test")
        name = code(task["name"])
        rows.append([name, task["metric"], *map(_figure, figures), "-" if count is None else f"{count:,}"])
        floors = [value for value in figures[1:3] if _is_number(value)]
        if _is_number(figures[0]) and floors and figures[0] <= max(floors):
            below.append(name)
    header = ["task", "metric", "**test**", "linear probe", "majority class", "validation", "test rows"]
    text = (
        "## Scores\n\n" + table(header, rows, numbers=5) + "\n\n"
        "The linear probe is a linear model on the frozen backbone, trained on the same rows; the majority "
        "class (of numbers: their mean) is what a model scores that never reads a text. Both were scored on "
        "the same test rows."
    )
    if any(task["kind"] == "retrieval" for task in facts.tasks):
        text += (
            " For retrieval there are in their places the cosine of the frozen backbone's vectors, for which "
            "nothing is trained, and a random order of the passages. Every query was ranked against all "
            "passages of its split, which are fewer than a search has."
        )
    if below:
        text += (
            f" **The adapters do not pay on {', '.join(below)}: the probe or the majority class is as good "
            "or better.**"
        )
    if facts.report.get("noise"):
        text += " The run added noise on purpose; `report.json` says which."
    return text


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, float | int) and math.isfinite(value)


def _figure(value: object) -> str:
    return f"{value:.3f}" if _is_number(value) else "-"


def _sizes(facts: ModelFacts) -> str:
    structure, parameters = facts.structure, facts.report.get("parameters", {})
    rows = []
    if parameters.get("backbone"):
        rows.append(["backbone, frozen, not part of these files", f"{parameters['backbone']:,}"])
    rows.append(["adapters, stored", f"{structure.parameters():,}"])
    for task in structure.tasks:
        rows.append([f"adapters that {code(task)} uses", f"{structure.parameters(task):,}"])
    if parameters.get("heads"):
        rows.append(["heads of all tasks", f"{parameters['heads']:,}"])
    text = "## Size\n\n" + table(["what", "parameters"], rows, numbers=1)
    sizes = facts.report.get("bytes_on_disk", {})
    if sizes:
        text += "\n\n" + ", ".join(f"{code(name)}: {size:,} bytes" for name, size in sizes.items()) + "."
    return text


def _structure(facts: ModelFacts) -> str:
    structure = facts.structure
    used = sum(any(site.used) for site in structure.sites.values())
    stored = sum(sum(site.used) for site in structure.sites.values())
    counts = ", ".join(f"{code(task)} {count:,}" for task, count in structure.counts().items())
    text = (
        f"## Structure\n\n{stored:,} adapters at {used} of {len(structure.sites)} sites (places in the "
        f"backbone where an adapter could go). Of these each task uses: {counts}."
    )
    if facts.picture is not None:
        text += f"\n\n![Open adapters of every task, site and layer]({facts.picture})"
    return text


def _use(facts: ModelFacts) -> str:
    repo = facts.repo or f"{OWNER}/{facts.name}"
    first = facts.tasks[0]
    images = first.get("reads") == "image"
    if not images and any(map(is_template, first["text"])):
        row = repr({field: f"a value of {field}" for field in fields_read(first["text"])})
    else:
        texts = tuple("image.png" if images else f"a text for {field}" for field in first["text"])
        row = repr(texts[0] if len(texts) == 1 else texts)
    asked = f", task={first['name']!r}"
    lines = [
        "## Use",
        "With graftwork installed, in Python or on the command line:",
        "```python\nimport graftwork as gw\n\n"
        f'model = gw.load("{repo}")  # on the hub, or the path of a folder with these files\n'
        f"print(model.predict([{row}]{asked}))\n```",
        f"```bash\ngraftwork show {repo}\ngraftwork predict {repo} --input rows.jsonl --task "
        f"{shlex.quote(first['name'])}\n```",
    ]
    if not facts.repo:
        lines.append(f"`{repo}` stands for the name on the hub; a path of this folder works as well.")
    name = facts.described["model"]
    if not is_backbone_id(name) and not name.startswith("package:"):
        lines.append(
            "The backbone was a folder, which is not part of these files: say where it is with "
            "`--backbone` (in Python `backbone=`). Its weights must be those of the training, which is "
            f"checked{_checksum(facts)}."
        )
    else:
        lines.append(
            "The backbone is loaded from where it comes from, and must have the weights of the training, "
            f"which is checked{_checksum(facts)}."
        )
    return "\n\n".join(lines)


def _checksum(facts: ModelFacts) -> str:
    found = facts.described["backbone"].get("sha256")
    return f" (SHA-256 over all values: `{found}`)" if found else ""


def _data(facts: ModelFacts) -> str:
    rows = []
    for task in facts.tasks:
        found = facts.report.get("tasks", {}).get(task["name"], {})
        source = source_of(facts.report, task["name"], "train")
        for split in _SPLITS:
            count = found.get("rows", {}).get(split)
            if count is not None:
                digest = found.get("sha256", {}).get(split)
                digest = f"`{digest[:16]}`" if digest else "-"
                rows.append(
                    [code(task["name"]), split, code(source[0]) if source else "", digest, f"{count:,}"]
                )
    if not rows:
        return "## Data\n\nThe folder has no report, so the data are not known here."
    header = ["task", "split", "data set of the hub", "SHA-256 (first 16)", "rows"]
    if not any(row[2] for row in rows):
        header, *rows = ([*row[:2], *row[3:]] for row in (header, *rows))
    return (
        "## Data\n\n" + table(header, rows, numbers=1) + "\n\nThe checksums are over the rows as they were "
        "read; `report.json` has them whole."
    )


def _limits(facts: ModelFacts) -> str:
    length = facts.described.get("max_length")
    cut = f" longer ones are cut at {length} tokens, as in training." if length else ""
    windowed = [task for task in facts.tasks if task.get("stride") is not None]
    if windowed:
        whose = "" if len(windowed) == len(facts.tasks) else f" of {codes([one['name'] for one in windowed])}"
        cut = f" longer texts{whose} are read in windows of {length} tokens, as in training."
    scored = " One run with one seed: how much other seeds differ was not measured." if facts.report else ""
    kinds = [task["kind"] for task in facts.tasks]
    several = ", of several labels the sigmoid of each" if "multilabel" in kinds else ""
    return (
        "## Limits\n\n"
        f"- Made for rows like those it was trained on;{cut or ' others were not tried.'}\n"
        "- The language of the rows, where they come from and whom they speak of were not looked at.\n"
        "- Not measured: fairness between groups of people, safety, attacks, and rows of another kind."
        f"{scored}\n"
        "- What the backbone gets wrong, the adapters may get wrong, too.\n"
        f"- A probability is the softmax of the model's outputs{several}; whether it is calibrated was not "
        "measured."
    )


def _licence(facts: ModelFacts) -> str:
    return (
        "## Licence\n\nNot stated yet: whoever publishes this model puts one in the place of "
        "`license: unknown` at the top of this file. Licences of the backbone and of the data may bind, too."
    )

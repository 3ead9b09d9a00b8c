"""The card of an adapter that PEFT saves, with what the model itself knows.

PEFT fills in a template that says "More Information Needed" forty times, and names the path of the backbone
on this machine as the model it is made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wrapt
from peft import PeftModel

from graftwork.cards.markdown import code, codes, table
from graftwork.cards.metadata import LICENCE
from graftwork.cards.writing import write_card
from graftwork.hub.names import is_backbone_id
from graftwork.structure.structure import Structure

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = ["adapter_card", "write_cards_of"]

PIPELINES = {
    "CAUSAL_LM": "text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
    "QUESTION_ANS": "question-answering",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
}
"""Task type of PEFT -> the hub's name for what such a model does."""


def write_cards_of(peft_type: str) -> None:
    """From here on, models of a method of PEFT are saved with our card.

    Args:
        peft_type: name of the method; all others are saved as before.
    """

    def save(wrapped: Callable[..., None], model: PeftModel, args: Sequence[Any], options: Any) -> None:
        configs = [config for config in model.peft_config.values() if config.peft_type == peft_type]
        if not configs:
            wrapped(*args, **options)
            return
        write_card(Path(args[0] if args else options["output_dir"]), adapter_card(model, peft_type))

    # PEFT has no place where a method could say what its card is.
    wrapt.wrap_function_wrapper(PeftModel, "create_or_update_model_card", save)


def adapter_card(model: PeftModel, peft_type: str) -> str:
    """The whole text, metadata first.

    Args:
        model: what is saved.
        peft_type: the method of the adapters that are described.
    """
    from huggingface_hub import ModelCard, ModelCardData

    ours = [name for name, found in model.peft_config.items() if found.peft_type == peft_type]
    described = next((name for name in model.active_adapters if name in ours), ours[0])
    config: Any = model.peft_config[described]
    backbone = model.get_base_model()
    name = str(getattr(getattr(backbone, "config", None), "_name_or_path", "") or "")
    known = is_backbone_id(name)
    tags = {"adapter", "graftwork", "peft", *(getattr(backbone, "model_tags", None) or ())}
    if known:
        tags.add(f"base_model:adapter:{name}")
    metadata = ModelCardData(
        base_model=name if known else None,
        library_name="peft",
        license=LICENCE,
        pipeline_tag=PIPELINES.get(str(getattr(config.task_type, "value", config.task_type))),
        tags=sorted(tags),
    )
    of = f"[{name}](https://huggingface.co/{name})" if known else f"a {code(type(backbone).__name__)}"
    parts = [
        "# Adapters for several tasks" if len(config.tasks) > 1 else "# Adapters for a task",
        f"Adapters for the {_plural('task', config.tasks)} {codes(config.tasks)} on a frozen backbone, {of}. "
        "Made with graftwork, a method of PEFT, and saved with `save_pretrained`.",
        _adapters(config) + _others(described, list(model.peft_config)),
        _use(config, name if known else None),
        "## What is not known\n\nThe files hold weights and settings alone: not the data, the scores or the "
        "heads of the tasks, nor the language of the texts. Whoever publishes them says it here.",
        "## Licence\n\nNot stated yet: whoever publishes these files puts one in the place of "
        "`license: unknown` at the top of this file. The backbone's licence may bind, too.",
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _plural(word: str, parts: Sequence[str]) -> str:
    return word if len(parts) == 1 else f"{len(parts)} {word}s"


def _adapters(config: Any) -> str:
    rows = [["nonlinearity", code(config.activation)], ["place", code(config.position)]]
    if config.structure is None:
        rows.insert(0, ["on offer at every site", f"{config.pool_size} of rank {config.r}"])
        rows.append(["sites", f"{len(config.resolved_sites)}"])
        rows.append(["gates", f"{code(config.gates)}, still being learned or not compacted"])
        return "## Adapters\n\n" + table(["what", "value"], rows)
    structure = Structure.from_dict(config.structure)
    rows.append(["sites with adapters", f"{len(structure.sites)}"])
    rows.append(["stored parameters", f"{structure.parameters():,}"])
    counts = structure.counts()
    rows += [
        [f"task {code(task)}", f"{counts[task]:,} adapters, {structure.parameters(task):,} parameters"]
        for task in structure.tasks
    ]
    return "## Adapters\n\n" + table(["what", "value"], rows)


def _others(described: str, names: Sequence[str]) -> str:
    """Which of several adapters the card is about."""
    if len(names) == 1:
        return ""
    return f"\n\nThe files hold {len(names)} adapters, {codes(names)}; this card is about {code(described)}."


def _use(config: PeftConfig, backbone: str | None) -> str:
    load = f'AutoModel.from_pretrained("{backbone}")' if backbone else "..."
    comment = "" if backbone else "  # the backbone they were trained on"
    first: str = config.tasks[0]  # type: ignore[attr-defined]
    lines = [
        "import graftwork as gw  # makes the method known to PEFT",
        "from peft import PeftModel",
        *(["from transformers import AutoModel"] if backbone else []),
        "",
        f"backbone = {load}{comment}",
        'model = PeftModel.from_pretrained(backbone, "FOLDER")  # this folder, or its name on the hub',
        f"with gw.route(model, {first!r}):  # the task of all rows, or a list with that of each",
        "    outputs = model(**inputs)",
    ]
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"

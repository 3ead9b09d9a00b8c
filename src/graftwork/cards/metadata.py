"""The metadata of a card, as the hub reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.hub.names import PREFIX, is_backbone_id

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

__all__ = ["LICENCE", "model_metadata", "source_of"]

LICENCE = "unknown"
"""What the hub takes for a licence that nobody has stated."""
PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "multilabel": "text-classification",
    "tokens": "token-classification",
    "retrieval": "sentence-similarity",
    "generation": "text-generation",
    "choice": "text-classification",
}
"""Kind of a task -> the hub's name for what it does; to the hub a regression is a class with a score."""
METRICS: dict[str, tuple[str, dict[str, str]]] = {
    "accuracy": ("accuracy", {}),
    "macro_f1": ("f1", {"average": "macro"}),
    "micro_f1": ("f1", {"average": "micro"}),
    "entity_f1": ("f1", {"average": "micro"}),
    "token_accuracy": ("accuracy", {}),
    "matthews": ("matthews_correlation", {}),
    "mrr": ("mrr", {}),
    "recall@1": ("recall", {"k": "1"}),
    "recall@10": ("recall", {"k": "10"}),
    "spearman": ("spearmanr", {}),
    "pearson": ("pearsonr", {}),
    "token_f1": ("f1", {"average": "tokens"}),
    "exact_match": ("exact_match", {}),
    "number": ("exact_match", {"of": "the last number"}),
    "rouge1": ("rouge", {"type": "rouge1"}),
    "rouge2": ("rouge", {"type": "rouge2"}),
    "rougeL": ("rouge", {"type": "rougeL"}),
    "bleu": ("sacrebleu", {}),
    "chrf": ("chrf", {}),
    "likelihood": ("likelihood", {}),
}
"""Metric -> its name on the hub, and its arguments there."""


def model_metadata(
    name: str,
    backbone: str,
    tasks: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
) -> ModelCardData:
    """The metadata of a finished model.

    Args:
        name: of the model.
        backbone: as `tasks.json` names it.
        tasks: the heads, as JSON types.
        report: of `report.json`; empty if there is none.

    Raises:
        ValueError: huggingface_hub refuses them.
    """
    from huggingface_hub import ModelCardData

    pipelines = [PIPELINES[task["kind"]] for task in tasks if task["kind"] in PIPELINES]
    results = [result for task in tasks for result in _results(task, report)]
    sources = [source_of(report, task["name"], split) for task in tasks for split in ("train", "test")]
    datasets = sorted({source[0] for source in sources if source is not None})
    return ModelCardData(
        base_model=backbone if is_backbone_id(backbone) else None,
        datasets=datasets or None,
        eval_results=results or None,
        library_name="graftwork",
        license=LICENCE,
        metrics=sorted({_metric(task)[0] for task in tasks}),
        model_name=name,
        pipeline_tag=pipelines[0] if pipelines else None,
        tags=["adapter", "graftwork", *(["multi-task"] if len(tasks) > 1 else []), "peft"],
    )


def _metric(task: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    return METRICS.get(task["metric"], (task["metric"], {}))


def _results(task: Mapping[str, Any], report: Mapping[str, Any]) -> list[EvalResult]:
    """The test score of a task; none if it was not measured or is no number."""
    from huggingface_hub import EvalResult

    found = report.get("tasks", {}).get(task["name"], {})
    score = found.get("test")
    if not isinstance(score, float | int) or not math.isfinite(score):
        return []
    metric, arguments = _metric(task)
    source = source_of(report, task["name"], "test")
    digest = found.get("sha256", {}).get("test")
    return [
        EvalResult(
            task_type=PIPELINES.get(task["kind"], task["kind"]),
            task_name=task["name"],
            # The hub asks for a data set of its own. Of rows from a file there is none: the task names them.
            dataset_type=task["name"] if source is None else source[0],
            dataset_name=f"rows of the task {task['name']}",
            dataset_config=None if source is None else source[1],
            dataset_split="test",
            dataset_args={"sha256": digest} if digest else None,
            metric_type=metric,
            metric_name=task["metric"],
            metric_value=round(float(score), 4),
            metric_args=arguments or None,
        )
    ]


def source_of(report: Mapping[str, Any], task: str, split: str) -> tuple[str, str | None] | None:
    """The data set of the hub that a split of a task comes from, and its configuration.

    Returns:
        None if it is none of the hub; a path is of use only on the machine where it is.
    """
    for settings in report.get("recipe", {}).get("tasks", []):
        if settings.get("name") == task:
            source = settings.get(split) or settings.get("train")
            if isinstance(source, str) and source.startswith(PREFIX):
                place, _, _ = source.removeprefix(PREFIX).partition(":")
                parts = place.split("/")
                return "/".join(parts[:2]), "/".join(parts[2:]) or None
    return None

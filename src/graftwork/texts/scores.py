"""How written answers are scored against one or several right ones."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from graftwork.errors import ConfigError

__all__ = ["METRICS", "check_packages", "text_figures", "text_score"]

_PACKAGES = {
    "rouge1": "rouge-score",
    "rouge2": "rouge-score",
    "rougeL": "rouge-score",
    "bleu": "sacrebleu",
    "chrf": "sacrebleu",
}
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
CLOSE = 1e-6
"""Relative difference up to which two numbers are the same."""

References = Sequence[str]


def check_packages(metric: str) -> None:
    """Refuse a metric whose package is not installed.

    Raises:
        ConfigError: names the extra that brings it.
    """
    package = _PACKAGES.get(metric)
    if package is not None and not _there(metric):
        raise ConfigError(
            f"metric: {metric} needs {package}, which is not installed: pip install 'graftwork[generation]'; "
            "without it there are token_f1, exact_match and number."
        )


def _there(metric: str) -> bool:
    return find_spec(_PACKAGES[metric].replace("-", "_")) is not None


def text_score(metric: str, answers: Sequence[str], references: Sequence[References]) -> float:
    """Score of answers, from 0 to 1; of several references the best one counts.

    Args:
        metric: one of `METRICS`.
        answers: as they were written, [N].
        references: right answers of every row, [N], each at least one.

    Raises:
        ConfigError: the package of the metric is not installed.
    """
    check_packages(metric)
    return METRICS[metric](answers, references)


def text_figures(answers: Sequence[str], references: Sequence[References]) -> dict[str, float]:
    """All scores whose packages are there, but `number` where the references are none."""
    numeric = all(_number(reference) is not None for row in references for reference in row)
    wanted = [
        name for name in METRICS if (name not in _PACKAGES or _there(name)) and (name != "number" or numeric)
    ]
    return {name: text_score(name, answers, references) for name in wanted}


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, and with single spaces (as SQuAD compares answers)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _mean(one: Callable[[str, str], float]) -> Callable[[Sequence[str], Sequence[References]], float]:
    def score(answers: Sequence[str], references: Sequence[References]) -> float:
        best = [
            max(one(answer, reference) for reference in right)
            for answer, right in zip(answers, references, strict=True)
        ]
        return math.fsum(best) / len(best)

    return score


def _exact(answer: str, reference: str) -> float:
    return float(normalised(answer) == normalised(reference))


def _f1(answer: str, reference: str) -> float:
    given, wanted = normalised(answer).split(), normalised(reference).split()
    if not given or not wanted:
        return float(given == wanted)
    same = sum((Counter(given) & Counter(wanted)).values())
    return 2 * same / (len(given) + len(wanted))


def _number(text: str) -> float | None:
    """The last number of a text, which is where an answer with its reasons ends."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _same_number(answer: str, reference: str) -> float:
    given, wanted = _number(answer), _number(reference)
    return float(
        given is not None and wanted is not None and math.isclose(given, wanted, rel_tol=CLOSE, abs_tol=CLOSE)
    )


def _rouge(kind: str) -> Callable[[Sequence[str], Sequence[References]], float]:
    def score(answers: Sequence[str], references: Sequence[References]) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        scorer: Any = RougeScorer([kind], use_stemmer=True)
        return _mean(lambda answer, reference: float(scorer.score(reference, answer)[kind].fmeasure))(
            answers, references
        )

    return score


def _corpus(name: str) -> Callable[[Sequence[str], Sequence[References]], float]:
    def score(answers: Sequence[str], references: Sequence[References]) -> float:
        import sacrebleu

        most = max(map(len, references))
        # sacrebleu takes one list per number of a reference; None where a row has fewer.
        columns: Any = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
        measure: Any = sacrebleu.corpus_bleu if name == "bleu" else sacrebleu.corpus_chrf
        return float(measure(list(answers), columns).score) / 100

    return score


METRICS: dict[str, Callable[[Sequence[str], Sequence[References]], float]] = {
    "token_f1": _mean(_f1),
    "exact_match": _mean(_exact),
    "number": _mean(_same_number),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
    "bleu": _corpus("bleu"),
    "chrf": _corpus("chrf"),
}
"""Name -> how it is computed. BLEU and chrF are of all rows together, divided by 100; the others are means
over the rows."""

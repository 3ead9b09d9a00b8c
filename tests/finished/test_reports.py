from __future__ import annotations

import json
from pathlib import Path

import pytest

from graftwork.errors import CheckpointError
from graftwork.finished.reports import read_diagnoses
from graftwork.models.files import FILES

GOOD = {
    "findings": [],
    "of": "structure",
    "gap": None,
    "size": {"target": None, "expected": None, "pool": None, "unit": "parameters", "realised": 3},
    "gates": {"early": None, "decided": None},
    "ablation": None,
    "open_paths": {"a": 1},
}


@pytest.mark.parametrize(
    "report",
    [
        {"diagnosis": 3},
        {"diagnosis": {**GOOD, "gap": {"soft": "x"}}},
        {"diagnosis": {**GOOD, "findings": [1]}},
        {"diagnosis": {**GOOD, "size": {**GOOD["size"], "realised": 10**400}}},  # type: ignore[dict-item]
        {"diagnosis": GOOD, "additions": [{"task": "a"}]},
        {"diagnosis": GOOD, "additions": 3},
    ],
)
def test_a_damaged_diagnosis_is_one_clear_line(report: object, tmp_path: Path) -> None:
    (tmp_path / FILES.report).write_text(json.dumps({"diagnosis": GOOD}))
    assert read_diagnoses(tmp_path) == {"search": GOOD}
    (tmp_path / FILES.report).write_text(json.dumps(report))
    with pytest.raises(CheckpointError, match=r"the diagnosis in .*report.json is damaged") as caught:
        read_diagnoses(tmp_path)
    assert "\n" not in str(caught.value)

"""A processor that only imitates bfloat16 is named before a run takes ten times as long."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from graftwork.recipe.settings import TrainingSettings
from graftwork.training import arguments
from graftwork.training.arguments import training_arguments

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f{more}\nbugs\t\t: spectre_v1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd{more}\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (X86.format(more=" avx512_bf16"), True),
        (X86.format(more=" amx_bf16 amx_tile"), True),
        (X86.format(more=" avx512_vnni"), False),
        (ARM.format(more=" i8mm bf16"), True),
        (ARM.format(more=" fphp"), False),
        ("processor\t: 0\nhart\t: 0\nisa\t: rv64imafdc\n", None),
        (None, None),
    ],
)
def test_the_processor_says_whether_it_has_bfloat16_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, known: bool | None
) -> None:
    place = tmp_path / "cpuinfo"
    if text is not None:
        place.write_text(text)
    monkeypatch.setattr(arguments, "CPUINFO", place)
    assert arguments.bfloat16_instructions() is known


def test_the_answer_is_that_of_torch_where_torch_asks_the_same() -> None:
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if asked is not None and asked():
        assert arguments.bfloat16_instructions() is not False


@pytest.mark.parametrize(
    ("bf16", "instructions", "warned"),
    [(True, False, 1), (True, True, 0), (True, None, 0), (False, False, 0)],
)
def test_slow_bfloat16_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool, instructions: bool | None, warned: int
) -> None:
    monkeypatch.setattr(arguments, "bfloat16_instructions", lambda: instructions)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        training_arguments(TrainingSettings(epochs=1, bf16=bf16), folder=tmp_path, rows=10, seed=0)
    texts = [str(each.message) for each in found if "bfloat16" in str(each.message)]
    assert len(texts) == warned
    assert all("10 to 100 times as long" in text and "training.bf16 false" in text for text in texts)

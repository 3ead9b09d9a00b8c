"""Exceptions of libraries become one line; our own faults pass."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from graftwork.edges import forward_errors, library_errors, words_of
from graftwork.errors import CheckpointError, DataError
from graftwork.messages import mended


def test_a_librarys_words_are_kept() -> None:
    with (
        pytest.raises(DataError, match=r"^a file cannot be read; mend it \(Expecting value") as caught,
        library_errors("a file cannot be read", DataError, "mend it"),
    ):
        json.loads("x")
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)


def test_code_without_frames_counts_as_a_library() -> None:
    with (
        pytest.raises(DataError, match=r"it failed \(invalid literal for int"),
        library_errors("it failed", DataError),
    ):
        int("x")


def test_our_own_errors_pass() -> None:
    with pytest.raises(CheckpointError, match=r"^ours$"), library_errors("it failed", DataError):
        raise CheckpointError("ours")


def test_our_own_faults_pass() -> None:
    with pytest.raises(AttributeError), library_errors("it failed", DataError):
        mended(None)  # type: ignore[arg-type]


def test_a_forward_pass_says_how_large_it_was() -> None:
    ids = torch.tensor([[1, 2, 9]])
    with (
        pytest.raises(DataError, match=r"1 rows of up to 3 tokens .* \(IndexError: index out"),
        forward_errors({"input_ids": ids}),
    ):
        nn.Embedding(3, 2)(ids)


def test_the_cause_is_told_as_well() -> None:
    try:
        try:
            raise ValueError("line 3 is not JSON")
        except ValueError as cause:
            raise RuntimeError("An error occurred while generating the dataset") from cause
    except RuntimeError as error:
        words = words_of(error)
    assert words == "An error occurred while generating the dataset: line 3 is not JSON"


@pytest.mark.parametrize(
    ("message", "package"),
    [
        ("T5Tokenizer requires the SentencePiece library but it was not found", "sentencepiece"),
        ("No module named 'graftwork_none.sub'", "graftwork_none"),
        ("You need to have sentencepiece or tiktoken installed", "sentencepiece"),
    ],
)
def test_a_missing_package_is_named(message: str, package: str) -> None:
    assert words_of(ImportError(message)).endswith(f"pip install {package}")


def test_an_installed_package_is_not_named() -> None:
    assert "pip install" not in words_of(ImportError("No module named 'torch'"))

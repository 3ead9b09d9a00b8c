"""What is noted on a backbone travels with it."""

from __future__ import annotations

import copy
import pickle

from torch import nn

from graftwork.attached import attach, find_attached


class Wrapper(nn.Module):
    """As PEFT's: what it lacks is asked of what it wraps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


def test_a_note_is_found_under_wrappers_and_says_whose_it_is() -> None:
    backbone = nn.Sequential(nn.Linear(2, 2))
    assert find_attached(backbone, "width") is None
    attach(backbone, "width", 2)
    attach(backbone, "width", 7)
    found = find_attached(Wrapper(Wrapper(backbone)), "width")
    assert found is not None
    assert (found.module, found.value) == (backbone, 7)
    assert find_attached(backbone[0], "width") is None
    assert find_attached(backbone, "other") is None


def test_a_note_survives_copies_and_is_no_part_of_the_weights() -> None:
    backbone = nn.Linear(2, 2)
    names = set(backbone.state_dict())
    attach(backbone, "width", 7)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        found = find_attached(twin, "width")
        assert found is not None
        assert (found.module, found.value) == (twin, 7)
    assert set(backbone.state_dict()) == names

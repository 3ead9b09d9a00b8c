"""Values attached to modules that belong to others: what has to travel with a backbone.

A backbone is a class of Transformers, and what PEFT wraps around it may be taken off or be absent
(`load_adapter`), so no field of ours is there for the router of a backbone, its measured width or its
checksum. An attribute of the backbone itself is the one place that `copy.deepcopy`, pickling and a change of
wrapper keep; a table of ours, by module, would lose the value with the first copy. These two functions alone
write and read such attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Attached", "attach", "find_attached"]

PREFIX = "graftwork_"


class Attached(NamedTuple):
    """A value and the module that has it."""

    module: nn.Module
    value: Any


def attach(module: nn.Module, name: str, value: Any) -> None:
    """Attach a value to a module, in the place of an earlier one of this name.

    Args:
        module: the backbone.
        name: of the value.
        value: neither a tensor nor a module: `nn.Module` would make those its own parts.
    """
    setattr(module, PREFIX + name, value)


def find_attached(model: nn.Module, name: str) -> Attached | None:
    """The value of this name on `model` or on the first of its parts that has one; None if there is none."""
    for module in model.modules():
        # Not `getattr`: wrappers hand on the attributes of what they wrap.
        if (value := vars(module).get(PREFIX + name)) is not None:
            return Attached(module, value)
    return None

"""The entry of graftwork in PEFT's list of methods."""

from __future__ import annotations

from peft import PeftType

__all__ = ["GRAFT"]

_NAME = "GRAFT"


def _extend_peft_type(name: str) -> PeftType:
    """Add `name` to the `PeftType` enumeration, which `register_peft_method` insists on.

    Python has no public way to extend an enumeration. A plain string in place of a member passes through
    PEFT but breaks `load_adapter` of transformers, which reads `peft_type.value`.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    return member


GRAFT = _extend_peft_type(_NAME)

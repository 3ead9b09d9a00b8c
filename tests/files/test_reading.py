from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from graftwork.files.reading import (
    LARGEST_YAML,
    exists,
    is_finite,
    parse_json,
    parse_yaml,
    read_json,
    read_regular,
    read_yaml_text,
    user_path,
)
from graftwork.messages import listed, shown


def bomb(levels: int = 12, merge: bool = False) -> str:
    lines = ["a0: &a0 {x: y}" if merge else "a0: &a0 [x, x]"]
    for i in range(1, levels):
        inner = ", ".join([f"*a{i - 1}"] * 9)
        lines.append(f"a{i}: &a{i} " + (f"{{<<: [{inner}], k{i}: 1}}" if merge else f"[{inner}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "more than 50,000 values"),
        (bomb(merge=True), "more than 50,000 values"),
        ("a: &a [*a]", r"\*a stands inside of what it stands for"),
        ("[" * 100_000, "nested more than 40 levels deep"),
        (
            "a: &a " + "[" * 21 + "]" * 21 + "\nb: " + "[" * 20 + "*a" + "]" * 20,
            "40 levels",
        ),
        ("r: 1\nR: 2\nr: 3", "'r' is given twice.*line 3"),
        ("seed: " + "9" * 5000, "is not what its form says.*line 1"),
        ("a: 1\nb: 2020-99-99", "'2020-99-99' is not what its form says.*line 2"),
        ("!!python/object/apply:os.system ['exit']", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        parse_yaml(text)
    assert re.search(message, " ".join(str(caught.value).split()))


def test_yaml_that_is_read_as_before() -> None:
    text = "base: &base {r: 4, k: 2}\none: {<<: *base, r: 8}\ntwo: *base\nday: 2020-01-01\nlist: [1, on, ~]"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "more than 4,300 digits"),
        ("{", "Expecting property"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "endless", "loop", "missing", "."):
        with pytest.raises(OSError, match=r"regular|symbolic|No such"):
            read_json(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps([1]))
    assert read_json(tmp_path / "a.json") == [1]


def test_a_recipe_has_a_largest_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger than"):
        read_yaml_text(Path("/dev/zero"))
    path = tmp_path / "a.yaml"
    path.write_text("x" * LARGEST_YAML)
    assert len(read_yaml_text(path)) == LARGEST_YAML


def test_values_are_shown_in_bounded_size() -> None:
    value: list[object] = ["x"]
    for _ in range(60):
        value = [value] * 9
    assert len(shown(value)) <= 300
    assert shown("a" * 10**6).startswith("'aaaa")
    assert len(shown("a" * 10**6)) <= 300
    assert shown(10**5000) == "a int too long to print"
    assert [shown(item) for item in ("x", 1.5, None, ["a", 2])] == ["'x'", "1.5", "None", "['a', 2]"]
    assert listed(range(12), 3) == "0, 1, 2 and 9 more"
    assert listed(["a" * 99]) == "a" * 57 + "..."


def test_what_cannot_be_a_path_does_not_exist() -> None:
    assert not exists(Path("a\0b"))
    assert not exists(Path("a" * 5000))
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "1", None, [1]])
def test_what_is_no_finite_number(value: object) -> None:
    assert not is_finite(value)
    assert is_finite(3)
    assert is_finite(0.5)

"""What the documents name is there."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import graftwork
from graftwork.cli.parser import build_parser

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(ROOT.glob("docs/*.md"))


def functions_in(path: Path) -> set[str]:
    """Functions and classes of a test file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def named(text: str) -> list[tuple[str, str]]:
    """(file, test) of every `test_x.py::test_y`; `::test_z` alone is in the file named before it."""
    found, file = [], ""
    for name, test in re.findall(r"`((?:\w+/)*test_\w+\.py)?(?:::(\w+))?`", text):
        file = name or file
        if name or test:
            found.append((file, test))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tests_that_are_named_exist(document: Path) -> None:
    for file, test in named(document.read_text(encoding="utf-8")):
        path = ROOT / "tests" / file
        assert path.is_file(), f"{document.name} names {file}"
        assert not test or test in functions_in(path), f"{document.name} names {file}::{test}"


def test_there_are_tests_named() -> None:
    found = named((ROOT / "docs/compatibility.md").read_text(encoding="utf-8"))
    assert len(found) > 50
    assert named("`test_a.py::test_b`, `::test_c`; `experiments/test_d.py`") == [
        ("test_a.py", "test_b"),
        ("test_a.py", "test_c"),
        ("experiments/test_d.py", ""),
    ]


TEXTS = [
    *(
        path
        for pattern in ("*.md", "docs/**/*.md", "docs/*.py", "recipes/**/*.yaml")
        for path in ROOT.glob(pattern)
    ),
    *(path for place in ("src", "tests", "benchmarks") for path in (ROOT / place).rglob("*.py")),
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
]
PUBLIC = set(graftwork.__all__) | {"__version__", "__file__", "__all__"}
OTHER = ("py", "md", "json", "git", "yaml")
"""Endings of files that are called after the package."""


def exists(name: str) -> bool:
    """Whether a dotted name below `graftwork` is a module, or a name that stands in one."""
    *parts, last = name.split(".")
    for length in range(len(parts) + 1, 0, -1):
        place = ROOT.joinpath("src/graftwork", *[*parts, last][:length])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                rest = [*parts, last][length:]
                return not rest or re.search(rf"\b{rest[0]}\b", path.read_text(encoding="utf-8")) is not None
    return name.split(".")[0] in PUBLIC


def test_the_modules_that_are_named_exist() -> None:
    wrong = []
    for path in set(TEXTS) - {ROOT / "CHANGELOG.md", Path(__file__)}:
        text = path.read_text(encoding="utf-8").replace("\\.", ".")
        names = re.findall(r"(?<![\w/.-])graftwork\.([a-z_]+(?:\.\w+)*)", text)
        files = re.findall(r"(?<!\w)(?:(?:src/graftwork|benchmarks|tests)/[\w/]+\.py)", text)
        wrong += [(path.name, name) for name in names if name not in OTHER and not exists(name)]
        wrong += [(path.name, file) for file in files if not (ROOT / file).is_file()]
    assert wrong == []


def test_the_commands_are_understood() -> None:
    """Of `graftwork export`, as the others stand with placeholders that only look like options."""
    text = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    commands = re.findall(r"^graftwork .+$", text, flags=re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        build_parser().parse_args(shlex.split(command, comments=True)[1:])


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src/graftwork"


def names_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Functions, classes and constants of a module or a class, each with its own body."""
    found: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.body
        elif isinstance(node, ast.Assign):
            found |= {target.id: [] for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = []
    return found


def place(name: str) -> Path:
    """The file or folder that a page calls by a path inside the package, the repository or the tests."""
    roots = (SOURCE, ROOT, ROOT / "tests")
    return next((root / name for root in roots if (root / name).exists()), SOURCE / name)


def missing(text: str) -> list[str]:
    """The paths in a text, and the `file.py::Class.method`, that do not exist."""
    wrong = [name for name in re.findall(r"`((?:\w+/)+)`", text) if not place(name).is_dir()]
    for file, names in re.findall(r"`((?:\w+/)*\w+\.(?:py|toml))(?:::([\w.]+))?`", text):
        path = place(file)
        if not path.is_file():
            wrong.append(file)
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body if names else []
        for name in names.split(".") if names else []:
            found = names_in(body)
            if name not in found:
                wrong.append(f"{file}::{names}")
                break
            body = found[name]
    return wrong


def test_what_is_missing_is_found() -> None:
    good = (
        "`tuner/layer.py::GraftLayer.forward`, `gates/registry.py::GATE_FAMILIES`, `test_docs.py`, `gates/`"
    )
    assert missing(good) == []
    assert missing(
        "`tuner/layers.py`, `gate/`, `tuner/layer.py::GraftLayer.forwards`, `cli/use.py::GraftLayer`"
    ) == [
        "gate/",
        "tuner/layers.py",
        "tuner/layer.py::GraftLayer.forwards",
        "cli/use.py::GraftLayer",
    ]


def test_the_functions_of_the_architecture_exist() -> None:
    assert len(re.findall(r"`[\w/]+\.py::", ARCHITECTURE)) > 50
    assert missing(ARCHITECTURE) == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_files_of_the_first_pages_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\(([^):#]+)\)", text) if not (ROOT / link).exists()] == []
    assert "(docs/architecture.md)" in text


def test_the_levels_are_those_that_are_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["id"] == "levels")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .", ARCHITECTURE, flags=re.MULTILINE)
    expected = [
        (len(layers) - index, name)
        for index, layer in enumerate(layers)
        for name in re.split(r" *[|:] *", layer)
    ]
    assert [(int(level), name) for level, name in rows] == expected


def test_what_make_check_runs_is_said() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (parts,) = re.findall(r"^check: ([\w ]+)  ##", makefile, flags=re.MULTILINE)
    (line,) = re.findall(r"^make check +# (.+)$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert line.partition(":")[0].split(", ") == parts.split()


PAST = re.compile(
    r"\b(no longer|formerly|previously|used to be|since then|before the move|until 0\.\d)\b", re.IGNORECASE
)


def test_the_source_does_not_tell_its_history() -> None:
    """That is for CHANGELOG.md and docs/decisions.md; a comment says why a line is as it is."""
    lines = [
        f"{path.name}:{number}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if PAST.search(line)
    ]
    assert lines == []

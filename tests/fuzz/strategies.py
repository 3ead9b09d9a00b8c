"""Broken and hostile values, files and folders."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from guard import MARKER
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

DEEP = 20_000
TEXTS = [
    "",
    " ",
    "x",
    "default",
    "\0",
    "a\0b",
    "a" * 300,
    "a" * 70_000,
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "~nobody-at-all/x",
    "$NOT_SET_ANYWHERE",
    "${HOME",
    "${HOME:-${HOME}}",
    "file:",
    "file:/dev/zero",
    "file:/etc/passwd",
    "file:\0",
    "task:a:/etc",
    "task::x",
    "package:os",
    "package:json/../../../../../../etc/passwd",
    "package:json//etc/passwd",
    "package:../x",
    "package:__main__/x",
    "package:",
    "hub:",
    "hub:../../etc",
    "hub:/etc/passwd",
    "hub:a/b/c/d:e",
    "\ud800",
    "\ufeffx",
    "\u202eabc\u2028\u0085",
    "😀",
    "((a+)+)+$",
    "(.*.*.*.*.*.*.*.*)*x",
    "(",
    "[a-",
    "(?P<n>",
    ".*",
    "&a [*a]",
    "{a: [",
    "[" * DEEP,
    "!!python/object/apply:os.mknod ['" + str(MARKER) + "']",
    "!!python/name:os.system",
    "nan",
    "1e-3",
    "1e999",
    "9" * 5000,
    "true",
    "null",
    "2020-99-99",
    "%s%n{0}{x!r}",
    "[bold]x[/nope]",
]
NUMBERS: list[Any] = [0, 1, -1, 2, 3, 5, 255, 2**31, 2**63, -(2**63), 10**6, 10**12, 10**30, 10**400]
NUMBERS += [0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 1.5]

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.text(max_size=12)
)
keys = st.sampled_from(TEXTS) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=6,
) | st.sampled_from([[[[[[1]]]]], [0] * 3000, ["x"] * 1000, {str(i): i for i in range(1000)}])


def places(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a tree of lists and dictionaries."""
    found = [here]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        found += places(value, (*here, key))
    return found


def replaced(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The tree with another part; `...` removes it."""
    if not place:
        return None if value is ... else value
    tree = copy.copy(tree)
    if len(place) > 1:
        tree[place[0]] = replaced(tree[place[0]], place[1:], value)
    elif value is ...:
        del tree[place[0]]
    else:
        tree[place[0]] = value
    return tree


def _at(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


@st.composite
def broken_trees(draw: st.DrawFn, tree: Any, parts: st.SearchStrategy[Any] = values) -> Any:
    """A tree with one to three parts replaced, removed, added, moved or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(tree)))
        part = _at(tree, place)
        how = draw(st.sampled_from(["replace", "replace", "remove", "add", "move", "wrap", "repeat"]))
        if how == "replace":
            tree = replaced(tree, place, draw(parts))
        elif how == "remove":
            tree = replaced(tree, place, ...)
        elif how == "move":
            tree = replaced(tree, place, copy.deepcopy(_at(tree, draw(st.sampled_from(places(tree))))))
        elif how == "wrap":
            tree = replaced(tree, place, [part])
        elif isinstance(part, dict) and how == "add":
            tree = replaced(tree, place, {**part, draw(keys): draw(parts)})
        elif isinstance(part, list) and part and how == "repeat":
            tree = replaced(tree, place, part * draw(st.sampled_from([2, 50, 2000])))
        else:
            tree = replaced(tree, place, draw(parts))
        if not isinstance(tree, dict | list):
            break
    return tree


@st.composite
def broken_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bits flipped, a piece lost, repeated or overwritten, something in front or behind."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        how = draw(
            st.sampled_from(["flip", "flip", "cut", "lose", "repeat", "zero", "insert", "front", "end"])
        )
        spot = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.sampled_from([1, 2, 8, 64, 1000]))
        if how == "flip" and data:
            data[spot] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[spot:]
        elif how == "lose":
            del data[spot : spot + size]
        elif how == "repeat":
            data[spot:spot] = data[spot : spot + size] * draw(st.sampled_from([1, 3, 50]))
        elif how == "zero":
            data[spot : spot + size] = bytes(min(size, len(data) - spot))
        else:
            junk = draw(st.binary(max_size=9) | st.sampled_from(JUNK))
            at = {"front": 0, "end": len(data)}.get(how, spot)
            data[at:at] = junk
    return bytes(data)


JUNK = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\x00\x00", b"\0", b"\r", b"\n", b'"', b"'", b"{", b"[" * 3000]
JUNK += [b"\xed\xa0\x80", b"\x80", b"\xf4\x90\x80\x80", b'{"a":' * 3000, b"&a [*a,*a]", b"9" * 5000, b"\t"]


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mknod, (str(MARKER),)


def pickle_bomb(path: Path, *, zipped: bool = False) -> None:
    """A file that makes `MARKER` if it is unpickled, bare or as `torch.save` writes it."""
    if zipped:
        torch.save({"state": _Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(_Bomb()))


PICKLES = ("adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
PICKLES += ("pytorch_model.bin", "heads.bin", "model.pt", "data.pkl")


def special_files(path: Path, how: str) -> None:
    """Put something in a file's place that is no regular file of its own."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    {
        "missing": lambda: None,
        "empty": path.touch,
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "dangling": lambda: path.symlink_to("nowhere"),
        "endless": lambda: path.symlink_to("/dev/zero"),
        "null": lambda: path.symlink_to("/dev/null"),
        "foreign": lambda: path.symlink_to("/etc/passwd"),
        "pipe": lambda: os.mkfifo(path),
        "unpickled": lambda: pickle_bomb(path),
    }[how]()


SPECIAL = (
    "missing",
    "empty",
    "folder",
    "loop",
    "dangling",
    "endless",
    "null",
    "foreign",
    "pipe",
    "unpickled",
)


@st.composite
def broken_tensors(draw: st.DrawFn, path: Path) -> Callable[[Path], None]:
    """A function that writes a valid safetensors file with other tensors than `path` has."""
    tensors = load_file(path)
    names = sorted(tensors)
    name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    how = draw(
        st.sampled_from(["drop", "rename", "add", "swap", "turn", "fill", "dtype", "empty", "grow", "same"])
    )
    tensor = tensors[name]
    if how == "drop":
        del tensors[name]
    elif how == "rename":
        tensors[draw(keys.filter(lambda key: key.isprintable() and len(key) < 99))] = tensors.pop(name)
    elif how == "add":
        tensors[name + draw(st.sampled_from(["2", ".x", "", ".default"]))] = tensor.clone()
    elif how == "swap":
        tensors[name], tensors[other] = tensors[other], tensor
    elif how == "turn":
        tensors[name] = tensor.flatten() if tensor.dim() < 2 else tensor.T.contiguous()
    elif how == "fill":
        number = draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, 3.0, -1.0, 0.5]))
        tensors[name] = tensor.clone()
        flat = tensors[name].view(-1)
        flat[draw(st.integers(0, len(flat) - 1))] = number
    elif how == "dtype":
        kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool]
        kinds += [torch.complex64, torch.float8_e4m3fn, torch.uint8]
        tensors[name] = tensor.to(draw(st.sampled_from(kinds)))
    elif how == "empty":
        tensors[name] = tensor[:0].clone()
    elif how == "grow":
        tensors[name] = torch.cat([tensor.reshape(1, -1)] * draw(st.sampled_from([2, 100]))).contiguous()
    whole = {key: value.contiguous().clone() for key, value in tensors.items()}
    return lambda target: save_file(whole, target)


def absurd_header(path: Path, shape: list[int], size: int = 4) -> None:
    """A safetensors file whose header promises more than there is."""
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))

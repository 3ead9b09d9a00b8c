from __future__ import annotations

import subprocess
import sys
import types

import graftwork as gw


def test_all_equals_the_public_names():
    for name in gw.__all__:  # some are loaded on first use
        getattr(gw, name)
    public = {
        name
        for name, value in vars(gw).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    } - {"annotations", "TYPE_CHECKING", "import_module"}
    assert sorted(public) == sorted(gw.__all__)
    assert list(gw.__all__) == sorted(gw.__all__)
    for name in gw.__all__:
        assert getattr(gw, name).__doc__, f"{name} has no docstring"


def _modules_after(statement: str) -> set[str]:
    script = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light():
    extra = _modules_after("import graftwork") - _modules_after("import peft")
    heavy = {"datasets", "matplotlib", "sklearn", "pandas", "jsonargparse", "rich"}
    assert {name.partition(".")[0] for name in extra} & heavy == set()
    assert {name for name in extra if name.startswith("transformers.models.")} == set()

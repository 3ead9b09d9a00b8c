"""A model is pushed to a hub and loaded from there by its name: over real HTTP, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_hub import TOKEN, FakeHub, Repo, fake_hub
from graftwork.cli import main
from graftwork.models.predictor import load
from toyrun import recipe_dict, write_backbone, write_recipe, write_tasks

ROWS = [{"text": "red stone river"}, {"text": "lamp blue"}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `runs/toy` whose backbone is, by its name, one of the hub: `alice/bert`."""
    folder = tmp_path_factory.mktemp("sharing")
    write_backbone(folder / "alice/bert")
    write_tasks(folder / "data")
    recipe = {**recipe_dict(folder), "model": str(folder / "alice/bert"), "output": str(folder / "runs/toy")}
    recipe["training"]["epochs"] = 1
    main(["fit", str(write_recipe(folder, recipe))])
    for name in ("tasks.json", "recipe.yaml"):
        path = folder / "runs/toy" / name
        path.write_text(path.read_text().replace(str(folder / "alice/bert"), "alice/bert"))
    (folder / "runs/toy/optimizer.bin").write_bytes(b"state")
    (folder / "runs/toy/checkpoint-3").mkdir()
    (folder / "runs/toy/checkpoint-3/weights.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        yield found


class Shell:
    """Commands of graftwork in processes of their own, which know this hub."""

    def __init__(self, hub: FakeHub, folder: Path, cache: Path) -> None:
        self.hub, self.folder, self.cache = hub, folder, cache

    def __call__(self, *words: str, code: int = 0, stdin: str = "", **environment: str) -> tuple[str, str]:
        """Standard output and standard error; the token is in neither."""
        own = {**os.environ, "HOME": str(self.cache), **self.hub.environment(self.cache), **environment}
        own = {name: value for name, value in own.items() if value}
        command = [sys.executable, "-m", "graftwork", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=own, input=stdin, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def refusal(self, *words: str, **environment: str) -> str:
        error = self(*words, code=2, **environment)[1].splitlines()
        lines = [line for line in error if not line.startswith("note: ")]
        assert len(lines) == 1, error
        return lines[0]


@pytest.fixture
def shell(hub: FakeHub, trained: Path, tmp_path: Path) -> Shell:
    return Shell(hub, trained, tmp_path / "cache")


def test_a_model_is_pushed_and_predicts_the_same_in_a_fresh_cache(
    hub: FakeHub, shell: Shell, trained: Path, tmp_path: Path
) -> None:
    out, _ = shell("push", "runs/toy", "bob/two-tasks", "--private", "--message", "Share it")
    repo = hub.repos["bob/two-tasks"]
    assert repo.private
    assert repo.messages == ["initial commit", "Share it"]
    sent = repo.files()
    assert sorted(sent) == [
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "heads.safetensors",
        "recipe.yaml",
        "report.json",
        "structure.json",
        "structure.png",
        "tasks.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "not part of the model: checkpoint-3, optimizer.bin" in out
    assert f"sent to {hub.address}/bob/two-tasks/commit/" in out
    assert 'gw.load("bob/two-tasks")' in sent["README.md"].decode()
    for name in ("tasks.json", "adapter_model.safetensors"):
        assert sent[name] == (trained / "runs/toy" / name).read_bytes()
    # The backbone goes to the hub, too, and is gone from this machine's folder of the second process.
    hub.repos["alice/bert"] = Repo(private=False)
    bert = {path.name: path.read_bytes() for path in (trained / "alice/bert").iterdir()}
    hub.repos["alice/bert"].commit("main", bert, "weights")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = Shell(hub, elsewhere, tmp_path / "fresh")
    hub.calls.clear()
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    there, said = other("predict", "bob/two-tasks", "--task", "colour", stdin=rows)
    assert f"bob/two-tasks is a model of the hub, at revision {repo.branches['main']}." in said
    assert not {"README.md", "structure.png", ".gitattributes"} & set(hub.downloads())
    # Now everything is in the cache.
    script = (
        "import graftwork as gw, json; model = gw.load('hub:bob/two-tasks', revision='main'); "
        f"print(json.dumps(model.predict({ROWS!r}, task='colour')))"
    )
    offline = {**os.environ, **hub.environment(tmp_path / "fresh"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=elsewhere, env=offline, capture_output=True, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        here = load("runs/toy").predict(ROWS, task="colour")
        shorter = load("runs/toy").predict(ROWS, task="colour", digits=6)
    assert json.loads(done.stdout) == here
    assert [json.loads(line) for line in there.splitlines()] == shorter


def test_show_fetches_the_structure_alone(hub: FakeHub, shell: Shell, trained: Path, tmp_path: Path) -> None:
    shell("push", "runs/toy", "bob/shown")
    other = Shell(hub, tmp_path, tmp_path / "fresh")
    hub.calls.clear()
    out, _ = other("show", "bob/shown", "--json")
    assert json.loads(out)["tasks"] == ["colour", "same", "length"]
    assert hub.downloads() == ["structure.json"]
    assert "only a part of it is in the cache" in other.refusal(
        "predict", "bob/shown", "--task", "colour", HF_HUB_OFFLINE="1"
    )


def test_a_revision_is_a_branch(hub: FakeHub, shell: Shell, trained: Path, tmp_path: Path) -> None:
    shell("push", "runs/toy", "bob/branched", "--revision", "v2")
    repo = hub.repos["bob/branched"]
    assert "tasks.json" in repo.files("v2")
    assert "tasks.json" not in repo.files("main")
    other = Shell(hub, tmp_path, tmp_path / "fresh")
    assert "colour" in other("show", "bob/branched", "--revision", "v2")[0]
    assert "no such revision" in other.refusal("show", "bob/branched", "--revision", "v3")
    assert "has none of structure.json" in other.refusal("show", "bob/branched")


def test_pushed_again_the_parts_of_the_earlier_model_go(hub: FakeHub, shell: Shell, trained: Path) -> None:
    shell("push", "runs/toy", "bob/again")
    repo = hub.repos["bob/again"]
    files = {**repo.files(), "LICENSE": b"mine", "vocab.txt": b"old"}
    repo.commit("main", files, "by hand")
    shell("push", "runs/toy", "bob/again")
    assert "vocab.txt" not in repo.files()
    assert repo.files()["LICENSE"] == b"mine"


def test_a_local_folder_wins(hub: FakeHub, shell: Shell, trained: Path) -> None:
    shell("show", "runs/toy")
    assert hub.calls == []
    assert "has no revisions" in shell.refusal("show", "runs/toy", "--revision", "main")
    assert "For a model of the hub write hub:runs/toi." in shell.refusal("show", "runs/toi")
    assert hub.calls == []
    assert "there is no such model" in shell.refusal("show", "hub:runs/toi")


def test_what_is_not_there_is_one_line(hub: FakeHub, shell: Shell, trained: Path) -> None:
    said = shell.refusal("show", "bob/none", HF_HUB_OFFLINE="1")
    assert "bob/none is no folder here" in said
    assert "HF_HUB_OFFLINE is set" in said
    assert "there is no such model" in shell.refusal("show", "bob/none")
    said = shell.refusal("show", "bob/none", HF_ENDPOINT="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in said


FAILURES = {
    "create 401": (("POST", "repos/create"), 401, "does not accept the token"),
    "create 403": (("POST", "repos/create"), 403, "the token does not allow this"),
    "create 404": (("POST", "repos/create"), 404, "no such model, user"),
    "commit 409": (("POST", "/commit/"), 409, "somebody else has changed it"),
    "preupload 404": (("POST", "/preupload/"), 404, "no such model, user"),
    "lfs 403": (("PUT", "/lfs/"), 403, "the token does not allow this"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_upload_is_reported(case: str, hub: FakeHub, shell: Shell, trained: Path) -> None:
    where, status, words = FAILURES[case]
    hub.fails[where] = (status, f"refused for {TOKEN}")
    said = shell.refusal("push", "runs/toy", "bob/broken")
    assert words in said
    assert f"HTTP {status}" in said
    assert all("tasks.json" not in repo.files() for repo in hub.repos.values())


def test_a_push_that_cannot_begin_is_refused(hub: FakeHub, shell: Shell, trained: Path) -> None:
    assert "there is no token" in shell.refusal("push", "runs/toy", "bob/x", HF_TOKEN="")
    assert "HF_HUB_OFFLINE is set" in shell.refusal("push", "runs/toy", "bob/x", HF_HUB_OFFLINE="1")
    assert hub.calls == []
    assert "cannot be reached" in shell.refusal("push", "runs/toy", "bob/x", HF_ENDPOINT="http://127.0.0.1:9")
    public = hub.repos["bob/public"] = Repo(private=False)
    public.commit("main", {}, "initial commit")
    assert "everybody can see it" in shell.refusal("push", "runs/toy", "bob/public", "--private")
    assert public.messages == ["initial commit"]

"""Model cards: true to the folder, valid for the hub, the same every time, and never over a text by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

import graftwork as gw
from graftwork.cards.markdown import code, codes, table
from graftwork.cards.metadata import METRICS, source_of
from graftwork.cards.writing import is_replaceable, model_name, signed, write_card
from graftwork.cli import main
from graftwork.hub.names import is_backbone_id, is_model_id
from graftwork.kinds.registry import KINDS
from graftwork.models.files import FILES, card_of
from graftwork.models.folder import load_model
from toyrun import recipe_dict, write_backbone, write_recipe, write_run, write_tasks
from toys import tiny

SAVED = Path(__file__).parents[1] / "saved"
TEMPLATE = "More Information Needed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    recipe = recipe_dict(folder)
    recipe["training"]["epochs"] = 1
    main(["fit", str(write_recipe(folder, recipe))])
    return folder


def card_in(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_card_of_a_fit_says_what_the_report_says(trained: Path) -> None:
    card, report = card_in(trained / "out"), json.loads((trained / "out/report.json").read_text())
    assert card.data.library_name == "graftwork"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.metrics == ["accuracy", "f1", "spearmanr"]
    assert card.data.base_model is None
    assert card.data.license == "unknown"
    results = {result.task_name: result for result in card.data.eval_results}
    for task, found in report["tasks"].items():
        assert results[task].metric_value == round(found["test"], 4)
        assert results[task].dataset_args == {"sha256": found["sha256"]["test"]}
        figures = [found[name] for name in ("test", "linear_probe", "majority", "validation")]
        row = " | ".join(["", f"`{task}`", found["metric"], *(f"{value:.3f}" for value in figures)])
        assert row.strip() in card.text
        digest = found["sha256"]["train"][:16]
        assert f"| `{task}` | train | `{digest}` | {found['rows']['train']} |" in card.text
    assert f"| adapters, stored | {report['parameters']['stored']:,} |" in card.text
    assert "![Open adapters of every task, site and layer](structure.png)" in card.text
    assert TEMPLATE not in card.content
    assert str(trained) not in card.content
    block = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert block is not None
    names: dict[str, object] = {}
    exec(block[1].replace("USER/out", str(trained / "out")), names)


def test_every_command_that_writes_a_model_writes_its_card(trained: Path, tmp_path: Path) -> None:
    out = str(trained / "out")
    main(["extract", out, "colour", str(tmp_path / "one")])
    main(["remove-task", out, "same", "-o", str(tmp_path / "two")])
    one, two = card_in(tmp_path / "one"), card_in(tmp_path / "two")
    assert one.data.library_name == two.data.library_name == "graftwork"
    assert [result.task_name for result in one.data.eval_results] == ["colour"]
    assert "task `same` was removed" in two.text
    assert "`same` |" not in two.text
    assert "multi-task" not in one.data.tags


def test_a_card_is_the_same_every_time(trained: Path) -> None:
    text = (trained / "out/README.md").read_text()
    assert signed(card_of(trained / "out", "out")) == text
    assert not re.search(r"20\d\d-\d\d", text)


def test_a_folder_without_a_report_has_a_card(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(SAVED / "finished", tmp_path / "old")
    (tmp_path / "old/report.json").unlink()
    text = card_of(tmp_path / "old", "old")
    assert "its scores are not known here" in text
    assert ModelCard(text).data.eval_results is None


def test_scores_that_are_no_numbers_are_left_out_of_the_metadata(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "finished", tmp_path / "old")
    report = json.loads((tmp_path / "old/report.json").read_text())
    report["tasks"]["length"]["test"] = float("nan")
    (tmp_path / "old/report.json").write_text(json.dumps(report))
    card = ModelCard(card_of(tmp_path / "old", "old"))
    assert [result.task_name for result in card.data.eval_results] == ["colour", "same"]
    assert re.search(r"\| `length` \| spearman \| - \|", card.text)


def test_a_backbone_and_data_of_the_hub_are_named(tmp_path: Path) -> None:
    shutil.copytree(SAVED / "finished", tmp_path / "old")
    for name, key in (("tasks.json", "model"), ("report.json", "")):
        values = json.loads((tmp_path / "old" / name).read_text())
        if key:
            values[key] = "alice/bert"
        else:
            values["recipe"]["tasks"][0] |= {"train": "hub:bob/colours/plain:train", "test": None}
        (tmp_path / "old" / name).write_text(json.dumps(values))
    card = ModelCard(card_of(tmp_path / "old", "old", "carol/old"))
    assert card.data.base_model == "alice/bert"
    assert card.data.datasets == ["bob/colours"]
    assert card.data.eval_results[0].dataset_type == "bob/colours"
    assert card.data.eval_results[0].dataset_config == "plain"
    assert 'gw.load("carol/old")' in card.text
    assert "--backbone" not in card.text


def test_a_plain_adapter_has_a_card_of_what_is_known(tmp_path: Path) -> None:
    tiny().save_pretrained(str(tmp_path / "base"))
    backbone = AutoModel.from_pretrained(str(tmp_path / "base"))
    model = get_peft_model(backbone, gw.GraftConfig(tasks=["cats", "do|gs"], budget=0.05, pool_size=4))
    model.save_pretrained(str(tmp_path / "learning"))
    gw.compact_(model)
    model.save_pretrained(str(tmp_path / "compact"))
    gw.save_compact(model, tmp_path / "again")
    for name in ("learning", "compact", "again"):
        card = card_in(tmp_path / name)
        assert TEMPLATE not in card.content
        assert str(tmp_path) not in card.content
        assert card.data.library_name == "peft"
        assert card.data.base_model is None
        assert "`do\\|gs`" in card.text
    stored = gw.structure_of(model).parameters()
    assert f"| stored parameters | {stored:,} |" in card_in(tmp_path / "compact").text
    assert "still being learned" in card_in(tmp_path / "learning").text


@pytest.mark.filterwarnings("ignore:Could not find a config file in alice/bert")
def test_a_backbone_with_a_name_of_the_hub_is_the_base_model(tmp_path: Path) -> None:
    backbone = tiny()
    backbone.config._name_or_path = backbone.name_or_path = "alice/bert"
    get_peft_model(backbone, gw.GraftConfig(tasks=["a"])).save_pretrained(str(tmp_path))
    card = card_in(tmp_path)
    assert card.data.base_model == "alice/bert"
    assert "base_model:adapter:alice/bert" in card.data.tags


def test_other_methods_keep_the_card_of_peft(tmp_path: Path) -> None:
    model = get_peft_model(tiny(), LoraConfig(target_modules=["attention.output.dense"]))
    model.save_pretrained(str(tmp_path))
    assert TEMPLATE in (tmp_path / "README.md").read_text()


def test_a_text_by_hand_stays(tmp_path: Path) -> None:
    own = "---\nlicense: mit\n---\n\n# My model\n"
    (tmp_path / "README.md").write_text(own)
    model = get_peft_model(tiny(), gw.GraftConfig(tasks=["a"]))
    model.save_pretrained(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == own


def test_a_card_that_was_changed_is_somebodys_own(tmp_path: Path) -> None:
    assert write_card(tmp_path, "# one")
    assert write_card(tmp_path, "# two")
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("# two", "# two, by me"))
    assert not write_card(tmp_path, "# three")
    assert "by me" in path.read_text()
    path.write_bytes(b"\xff\xfe")
    assert not write_card(tmp_path, "# three")


def test_half_a_character_does_not_keep_a_card_from_being_written(tmp_path: Path) -> None:
    assert write_card(tmp_path, f"# {code(chr(0xD800))}")
    assert is_replaceable((tmp_path / "README.md").read_text(encoding="utf-8"))


def test_the_template_of_peft_may_be_replaced(tmp_path: Path) -> None:
    model = get_peft_model(tiny(), LoraConfig(target_modules=["attention.output.dense"]))
    model.save_pretrained(str(tmp_path))
    text = (tmp_path / "README.md").read_text()
    assert is_replaceable(text)
    assert not is_replaceable(text.replace(f"[{TEMPLATE}]", "known", 20))


def test_overwriting_a_model_keeps_a_text_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    recipe = str(tmp_path / "recipe.yaml")
    quick = ["--set", "training.epochs=1"]
    main(["fit", recipe, *quick])
    (tmp_path / "out/README.md").write_text("# Mine\n")
    main(["fit", recipe, *quick, "--overwrite"])
    assert (tmp_path / "out/README.own.md").read_text() == "# Mine\n"
    assert "# out" in (tmp_path / "out/README.md").read_text()
    assert "is kept as README.own.md" in capsys.readouterr().err
    main(["fit", recipe, *quick, "--overwrite"])
    assert (tmp_path / "out/README.own.md").read_text() == "# Mine\n"
    assert "is kept as" not in capsys.readouterr().err


def test_names_stay_what_they_are_in_markdown() -> None:
    assert code("a|b") == "`a\\|b`"
    assert code("a`b\n<b>") == "`` a`b <b> ``"
    assert len(code("x" * 500)) == 62
    assert codes([str(n) for n in range(14)]).endswith("`11` and 2 more")
    assert table(["a", "b"], [["1", "2"]], numbers=1).splitlines()[1] == "| --- | ---: |"


@pytest.mark.parametrize(
    ("name", "model", "backbone"),
    [
        ("alice/bert", True, True),
        ("bert-base-uncased", False, True),
        ("./alice/bert", False, False),
        ("../backbone", False, False),
        ("/data/bert", False, False),
        ("package:x/model", False, False),
        ("$HOME/bert", False, False),
        ("a/b/c", False, False),
        ("a--b/c", False, False),
        ("a/b.", False, False),
    ],
)
def test_names_of_the_hub(name: str, model: bool, backbone: bool) -> None:
    assert is_model_id(name) is model
    assert is_backbone_id(name) is backbone


def test_a_folder_of_this_machine_is_no_backbone_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alice/bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_backbone_id("alice/bert")


def test_every_metric_has_a_name_on_the_hub() -> None:
    assert set(METRICS) == {metric for kind in KINDS.values() for metric in kind.metrics}


def test_models_are_named_after_their_folder(tmp_path: Path) -> None:
    assert model_name(tmp_path / "my model--1") == "my-model-1"
    assert model_name(Path("/")) == "model"


def test_sources_that_are_paths_are_not_named() -> None:
    report = {"recipe": {"tasks": [{"name": "a", "train": "/home/me/data"}]}}
    assert source_of(report, "a", "train") is None


def test_a_dry_run_lists_the_files(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["push", str(trained / "out"), "bob/toy", "--dry-run"])
    out = capsys.readouterr().out
    assert "nothing was sent" in out
    assert f"{(trained / 'out' / FILES.heads).stat().st_size:,} bytes" in out


REFUSED = {
    "no folder": lambda folder: shutil.rmtree(folder),
    "no heads": lambda folder: (folder / "heads.safetensors").unlink(),
    "damaged": lambda folder: (folder / "heads.safetensors").write_bytes(b"x"),
    "checkpoint": lambda folder: (folder / "trainer_state.json").write_text("{}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_finished_model_is_not_pushed(case: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "out", tmp_path / "copy")
    REFUSED[case](tmp_path / "copy")
    with pytest.raises(gw.GraftworkError):
        gw.push(tmp_path / "copy", "bob/toy", dry_run=True)


def test_a_name_that_is_none_of_the_hub_is_refused(trained: Path) -> None:
    with pytest.raises(gw.GraftworkError, match="give USER/MODEL"):
        gw.push(trained / "out", "toy", dry_run=True)


def test_a_model_of_the_hub_reads_no_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("SECRET", "seen")
    shutil.copytree(SAVED / "finished", tmp_path / "model")
    values = json.loads((tmp_path / "model/tasks.json").read_text())
    (tmp_path / "model/tasks.json").write_text(json.dumps({**values, "model": "eve/${SECRET}"}))
    with pytest.raises(gw.GraftworkError, match="which a model of the hub may not") as refused:
        load_model(tmp_path / "model")
    assert "seen" not in str(refused.value)


def test_the_metadata_are_yaml(trained: Path) -> None:
    text = (trained / "out/README.md").read_text()
    assert "license" in yaml.safe_load(text.split("---")[1])

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import distributed_worker as worker
import graftwork as gw
from graftwork.errors import DataError
from toy_pairs import write_pairs_run
from toy_search import classifier
from toyrun import write_backbone, write_recipe, write_run, write_tasks
from toys import TASKS, graft_layers, tiny, tokens

PROCESSES = 2
DDP = (
    "sharing",
    "not_wrapped",
    "trained_twice",
    "old_fsdp",
    "sigmoid",
    "hard_concrete",
    "several_tasks",
    "interrupted",
)
"""Scenarios of one launch, most of whose time goes to importing."""


def launch(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Two processes of a script or module, which meet on this machine alone."""
    run = "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)
    return subprocess.Popen(
        [sys.executable, "-m", *run, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str], seconds: float = 900) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output, errors


def scenarios(folder: Path, *names: str) -> dict[str, list[Any]]:
    """What every process has found in each scenario."""
    script = str(Path(worker.__file__))
    code, output, errors = finished(launch(script, str(folder), *names))
    assert code == 0, output + errors
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(PROCESSES)]
        for name in names
    }


def same_bits(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def ddp(tmp_path_factory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    return scenarios(folder, *DDP)


def test_what_processes_tell_each_other(ddp):
    for rank, found in enumerate(ddp["sharing"]):
        assert found["value"] == 5
        assert found["on_main"] == 0
        assert found["any"] == (True, False)
        assert found["first"] is (rank > 0)
        assert found["other"] == found["nested"] == "DataError True: process 1 has no data."
        assert found["main"] == "DataError True: process 0 has no data."
        assert found["after"] == "fine"


def test_ddp_computes_what_one_process_does(ddp, tmp_path):
    alone = worker.sigmoid(tmp_path)
    for found in ddp["sigmoid"]:
        assert found["structure"] == alone["structure"]
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        assert found["evaluation"] == pytest.approx(alone["evaluation"], abs=1e-4)
        for name, values in alone["weights"].items():
            torch.testing.assert_close(found["weights"][name], values, rtol=1e-3, atol=1e-4)
    assert alone["loss"][0] == pytest.approx(ddp["sigmoid"][0]["loss"][0], abs=1e-6)


def test_processes_end_with_one_structure_and_the_same_bits(ddp):
    check_alike(*ddp["hard_concrete"])


@pytest.mark.slow
def test_processes_agree_whatever_the_gates(tmp_path):
    for found in zip(*(found.values() for found in scenarios(tmp_path, "families")["families"]), strict=True):
        check_alike(*found)


def check_alike(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert len(first["gates"]) == worker.STEPS
    assert all(torch.equal(one, two) for one, two in zip(first["gates"], second["gates"], strict=True))
    assert first["structure"] == second["structure"]
    assert 300 - 66 < gw.Structure.from_json(first["structure"]).parameters() <= 300
    assert same_bits(first["weights"], second["weights"])


def test_decided_logits_do_not_move(ddp):
    gates = ddp["hard_concrete"][0]["gates"]
    decided = gates[round(0.6 * worker.STEPS) :]
    assert all(torch.equal(later, decided[0]) for later in decided)
    assert not torch.equal(gates[5], decided[0])


def test_several_processes_share_the_batches_of_mixed_tasks(ddp, tmp_path):
    alone = worker.several_tasks(tmp_path)
    first, second = ddp["several_tasks"]
    assert first["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    assert first["structure"] == second["structure"] == alone["structure"]
    assert [one + two for one, two in zip(first["seen"], second["seen"], strict=True)] == alone["seen"]
    epochs = alone["seen"][:6], alone["seen"][6:]
    assert epochs[0] != epochs[1]
    rows = [sorted(row for batch in epoch for row in batch) for epoch in epochs]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 48
    for name in (*TASKS, "mean"):
        assert first["scores"][f"test_{name}"] == pytest.approx(alone["scores"][f"test_{name}"], abs=1e-6)
    assert same_bits(first["weights"], second["weights"])
    assert {"adapter_model.safetensors", "heads.safetensors"} <= first["files"].keys()


def test_a_loop_without_ddp_is_refused(ddp):
    for message in ddp["not_wrapped"] + ddp["trained_twice"]:
        assert "different gradients" in message
        assert "DistributedDataParallel" in message


def test_flat_shards_are_refused(ddp):
    assert all("FSDP 1 keeps parameters as flat shards" in message for message in ddp["old_fsdp"])


def test_all_stop_after_the_same_step_when_one_is_interrupted(ddp):
    for found in ddp["interrupted"]:
        assert found["steps"] == 6
        assert found["checkpoint"].endswith("checkpoint-6")


@pytest.mark.slow
def test_fsdp_computes_what_one_process_does_and_is_saved_compact(tmp_path):
    first, second = scenarios(tmp_path, "fsdp")["fsdp"]
    alone = worker.sigmoid(tmp_path)
    assert first["sigmoid"]["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    decided = gw.Structure.from_json(first["sigmoid"]["structure"])
    assert decided == gw.Structure.from_json(alone["structure"])
    inputs = {"input_ids": tokens(4, 6), "graft_rows": torch.tensor([0, 1, 0, 1])}
    for gates in ("sigmoid", "hard_concrete", *worker.OTHERS):
        check_alike(first[gates], second[gates])
        structure = gw.Structure.from_json(first[gates]["structure"])
        for kind, adapters in (("saved", 12), ("compact", structure.parameters() // 66)):
            backbone = tiny("bert", "AutoModelForSequenceClassification", num_labels=2)
            model = PeftModel.from_pretrained(backbone, str(tmp_path / gates / kind)).eval()
            pools = [layer.pools["default"] for layer in graft_layers(model)]
            assert sum(pool.size for pool in pools) == adapters
            assert gw.structure_of(model).compacted() == structure
            with torch.no_grad():
                torch.testing.assert_close(model(**inputs).logits, first[gates]["logits"])
        assert json.loads((tmp_path / gates / "compact/adapter_config.json").read_text())["structure"]
    for step in (8, 16):
        assert same_bits(first[f"resumed {step}"], first["hard_concrete"]["weights"])
    assert "cannot be made compact in place" in first["refused"]
    assert "save_compact" in first["refused"]
    assert "MultiTaskTrainer trains copies of the model" in first["several tasks"]


@pytest.mark.slow
def test_fully_shard_in_a_loop_computes_what_one_process_does(tmp_path):
    first, second = scenarios(tmp_path, "fsdp_by_hand")["fsdp_by_hand"]
    alone = worker.fsdp_by_hand(tmp_path)
    assert first["sharded"] == "DTensor"
    assert alone["sharded"] == "Parameter"
    torch.testing.assert_close(first["start"], alone["start"])
    assert len(alone["start"].unique()) == 2
    assert first["structure"] == second["structure"]
    assert same_bits(first["weights"], second["weights"])


def test_a_model_that_stays_whole_is_saved_compact(tmp_path):
    model = classifier()
    structure = gw.discretise_(model)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    assert gw.save_compact(model, tmp_path / "compact") == structure.compacted()
    assert same_bits(model.state_dict(), whole)
    assert model.peft_config["default"].structure is None
    gw.compact_(model)
    model.save_pretrained(str(tmp_path / "usual"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        files = [(tmp_path / kind / name).read_bytes() for kind in ("compact", "usual")]
        if name.endswith("json"):
            files = [{**json.loads(file), "target_modules": 0} for file in files]
        assert files[0] == files[1]
    with pytest.raises(DataError, match="exists"):
        gw.save_compact(model, tmp_path / "compact")


def fitting(recipe: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    home = {"HOME": str(recipe.parent / "home")}
    return launch("-m", "graftwork", "fit", str(recipe), *options, **home, **environment)


@pytest.mark.slow
def test_fit_on_several_processes(tmp_path):
    recipe = write_run(tmp_path)
    code, output, errors = finished(fitting(recipe))
    assert code == 0, errors
    assert output.count("written to") == 1
    assert output.count("test scores") == 1
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]
    assert len(list((tmp_path / "home/.cache/graftwork").iterdir())) == 3
    assert 0 < report["parameters"]["stored"] <= report["parameters"]["budget"]
    scored = subprocess.run(
        [sys.executable, "-m", "graftwork", "evaluate", str(tmp_path / "out"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    for task, found in json.loads(scored.stdout)["tasks"].items():
        assert found["score"] == pytest.approx(report["tasks"][task]["test"], abs=1e-6)
    for options, environment, message in (
        ((), {}, "exists; choose another"),
        (
            ("--set", "training.batch_size=15", "--overwrite"),
            {},
            "batch_size=15 cannot be shared evenly by 2",
        ),
        (("--overwrite",), {"ACCELERATE_USE_FSDP": "true"}, "FSDP would spread it over the processes"),
    ):
        code, _, errors = finished(fitting(recipe, *options, **environment))
        assert code != 0
        assert errors.count("graftwork: ") == 1
        assert message in errors
        assert json.loads((tmp_path / "out/report.json").read_text()) == report


@pytest.mark.slow
def test_how_to_read_pairs_is_found_out_on_several_processes(tmp_path):
    path = write_pairs_run(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    for task in recipe["tasks"]:
        task.pop("pairs", None)
    code, _, errors = finished(fitting(write_recipe(tmp_path, recipe), "--no-diagnosis"))
    assert code == 0, errors
    report = json.loads((tmp_path / "out/report.json").read_text())
    heads = gw.load(tmp_path / "out").heads
    assert {name: choice["pairs"] for name, choice in report["pairs"].items()} == {
        name: heads[name].pairs for name in ("same", "near", "apart")
    }
    assert "separate" in {choice["pairs"] for choice in report["pairs"].values()}


@pytest.mark.slow
def test_a_family_of_budgets_on_several_processes(tmp_path):
    code, output, errors = finished(fitting(write_run(tmp_path), "--budgets", "10%,0.05"))
    assert code == 0, errors
    assert output.count("test scores of the models of one search") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.05", "0.1"]


@pytest.mark.slow
def test_ctrl_c_and_resume_on_several_processes(tmp_path):
    recipe = write_run(tmp_path)
    options = ("--set", "training.epochs=12")
    process = fitting(recipe, *options)
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("out.partial/checkpoint-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to launcher and processes alike
    code, _, errors = finished(process)
    assert code != 0
    assert errors.count("graftwork: interrupted at step") == 1
    assert not (tmp_path / "out").exists()
    code, output, errors = finished(fitting(recipe, *options, "--resume"))
    assert code == 0, errors
    assert output.count("written to") == 1
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.slow
def test_other_commands_are_refused_on_several_processes(tmp_path):
    code, _, errors = finished(launch("-m", "graftwork", "show", str(tmp_path)))
    assert code != 0
    assert errors.count("graftwork show runs in one process, not in 2") == 1


SHARD = """
import runpy, sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

create = Trainer.create_accelerator_and_postprocess

def sharding(trainer):
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    create(trainer)
    assert trainer.is_fsdp_enabled

Trainer.create_accelerator_and_postprocess = sharding
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""
"""Accelerate takes FSDP only where there is a GPU; this leaves all else as it is."""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_the_script_of_the_docs(tmp_path, how):
    write_backbone(tmp_path / "backbone")
    write_tasks(tmp_path / "data")
    script, environment = [str(Path(__file__).parents[2] / "docs/train_distributed.py")], {}
    if how == "fsdp":
        (tmp_path / "shard.py").write_text(SHARD)
        script.insert(0, str(tmp_path / "shard.py"))
        # What `accelerate launch` makes of the options in docs/distributed.md.
        environment = {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
            "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        }
    rows = str(tmp_path / "data/colour/train.jsonl")
    arguments = *script, str(tmp_path / "backbone"), rows, str(tmp_path / "out")
    code, output, errors = finished(launch(*arguments, HOME=str(tmp_path / "home"), **environment))
    assert code == 0, errors
    assert output.count("adapter parameters in") == 1
    assert "18/18" in errors  # steps of 96 rows, 3 epochs, 2 x 8 rows
    backbone = AutoModelForSequenceClassification.from_pretrained(tmp_path / "backbone", num_labels=2)
    model = PeftModel.from_pretrained(backbone, str(tmp_path / "out/adapter"))
    assert f"{gw.structure_of(model).parameters():,} adapter parameters" in output

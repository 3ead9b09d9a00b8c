from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import graftwork as gw
from graftwork.errors import ConfigError, DataError, ExportError, RoutingError
from graftwork.models.multitask import MultiTaskModel
from toy_heads import HEADS
from toy_new_task import FISH, train, trained
from toy_programs import SIZES, compacted, example, first, same_outputs
from toys import HOULSBY, grafted, spread_gates, tiny, tokens


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", HOULSBY),
        ("llama", {}),
        pytest.param("gpt2", {"position": "sequential"}, marks=pytest.mark.slow),
        pytest.param("opt", {}, marks=pytest.mark.slow),
    ],
)
def test_a_program_serves_any_mix_of_tasks_and_lengths(tmp_path, kind, settings):
    model = compacted(kind, **settings)
    inputs = example()
    program = gw.export_program(model, {key: inputs[key] for key in ("input_ids", "attention_mask")})
    same_outputs(lambda inputs: program.module()(**inputs), model)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    same_outputs(lambda inputs: loaded(**inputs), model)


def test_a_program_of_heads_and_of_a_task_that_was_added():
    new = gw.NewTask(trained(share=0.5), FISH, gw.Extension(private=1))
    train(new, steps=8)
    model = new.finish_()
    module = gw.export_program(model, example(tasks=4)).module()
    same_outputs(lambda inputs: module(**inputs), model, tasks=4)
    logits = module(**example(4, 5, tasks=4))
    assert logits.isfinite().sum(dim=1).tolist() == [head.size for head in (*HEADS, FISH)]


def test_gates_that_are_learned_are_those_of_evaluation():
    model = grafted(tiny(num_hidden_layers=1)).train()
    spread_gates(model)
    module = gw.export_program(model, example()).module()
    assert model.training
    same_outputs(lambda inputs: module(**inputs), model.eval())


def test_one_task_needs_no_rows():
    model = compacted("llama", only=["dogs"], small=True)
    program = gw.export_program(model, example())
    assert program.module_call_graph[0].signature.in_spec.num_leaves == 2
    same_outputs(lambda inputs: program.module()(**inputs), model, tasks=1)


def test_wrong_rows_are_refused_by_the_program():
    module = gw.export_program(compacted(small=True), example()).module()
    for rows in ([0, 3], [-1, 0]):
        with pytest.raises(RuntimeError, match=r"graft_rows holds task indices outside 0\.\.2"):
            module(**{**example(), "graft_rows": torch.tensor(rows)})
    with pytest.raises(AssertionError, match="graft_rows"):
        module(**{**example(), "graft_rows": torch.tensor([0, 1, 2])})


def test_the_model_is_left_as_it_was():
    model = compacted("llama", small=True).train()
    assert model.config.use_cache
    gw.export_program(model, example())
    assert model.config.use_cache
    assert model.training
    with pytest.raises(RoutingError, match="no route says which one"):
        model.eval()(input_ids=tokens())


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_torchs_own_function(strict):
    """Without graftwork's: any module around the model will do."""

    class Around(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, graft_rows=rows, use_cache=False)[0]

    model = compacted("llama", small=True)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = {"ids": {0: batch, 1: length}, "rows": {0: batch}}
    inputs = (tokens(2, 6), torch.tensor([1, 0]))
    module = torch.export.export(Around(model), inputs, dynamic_shapes=shapes, strict=strict).module()
    for size in SIZES:
        ids, rows = tokens(*size), torch.arange(size[0]) % 3
        expected = first(model, {"input_ids": ids, "graft_rows": rows})
        torch.testing.assert_close(module(ids, rows), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_file_needs_no_graftwork(tmp_path: Path):
    model = compacted(small=True)
    inputs = example(5, 4)
    torch.export.save(gw.export_program(model, example()), tmp_path / "model.pt2")
    torch.save(inputs, tmp_path / "inputs.pt")
    code = f"""
import json, sys, torch
module = torch.export.load({str(tmp_path / "model.pt2")!r}).module()
found = module(**torch.load({str(tmp_path / "inputs.pt")!r}))
assert not {{"graftwork", "peft", "transformers"}} & set(sys.modules)
print(json.dumps(found.tolist()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, first(model, inputs), atol=1e-5, rtol=1e-5)


def test_images():
    model = grafted(tiny("vit", num_hidden_layers=1))
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8), "graft_rows": torch.tensor([0, 2])}
    module = gw.export_program(model, inputs).module()
    more = {"pixel_values": torch.randn(5, 3, 8, 8), "graft_rows": torch.tensor([2, 1, 0, 1, 2])}
    torch.testing.assert_close(module(**more), first(model, more), atol=1e-5, rtol=1e-5)


class Odd(nn.Module):
    """A backbone with a fault that only another batch brings to light."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.config = SimpleNamespace(hidden_size=4, model_type="odd", use_cache=False, to_dict=dict)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if self.fault == "random":
            return y + torch.rand(())
        if self.fault == "constant":
            return y * len(x)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "random",
            r"the exported program gives other outputs than the model for x \(3, 4\), graft_rows \(3,\)",
        ),
        ("constant", "torch.export failed on this model: UserError: Constraints violated"),
        ("value", "torch.export failed on this model: GuardOnDataDependentSymNode"),
    ],
)
def test_a_model_that_is_no_graph_is_refused(fault, message):
    model = grafted(Odd(fault), target_modules=["linear"])
    inputs = {"x": torch.randn(2, 4)}
    with pytest.raises(ExportError, match=message):
        gw.export_program(model, inputs, dynamic={"x": {0: "batch"}, "graft_rows": {0: "batch"}})
    with pytest.raises(RoutingError, match="no route says which one"):
        model(torch.randn(2, 4))


@pytest.mark.parametrize(
    ("inputs", "dynamic", "message"),
    [
        ({}, None, "there are no example inputs; give tensors by name"),
        ({"input_ids": [[1, 2]]}, None, "the example input_ids is no tensor of rows"),
        (
            {"input_ids": tokens(2, 1)},
            None,
            r"the example input_ids has shape \(2, 1\); give one of length 2",
        ),
        ({"input_ids": tokens(2, 3)}, {"ids": {0: "batch"}}, "dynamic names axes 0 of 'ids'; the inputs are"),
        ({"input_ids": tokens(2, 3)}, {"input_ids": {2: "x"}}, "dynamic names axes 2 of 'input_ids'"),
    ],
)
def test_examples_that_will_not_do(inputs, dynamic, message):
    with pytest.raises(DataError, match=message):
        gw.export_program(compacted(small=True), inputs, dynamic=dynamic)


def test_a_model_without_an_adapter():
    with pytest.raises(ConfigError, match="has no graft adapter"):
        gw.export_program(tiny(), example())


def test_another_method_under_our_heads():
    """Of a LoRA only the heads have tasks."""
    lora = get_peft_model(tiny(num_hidden_layers=1), LoraConfig(target_modules=["query"]))
    torch.nn.init.normal_(lora.base_model.model.encoder.layer[0].attention.self.query.lora_B.default.weight)
    model = MultiTaskModel(lora, HEADS).eval()
    module = gw.export_program(model, example()).module()
    same_outputs(lambda inputs: module(**inputs), model)

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedModel

import graftwork as gw
from graftwork.errors import RoutingError
from toys import TASKS, grafted, outputs, spread_gates, tiny, tokens


@pytest.fixture
def model():
    model = grafted()
    spread_gates(model)
    return model


def alone(model, task, inputs=None):
    with gw.route(model, task):
        return outputs(model, inputs)


def test_contexts_nest_and_the_keyword_wins(model):
    expected = {task: alone(model, task) for task in TASKS}
    with gw.route(model, "cats"):
        with gw.route(model, "dogs"):
            assert torch.equal(outputs(model), expected["dogs"])
            rows = torch.full((4,), 2)
            assert torch.equal(outputs(model, graft_rows=rows), expected["birds"])
            assert torch.equal(outputs(model), expected["dogs"])
        assert torch.equal(outputs(model), expected["cats"])
    with pytest.raises(RoutingError, match=r"no route says which one .* gw\.keep_tasks_\(trainer\)"):
        outputs(model)


def test_the_keyword_takes_indices_per_row(model):
    with gw.route(model, ["birds", "cats", "dogs", "birds"]):
        expected = outputs(model)
    assert torch.equal(outputs(model, graft_rows=torch.tensor([2, 0, 1, 2])), expected)


def test_a_failed_forward_leaves_the_route_as_it_was(model):
    expected = alone(model, "cats")
    with gw.route(model, "cats"):
        with pytest.raises(RoutingError, match="2 rows"):
            outputs(model, graft_rows=torch.tensor([1, 1]))
        assert torch.equal(outputs(model), expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["cats"] * 3, "names the tasks of 3 rows, but the batch has 4"),
        ("dog", r"unknown task 'dog'; did you mean 'dogs'\? Known tasks: cats, dogs, birds"),
        (["cats", "cats", "brids", "cats"], r"unknown task 'brids'; did you mean 'birds'\?"),
        (torch.tensor([0, 1, 2, 3]), "task indices from 0 to 3, but there are 3 tasks"),
        (torch.tensor([0, -1, 2, 1]), "task indices from -1 to 2"),
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), "one-dimensional tensor of integers"),
        (torch.tensor([[0, 1, 2, 1]]), "one-dimensional tensor of integers"),
        (torch.tensor([True, True, False, True]), "one-dimensional tensor of integers"),
    ],
)
def test_bad_rows_are_refused(model, rows, message):
    keyword = isinstance(rows, torch.Tensor)
    with pytest.raises(RoutingError, match=message), nullcontext() if keyword else gw.route(model, rows):
        outputs(model, **({"graft_rows": rows} if keyword else {}))


def test_models_without_adapters_and_with_one_task():
    with pytest.raises(RoutingError, match="BertModel has no graft adapter"), gw.route(tiny(), "cats"):
        pass
    model = grafted(tasks=["only"])
    expected = outputs(model)
    with gw.route(model, "only"):
        assert torch.equal(outputs(model), expected)


def test_two_models_have_routes_of_their_own(model):
    other = grafted(tiny(seed=7))
    expected = alone(model, "cats"), alone(other, "dogs")
    with gw.route(model, "cats"), gw.route(other, "dogs"):
        assert torch.equal(outputs(model), expected[0])
        assert torch.equal(outputs(other), expected[1])


def test_threads_do_not_disturb_each_other(model):
    expected = {task: alone(model, task) for task in TASKS}
    names = [TASKS[i % 3] for i in range(120)]

    def call(task: str) -> bool:
        if task == "birds":
            return torch.equal(outputs(model, graft_rows=torch.full((4,), 2)), expected[task])
        return torch.equal(alone(model, task), expected[task])

    with ThreadPoolExecutor(12) as threads, gw.route(model, "cats"):
        assert all(threads.map(call, names))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_a_router_of_their_own(model, copier):
    expected = {task: alone(model, task) for task in TASKS}
    twin = copier(model)
    with gw.route(twin, "dogs"):
        assert torch.equal(outputs(twin), expected["dogs"])
        with pytest.raises(RoutingError, match="no route"):
            outputs(model)
        with gw.route(model, "cats"):
            assert torch.equal(outputs(model), expected["cats"])
            assert torch.equal(outputs(twin), expected["dogs"])
    assert torch.equal(outputs(twin, graft_rows=torch.full((4,), 2)), expected["birds"])


def gradients(
    model: PreTrainedModel, passes: list[torch.Tensor], *, keyword: bool
) -> dict[str, torch.Tensor]:
    """Gradients after forwards of several routes and one backward, when all contexts are closed."""
    model.zero_grad()
    torch.manual_seed(0)
    total = torch.zeros(())
    for index, rows in enumerate(passes):
        inputs = tokens(seed=index)
        if keyword:
            total = total + model(input_ids=inputs, graft_rows=rows)[0].square().mean()
        else:
            with gw.route(model, [TASKS[row] for row in rows]):
                total = total + model(input_ids=inputs)[0].square().mean()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("keyword", [True, False])
def test_gradient_checkpointing_recomputes_with_the_rows_of_its_forward(kind, reentrant, keyword):
    model = grafted(tiny(kind), target_modules="all-linear").train()
    spread_gates(model)
    model.base_model.router.driven = True
    passes = [torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])]
    expected = gradients(model, passes, keyword=keyword)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    found = gradients(model, passes, keyword=keyword)
    assert model.base_model.model.is_gradient_checkpointing
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_hand_made_checkpointing_uses_the_last_training_route(model):
    from torch.utils.checkpoint import checkpoint

    model.train()
    model.base_model.router.driven = True

    def run(wrapped: bool) -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(0)
        embedded = torch.randn(4, 5, 16, requires_grad=True)

        def forward(x: torch.Tensor) -> torch.Tensor:
            return model(inputs_embeds=x)[0]

        with gw.route(model, [*TASKS, "dogs"]):
            hidden = checkpoint(forward, embedded, use_reentrant=False) if wrapped else forward(embedded)
        hidden.square().sum().backward()
        return embedded.grad

    torch.testing.assert_close(run(True), run(False))


@pytest.mark.parametrize(
    ("kind", "auto"),
    [("llama", "AutoModelForCausalLM"), ("gpt2", "AutoModelForCausalLM"), ("t5", "AutoModelForSeq2SeqLM")],
)
@pytest.mark.parametrize("task_type", [None, "auto"])
@pytest.mark.parametrize(("beams", "sequences"), [(1, 1), (3, 1), (3, 2)])
def test_generate_equals_that_of_every_row_alone(kind, auto, task_type, beams, sequences):
    peft_type = {None: None, "auto": "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"}[task_type]
    model = grafted(tiny(kind, auto), task_type=peft_type)
    spread_gates(model)
    inputs = tokens(4)
    rows = torch.tensor([1, 0, 2, 1])
    settings = {
        "max_new_tokens": 4,
        "num_beams": beams,
        "num_return_sequences": sequences,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }

    def generate(inputs: torch.Tensor, **routing: torch.Tensor):
        return model.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), pad_token_id=0, **settings, **routing
        )

    mixed = generate(inputs, graft_rows=rows)
    with gw.route(model, [TASKS[row] for row in rows]):
        assert torch.equal(generate(inputs).sequences, mixed.sequences)
    for i, row in enumerate(rows):
        single = generate(inputs[i : i + 1], graft_rows=row[None])
        assert torch.equal(single.sequences, mixed.sequences[i * sequences : (i + 1) * sequences])
        with gw.route(model, TASKS[row]):
            assert torch.equal(generate(inputs[i : i + 1]).sequences, single.sequences)
        if beams == 1:
            torch.testing.assert_close(single.scores[0][0], mixed.scores[0][i], atol=1e-4, rtol=1e-4)
    if beams == 1:
        wrong = generate(inputs, graft_rows=(rows + 1) % 3)
        assert not torch.allclose(wrong.scores[0], mixed.scores[0], atol=1e-3)

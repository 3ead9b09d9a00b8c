"""Log-likelihoods of choices: the same as the definition, for every architecture, mixed and cached."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from graftwork.data.task import Task
from graftwork.errors import DataError
from graftwork.kinds.heads import TaskHead
from graftwork.models.causal import choosing
from graftwork.models.causal.choosing import Question, choice_outputs, log_likelihoods
from graftwork.models.causal.model import CausalMultiTaskModel
from graftwork.texts.writing import Writing
from toy_writer import toy_tokenizer
from toys import grafted, spread_gates, tiny

KINDS = ["llama", "gpt2", "qwen2", "mistral", "gemma", "phi"]
NAMES = ["one", "two"]


def head(name: str, labels: tuple[str, ...] = ("red", "blue stone"), **changes: object) -> TaskHead:
    writing = Writing(**{"max_length": 20, **changes})  # type: ignore[arg-type]
    return TaskHead(name, ("text",), "label", "choice", "accuracy", labels, writing=writing)


def model(kind: str = "llama") -> CausalMultiTaskModel:
    adapted = grafted(
        tiny(kind, "AutoModelForCausalLM"), tasks=NAMES, activation="identity", position="parallel"
    )
    spread_gates(adapted)
    return CausalMultiTaskModel(adapted, [head(name) for name in NAMES]).eval()


def questions() -> list[Question]:
    draw = random.Random(0)
    tokens = lambda count: [draw.randrange(3, 28) for _ in range(count)]  # noqa: E731
    return [
        Question(
            tokens(draw.randint(1, 9)), place % 2, [tokens(draw.randint(1, 4)) for _ in range(2 + place % 4)]
        )
        for place in range(9)
    ]


def by_definition(adapted: nn.Module, asked: list[Question]) -> list[list[float]]:
    """Every choice by itself behind its prompt, without padding or cache."""
    found = []
    for question in asked:
        own = []
        for choice in question.choices:
            ids = torch.tensor([question.ids + choice])
            with torch.no_grad():
                logits = adapted(input_ids=ids, graft_rows=torch.tensor([question.task])).logits[0].float()
            told = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[-len(choice) :]
            own.append(float(told.sum()))
        found.append(own)
    return found


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_every_choice_by_itself(kind: str, cached: bool) -> None:
    adapted, asked = model(kind).backbone, questions()
    wanted = by_definition(adapted, asked)
    found = log_likelihoods(adapted, asked, batch_size=4, cached=cached)
    for own, right in zip(found, wanted, strict=True):
        assert own == pytest.approx(right, abs=2e-4)


def test_many_choices_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted, asked = model().backbone, questions()
    whole = log_likelihoods(adapted, asked)
    monkeypatch.setattr(choosing, "ROWS", 3)
    monkeypatch.setattr(choosing, "POSITIONS", 7)
    for own, right in zip(log_likelihoods(adapted, asked), whole, strict=True):
        assert own == pytest.approx(right, abs=2e-4)


def test_a_model_that_keeps_nothing_reads_the_prompt_with_every_choice() -> None:
    adapted, asked = model().backbone, questions()
    wanted = log_likelihoods(adapted, asked)
    base = adapted.get_base_model()
    forward = base.forward

    def without(**inputs: object) -> object:
        return forward(**{**inputs, "use_cache": False})

    base.forward = without
    for own, right in zip(log_likelihoods(adapted, asked), wanted, strict=True):
        assert own == pytest.approx(right, abs=2e-4)


def test_a_row_does_not_depend_on_the_others_and_nothing_is_left_behind() -> None:
    found = model()
    asked = questions()
    found.train()
    state = torch.get_rng_state()
    together = log_likelihoods(found.backbone, asked)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.backbone.training
    alone = [log_likelihoods(found.backbone, [question])[0] for question in asked]
    for own, right in zip(together, alone, strict=True):
        assert own == pytest.approx(right, abs=2e-4)


def test_tasks_take_their_own_paths() -> None:
    adapted = model().backbone
    one, two = (Question([5, 6], task, [[7, 2], [8, 2]]) for task in (0, 1))
    first, second = log_likelihoods(adapted, [one, two])
    assert first != pytest.approx(second, abs=1e-4)


def test_the_length_divides_if_the_task_says_so() -> None:
    tokenizer, found = toy_tokenizer(), model()
    tasks, texts = [0, 1], ["stone", "stone"]
    choices = [("red", "blue stone")] * 2
    sums = choice_outputs(found.backbone, tokenizer, [head("one"), head("two")], tasks, texts, choices)
    heads = [head("one"), head("two", normalise_length=True)]
    mixed = choice_outputs(found.backbone, tokenizer, heads, tasks, texts, choices)
    assert mixed[0] == sums[0]
    # "red" has two tokens with its end, "blue stone" three.
    assert mixed[1] == pytest.approx([sums[1][0] / 2, sums[1][1] / 3])


def test_the_training_loss_is_that_of_the_right_choice() -> None:
    from graftwork.texts.rendering import Renderer

    tokenizer, found = toy_tokenizer(), model()
    writing = Task("one", "x", kind="choice").writing()
    (row,) = Renderer(tokenizer, writing).rows(["river stone"], ["blue stone"])
    parts = {"input_ids": [row.ids], "trained": [row.trained], "labels": [0.0], "graft_rows": [1]}
    batch = {name: torch.tensor(values) for name, values in parts.items()}
    with torch.no_grad():
        loss = float(found(**batch).loss)
    heads = [head("one", normalise_length=True), head("two", normalise_length=True)]
    ((_, right),) = choice_outputs(
        found.backbone, tokenizer, heads, [1], ["river stone"], [("red", "blue stone")]
    )
    assert loss == pytest.approx(-right, abs=1e-4)


def test_a_long_prompt_keeps_its_end_and_a_long_choice_is_refused() -> None:
    tokenizer, found = toy_tokenizer(), model()
    heads = [head("one", max_length=6), head("two")]
    long = choice_outputs(
        found.backbone, tokenizer, heads, [0], ["red " * 9 + "stone tree"], [("red", "blue")]
    )
    renderer_ids = tokenizer("red red stone tree", add_special_tokens=False)["input_ids"]
    direct = log_likelihoods(
        found.backbone,
        [Question(renderer_ids, 0, [[tokenizer.convert_tokens_to_ids(word), 2] for word in ("red", "blue")])],
    )
    assert long[0] == pytest.approx(direct[0], abs=1e-4)
    with pytest.raises(DataError, match="task 'one': the choice 'red red red red red' has 6 tokens or more"):
        choice_outputs(found.backbone, tokenizer, heads, [0], ["stone"], [("red", "red red red red red")])


def test_choices_that_are_the_same_tokens_are_refused() -> None:
    tokenizer, found = toy_tokenizer(), model()
    with pytest.raises(DataError, match="'yes' and 'no' are the same tokens to"):
        choice_outputs(found.backbone, tokenizer, [head("one")] * 2, [0], ["stone"], [("yes", "no")])

"""What plain Trainer does with a LoRA where `graftwork fit` promises more, for docs/compatibility.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from graftwork.search.divergence import not_finite
from toy_search import make_trainer
from toys import tiny


def lora_trainer(folder: Path, **settings: Any) -> Trainer:
    backbone = tiny("bert", "AutoModelForSequenceClassification", num_labels=2)
    model = get_peft_model(backbone, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    settings = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "remove_unused_columns": True,
        **settings,
    }
    return make_trainer(folder, model, [], **settings)


def test_plain_trainer_goes_on_and_saves_what_diverged(tmp_path: Path) -> None:
    # Two such steps leave float32; whether smaller ones overflow somewhere depends on the kernels.
    trainer = lora_trainer(tmp_path, learning_rate=3e38, logging_strategy="steps", logging_steps=1)
    trainer.train()
    trained = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert not_finite(trained)
    assert (tmp_path / "checkpoint-4").is_dir()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(torch.isfinite(torch.tensor(losses)))  # the filter hides it


def test_plain_trainer_resumes_from_a_half_written_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, save = lora_trainer(tmp_path), torch.save

    def fail(content: Any, path: Any, *arguments: Any, **kwargs: Any) -> None:
        if "checkpoint-4" in str(path):
            raise OSError("killed here")
        save(content, path, *arguments, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="killed here"):
            trainer.train()
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-4")
    with pytest.raises(FileNotFoundError, match="trainer_state"):
        lora_trainer(tmp_path).train(resume_from_checkpoint=True)

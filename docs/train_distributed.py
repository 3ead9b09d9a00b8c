"""The script that `docs/distributed.md` launches on several processes.

Usage: train_distributed.py BACKBONE ROWS.jsonl OUTPUT, with rows such as {"text": "...", "label": "..."}.
"""

import sys

import torch
from datasets import load_dataset
from peft import get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

import graftwork as gw

backbone, data, output = sys.argv[1:4]
set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(backbone)
rows = load_dataset("json", data_files=data, split="train").class_encode_column("label")
rows = rows.map(lambda row: tokenizer(row["text"], truncation=True), remove_columns=["text"])
classes = rows.features["label"].num_classes
model = get_peft_model(
    AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=classes),
    gw.GraftConfig(tasks=["task"], pool_size=4, r=4, budget=0.05, task_type="SEQ_CLS"),
)
trainer = Trainer(
    model,
    TrainingArguments(
        output,
        num_train_epochs=3,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_strategy="no",
        use_cpu=not torch.accelerator.is_available(),  # without it processes on CPUs train on their own
        # The loss is a mean over rows, not over the tokens of all processes.
        average_tokens_across_devices=False,
    ),
    train_dataset=rows,
    data_collator=DataCollatorWithPadding(tokenizer),
    callbacks=[gw.StructureCallback()],
)
trainer.train()
structure = gw.save_compact(trainer.model, f"{output}/adapter")  # on every process; the main one writes
if trainer.is_world_process_zero():
    print(f"{structure.parameters():,} adapter parameters in {output}/adapter")

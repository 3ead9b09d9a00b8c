"""A task that a language model answers, merged into the weights: one GGUF file, as llama.cpp reads it.

Llama models alone, with 16 bits. The file is read back by Transformers, and must give the tokens and the
greedy answers of the routed model.
"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graftwork.errors import ExportError
from graftwork.export.merged import asked, export_merged
from graftwork.messages import shown
from graftwork.models.causal.answering import write_answers
from graftwork.texts.rendering import Renderer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.kinds.heads import TaskHead
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["FILE", "check_gguf_package", "export_gguf"]

FILE = "model.gguf"
"""Name of the file."""
TEXTS = ('It\'s 1999, and 12,345 people say: "No!"', "  two  spaces\n\n\tand tabs", "naïve café, 中文, 🙂")
"""Texts that the tokenizer of the file must read as that of the model does."""
NORMAL, CONTROL, DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens, as llama.cpp counts them."""
HALF_PRECISION = 1
"""The type of a file whose matrices have 16 bits, as llama.cpp counts them."""


def check_gguf_package() -> None:
    """Refuse to write a GGUF file without the package for it.

    Raises:
        ExportError: names the extra that brings it.
    """
    if find_spec("gguf") is None:
        raise ExportError(
            "--format gguf needs the package gguf, which is not installed: pip install 'graftwork[gguf]'."
        )


def export_gguf(
    model: MultiTaskModel, tokenizer: PreTrainedTokenizerBase, head: TaskHead, folder: Path
) -> float:
    """Merge the adapters of a model of one task into its backbone, in place, and write that as `model.gguf`.

    Args:
        model: of this task alone.
        tokenizer: its tokenizer.
        head: the task.
        folder: gets the file.

    Returns:
        The largest difference of a logit that merging has made; that of 16 bits comes to it.

    Raises:
        ExportError: the model is no Llama of the usual form, its vocabulary is not one of bytes, or what is
            read back answers otherwise.
        MergeError: adapters are nonlinear, or a site has no weight that could take them.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    assert head.writing is not None
    _check_llama(model.backbone)
    vocabulary = _Vocabulary(tokenizer, Renderer(tokenizer, head.writing).ends[0])
    prompts = asked(tokenizer, head)
    wanted = write_answers(model.backbone, tokenizer, prompts, routed=model.routed)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as place:
        difference = export_merged(model, tokenizer, head, Path(place))
        _write(AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32), vocabulary, folder / FILE)
    found = AutoTokenizer.from_pretrained(str(folder), gguf_file=FILE)
    texts = [*TEXTS, *(str(tokenizer.decode(prompt.ids)) for prompt in prompts)]
    for text in texts:
        ours, theirs = (each(text, add_special_tokens=False)["input_ids"] for each in (tokenizer, found))
        if ours != theirs:
            raise ExportError(
                f"the tokenizer of the GGUF file reads {shown(text)} otherwise than "
                f"{type(tokenizer).__name__}, so that it would answer otherwise; export --format merged."
            )
    loaded = AutoModelForCausalLM.from_pretrained(
        str(folder),
        gguf_file=FILE,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    if write_answers(loaded.eval(), tokenizer, prompts, routed=False) != wanted:
        raise ExportError(
            f"the GGUF file of task {head.name!r} does not answer as the routed model: 16 bits are too few "
            "for its weights; export --format merged."
        )
    return difference


def _check_llama(backbone: Any) -> None:
    """Refuse what a GGUF file of a Llama has no place for.

    Raises:
        ExportError: says what.
    """
    config = backbone.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    activation = getattr(config, "hidden_act", "silu")
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    faults = {
        f"the type is {config.model_type}": config.model_type != "llama",
        f"the positions are of type {rope}": rope != "default",
        "the linear maps have biases": biased,
        f"the activation is {activation}": activation != "silu",
    }
    wrong = next((what for what, is_so in faults.items() if is_so), None)
    if wrong is not None:
        raise ExportError(
            f"--format gguf writes Llama models of the usual form, and here {wrong}; choose lora or merged."
        )


class _Vocabulary:
    """What a GGUF file says of a tokenizer.

    Args:
        tokenizer: one of bytes, as GPT-2, Llama 3 and SmolLM2 have.
        end: the token that ends an answer.

    Raises:
        ExportError: it is of another kind, or splits texts as no name of GGUF says.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: int) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        state = {} if backend is None else json.loads(backend.to_str())
        parts = state.get("pre_tokenizer") or {}
        parts = parts.get("pretokenizers", [parts])
        kinds = [part.get("type") for part in parts]
        name = _split_name(parts) if "ByteLevel" in kinds else None
        if state.get("model", {}).get("type") != "BPE" or state.get("normalizer") or name is None:
            raise ExportError(
                f"--format gguf writes vocabularies of bytes, as those of Llama 3 and SmolLM2, and "
                f"{type(tokenizer).__name__} has another; choose lora or merged."
            )
        self.tokenizer, self.split, self.end = tokenizer, name, end
        self.merges = [one if isinstance(one, str) else " ".join(one) for one in state["model"]["merges"]]
        added = {token["id"]: token["special"] for token in state["added_tokens"]}
        known = {index: token for token, index in tokenizer.get_vocab().items()}
        self.tokens = [known.get(index, f"[PAD{index}]") for index in range(max(known) + 1)]
        self.types = [
            UNUSED if index not in known else _type(added.get(index)) for index in range(len(self.tokens))
        ]

    def write(self, writer: Any, size: int) -> None:
        """Enter it; `size` tokens have an embedding."""
        tokenizer, missing = self.tokenizer, range(len(self.tokens), size)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list([*self.tokens, *(f"[PAD{index}]" for index in missing)])
        writer.add_token_types([*self.types, *(UNUSED for _ in missing)])
        writer.add_token_merges(self.merges)
        writer.add_eos_token_id(self.end)
        for name, index in (("bos", tokenizer.bos_token_id), ("pad", tokenizer.pad_token_id)):
            if index is not None:
                getattr(writer, f"add_{name}_token_id")(int(index))
        first = tokenizer("a")["input_ids"][0]
        writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id)
        if isinstance(tokenizer.chat_template, str):
            writer.add_chat_template(tokenizer.chat_template)


def _type(special: bool | None) -> int:
    return NORMAL if special is None else CONTROL if special else DEFINED


def _split_name(parts: list[dict[str, Any]]) -> str | None:
    """How llama.cpp calls a way to split texts into words; None if it has no name that is known here."""
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0]["use_regex"] and not parts[0]["add_prefix_space"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and "\\p{N}{1,3}" in str(parts[0]["pattern"]):
        return "llama-bpe"
    return None


def _write(model: PreTrainedModel, vocabulary: _Vocabulary, path: Path) -> None:
    import gguf

    config: Any = model.config
    embeddings: Any = model.get_input_embeddings()
    size = int(embeddings.weight.shape[0])
    if size < len(vocabulary.tokens):
        raise ExportError(
            f"the model has {size:,} embeddings for {len(vocabulary.tokens):,} tokens, and a GGUF file has "
            "one for each; choose lora or merged."
        )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.parent.name)
    writer.add_file_type(HALF_PRECISION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float((config.rope_parameters or {}).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(size)
    vocabulary.write(writer, size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight",)), _values(name, tensor, config).numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _values(name: str, tensor: Tensor, config: Any) -> Tensor:
    """A tensor as the file has it: vectors with 32 bits, queries and keys with pairs of a rotation together.

    Raises:
        ExportError: 16 bits cannot hold a value.
    """
    if tensor.dim() == 1:
        return tensor.float()
    for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
        if name.endswith(f"{part}.weight"):
            rows, columns = tensor.shape
            tensor = tensor.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    half = tensor.half()
    if not bool(half.isfinite().all()):
        raise ExportError(
            f"{name} has values beyond 65,504, which 16 bits cannot hold; export --format merged."
        )
    return half.contiguous()

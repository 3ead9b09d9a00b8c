"""Which modules of a backbone are sites: placements by name, or PEFT's own target settings."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable

from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _ExcludedModule,
    check_target_module_exists,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import PreTrainedModel

from graftwork.errors import SiteError
from graftwork.messages import near_misses
from graftwork.patterns import matching
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.config_checks import PLACEMENTS

__all__ = ["DEFAULT_SITES", "resolve_sites"]

# Per architecture: the linear map that ends the attention, the one that ends the feed-forward part, and the
# block. Their outputs enter the residual stream, where the bottleneck adapters of Houlsby et al. 2019 sit.
_BERT = (r"layer\.\d+\.attention\.output\.dense", r"layer\.\d+\.output\.dense", r"encoder\.layer\.\d+")
_LLAMA = (r"layers\.\d+\.self_attn\.o_proj", r"layers\.\d+\.mlp\.down_proj", r"layers\.\d+")
_MODERNBERT = (r"layers\.\d+\.attn\.Wo", r"layers\.\d+\.mlp\.Wo", r"layers\.\d+")
_GPT2 = (r"h\.\d+\.attn\.c_proj", r"h\.\d+\.mlp\.c_proj", r"h\.\d+")
_T5 = (
    r"block\.\d+\.layer\.\d+\.(SelfAttention|EncDecAttention)\.o",
    r"block\.\d+\.layer\.\d+\.DenseReluDense\.wo",
    r"block\.\d+",
)
_BART = (r"layers\.\d+\.(self_attn|encoder_attn)\.out_proj", r"layers\.\d+\.fc2", r"layers\.\d+")
_GPTJ = (r"h\.\d+\.attn\.out_proj", r"h\.\d+\.mlp\.fc_out", r"h\.\d+")
_NEOX = (r"layers\.\d+\.attention\.dense", r"layers\.\d+\.mlp\.dense_4h_to_h", r"layers\.\d+")
_BLOOM = (r"h\.\d+\.self_attention\.dense", r"h\.\d+\.mlp\.dense_4h_to_h", r"h\.\d+")
_PHI = (r"layers\.\d+\.self_attn\.dense", r"layers\.\d+\.mlp\.fc2", r"layers\.\d+")
_DISTILBERT = (r"layer\.\d+\.attention\.out_lin", r"layer\.\d+\.ffn\.lin2", r"transformer\.layer\.\d+")
_VIT = (r"layers\.\d+\.attention\.o_proj", r"layers\.\d+\.mlp\.fc2", r"layers\.\d+")
_DINO = (r"layer\.\d+\.attention\.o_proj", r"layer\.\d+\.mlp\.fc2", r"layer\.\d+")
_SWIN = (r"blocks\.\d+\.attention\.o_proj", r"blocks\.\d+\.mlp\.fc2", r"blocks\.\d+")
_CLIP = (r"layers\.\d+\.self_attn\.out_proj", r"layers\.\d+\.mlp\.fc2", r"layers\.\d+")

DEFAULT_SITES: dict[str, tuple[str, str, str]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "deberta": _BERT,
    "deberta-v2": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": _PHI,
    "phi3": _LLAMA,
    "gpt2": _GPT2,
    "gptj": _GPTJ,
    "gpt_neox": _NEOX,
    "bloom": _BLOOM,
    "falcon": _BLOOM,
    "opt": _BART,
    "bart": _BART,
    "mbart": _BART,
    "t5": _T5,
    "mt5": _T5,
    "vit": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "swin": _SWIN,
    "clip_vision_model": _CLIP,
}
"""`model_type` -> patterns of attention, feed-forward and block sites, matched at the end of a module's
name."""


_POSITIONS = re.compile(r"\.pos_(q_|key_|query_)?proj$")
"""Linear maps of DeBERTa that read the embeddings of positions, which belong to no row."""


def resolve_sites(model: nn.Module, config: GraftConfig) -> list[str]:
    """Full names of the modules of `model` that become sites, in the model's order.

    `config.target_modules` wins over `config.placement`. A list whose every entry is the full name of a
    module is taken literally, as it stands in a saved configuration; else PEFT's rules hold (suffixes, one
    regular expression, `all-linear`). `exclude_modules` and `layers_to_transform` apply to both.

    Raises:
        SiteError: nothing matches, or the architecture has no default sites, here or for LoRA in PEFT.
    """
    # Modules inside an adapter layer of an earlier adapter are not the backbone's; the layer itself stands
    # for its site.
    names = [name for name, _ in model.named_modules() if name and not _inside_adapter(name)]
    if config.structure is not None:
        return _present(list(config.structure["sites"]), names, "structure")
    given, modules = config, names
    if isinstance(config.exclude_modules, str) and config.exclude_modules:
        excluded = set(matching("exclude_modules", config.exclude_modules, names))
        names = [name for name in names if name not in excluded]
        config = copy.copy(config)
        config.exclude_modules = None
    found = _targets(model, config, names, set(modules))
    if not found:
        raise _no_match(model, modules, given)
    return found


def _targets(model: nn.Module, config: GraftConfig, names: list[str], known: set[str]) -> list[str]:
    """The sites among `names`, which are those of the `known` modules that no pattern excludes."""
    targets = config.target_modules
    if not targets:
        return _by_placement(model, config, names)
    if isinstance(targets, str) and targets.lower() == "all-linear":
        linear = [name for name in names if _is_linear(model.get_submodule(name))]
        return [name for name in linear if _allowed(config, name, model)]
    if isinstance(targets, str):
        probe = _with_targets(config, set())
        return [name for name in matching("target_modules", targets, names) if not _excluded(probe, name)]
    if isinstance(targets, set) and targets <= known:
        return [name for name in names if name in targets and not _excluded(config, name)]
    return [name for name in names if _matches(config, name)]


def _by_placement(model: nn.Module, config: GraftConfig, names: list[str]) -> list[str]:
    model_type = _model_type(model)
    targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(str(model_type))
    if config.placement == "linear":
        linear = _linear_in_layers(model, names)
        if linear or targets is None or model_type in DEFAULT_SITES:
            probe = _with_targets(config, set(linear))
            return [name for name in linear if _allowed(probe, name, model) and _in_layers(config, name)]
    if model_type not in DEFAULT_SITES:
        if targets is None or config.placement not in (PLACEMENTS[0], "linear"):
            other = " or placement='linear'" if _linear_in_layers(model, names) else ""
            raise SiteError(
                f"no default sites for {_kind(model)} with placement={config.placement!r}. Please specify "
                f"`target_modules`, such as {_candidates(model, names)}{other}. Architectures with "
                f"defaults: {', '.join(DEFAULT_SITES)}."
            )
        # Where PEFT itself would put LoRA, for architectures whose residual stream is not described here, or
        # whose layers are in no list.
        probe = _with_targets(config, targets if isinstance(targets, str) else set(targets))
        return [name for name in names if _matches(probe, name) and _in_layers(config, name)]
    attention, ffn, block = DEFAULT_SITES[model_type]
    patterns = {
        "attention+ffn": (attention, ffn),
        "attention": (attention,),
        "ffn": (ffn,),
        "block": (block,),
    }[config.placement]
    pattern = r"(.*\.)?(" + "|".join(patterns) + ")"
    probe = _with_targets(config, pattern)
    return [name for name in names if _matches(probe, name) and _in_layers(config, name)]


def _model_type(model: nn.Module) -> object:
    return BaseTuner.get_model_config(model).get("model_type")


def _kind(model: nn.Module) -> str:
    model_type = _model_type(model)
    return "a model without a model_type" if model_type == "custom" else f"the architecture {model_type!r}"


def _candidates(model: nn.Module, names: list[str]) -> str:
    """What `target_modules` may name, as a part of a message."""
    linear = _suffixes(name for name in names if _is_linear(model.get_submodule(name)))
    return f"some of {', '.join((linear or _suffixes(names))[:8])}"


def _with_targets(config: GraftConfig, targets: str | set[str]) -> GraftConfig:
    return GraftConfig(
        target_modules=targets,
        exclude_modules=config.exclude_modules,
        modules_to_save=config.modules_to_save,
    )


def _matches(config: GraftConfig, name: str) -> bool:
    found = check_target_module_exists(config, name)
    return bool(found) and not isinstance(found, _ExcludedModule)


def _excluded(config: GraftConfig, name: str) -> bool:
    return isinstance(check_target_module_exists(config, name), _ExcludedModule)


def _in_layers(config: GraftConfig, name: str) -> bool:
    """Apply `layers_to_transform` to the patterns of placements; PEFT does so for lists of targets only."""
    wanted = config.layers_to_transform
    if wanted is None or wanted == []:
        return True
    index = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return index is not None and int(index[1]) in ([wanted] if isinstance(wanted, int) else wanted)


def _allowed(config: GraftConfig, name: str, model: nn.Module) -> bool:
    """For `all-linear`: not excluded, and not the output layer, which PEFT leaves alone as well."""
    output = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention):
        return False  # reads the weight of its output map without calling it
    return (
        model.get_submodule(name) is not output and not _excluded(config, name) and _in_layers(config, name)
    )


def _linear_in_layers(model: nn.Module, names: list[str]) -> list[str]:
    return [name for name in names if _is_linear(model.get_submodule(name)) and _in_a_layer(model, name)]


def _in_a_layer(model: nn.Module, name: str) -> bool:
    """Whether a module reads the rows of a layer: it is not of the embeddings, the pooler or the head."""
    if _POSITIONS.search(name):
        return False
    parts = name.split(".")
    parents = (model.get_submodule(".".join(parts[:end])) for end in range(len(parts)))
    return any(isinstance(parent, nn.ModuleList) for parent in parents)


def _is_linear(module: nn.Module) -> bool:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return isinstance(base, nn.Linear) or type(base).__name__ == "Conv1D"


def _inside_adapter(name: str) -> bool:
    return ".base_layer" in name or re.search(r"\.graft_\w+(\.|$)", name) is not None


def _present(wanted: list[str], names: list[str], what: str) -> list[str]:
    known = set(names)
    missing = [name for name in wanted if name not in known]
    if missing:
        near = near_misses(missing[0], names, most=3, cutoff=0.5)
        raise SiteError(
            f"the {what} names {len(missing)} sites that the backbone does not have, such as {missing[0]!r}; "
            f"it belongs to another backbone. Near misses: {', '.join(near) or 'none'}."
        )
    return [name for name in names if name in set(wanted)]


def _suffixes(names: Iterable[str]) -> list[str]:
    """Distinct names without their layer numbers, as one writes them in `target_modules`."""
    return list(dict.fromkeys(re.split(r"\.\d+\.", name)[-1] for name in names))


def _no_match(model: nn.Module, names: list[str], config: GraftConfig) -> SiteError:
    limits = {
        "layers_to_transform": config.layers_to_transform,
        "exclude_modules": config.exclude_modules,
        "modules_to_save": config.modules_to_save,
    }
    narrowed = ", ".join(f"{key}={value!r}" for key, value in limits.items() if value)
    targets = config.target_modules
    if not targets:
        return _none_placed(model, names, config, narrowed)
    asked = sorted(targets) if isinstance(targets, set) else [str(targets)]
    last = [name.rpartition(".")[2] for name in names]
    candidates = list(dict.fromkeys([*last, *_suffixes(names), *names]))
    near = [match for name in asked for match in near_misses(name, candidates, most=3, cutoff=0.5)]
    return SiteError(
        f"no module matches {', '.join(map(repr, asked))}"
        + (f" with {narrowed}" if narrowed else "")
        + f". Near misses: {', '.join(dict.fromkeys(near)) or ', '.join(_suffixes(names)[:6])}."
    )


def _none_placed(model: nn.Module, names: list[str], config: GraftConfig, narrowed: str) -> SiteError:
    whole = copy.copy(config)
    whole.layers_to_transform = whole.exclude_modules = whole.modules_to_save = None
    found = _by_placement(model, whole, names)
    if found:
        return SiteError(
            f"no module matches placement={config.placement!r} with {narrowed}. Without that there are "
            f"{len(found)} sites, from {found[0]} to {found[-1]}."
        )
    return SiteError(
        f"no module of {_kind(model)} matches placement={config.placement!r}. Please specify "
        f"`target_modules`, such as {_candidates(model, names)}."
    )

"""The rows that graftwork adds to the parameter lists of PEFT's test suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft import LoraConfig

from graftwork import GraftConfig

Row = tuple[Any, ...]

NONLINEAR: dict[str, Any] = {
    "pool_size": 4,
    "r": 4,
    "gates": "hard_concrete",
    "scale": 1.0,
    "activation": "gelu",
    "position": "sequential",
}
LINEAR: dict[str, Any] = {**NONLINEAR, "activation": "identity"}
PARALLEL: dict[str, Any] = {"gates": "fixed", "position": "parallel"}

# How adapters may look at any site: the default, learned gates, given gates, at the site's input, without
# nonlinearity.
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "hard concrete": {**NONLINEAR},
    "fixed parallel": {**NONLINEAR, **PARALLEL},
    "linear": {**LINEAR},
    "linear fixed parallel": {**LINEAR, **PARALLEL},
}
SEQUENTIAL = {name: form for name, form in FORMS.items() if form.get("position") == "sequential"}

_MLP: list[dict[str, Any]] = [
    {"target_modules": "lin0"},
    {"target_modules": ["lin0"]},
    {"target_modules": ["lin1"]},
    {"target_modules": ["lin0", "lin1"]},
    {"target_modules": ["lin0"], "modules_to_save": ["lin1"]},
    {"target_modules": "all-linear", "exclude_modules": ["lin1"]},
]
# Modules whose output alone has features to adapt: token indices and pixels are none.
_OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("EmbConv1D", {"target_modules": ["emb"]}),
    ("EmbConv1D", {"target_modules": ["emb", "conv1d"]}),
    ("Conv1d", {"target_modules": ["conv1d"]}),
    ("Conv2d", {"target_modules": ["conv2d"]}),
    ("Conv2d", {"target_modules": ["conv2d", "lin0"]}),
    ("Conv2dGroups", {"target_modules": ["conv2d"]}),
    ("Conv3d", {"target_modules": ["conv3d"]}),
]
_TOKENS: dict[str, Any] = {"target_modules": ["conv1d"], "trainable_token_indices": {"emb": [0, 10]}}
_MHA: list[tuple[str, dict[str, Any]]] = [
    ("MHA", {"target_modules": ["mha"]}),
    ("MHA", {"target_modules": ["mha", "lin0"]}),
]


def custom_cases() -> list[Row]:
    """`test_name, model_id, config_cls, config_kwargs`."""
    models = [("MLP", sites, FORMS) for sites in _MLP]
    models += [("EmbConv1D", {"target_modules": ["conv1d"]}, FORMS)]
    models += [(model, sites, SEQUENTIAL) for model, sites in _OTHERS]
    models += [("EmbConv1D", _TOKENS, FORMS)]
    models += [(model, sites, {"hard concrete": FORMS["hard concrete"]}) for model, sites in _MHA]
    return [
        (f"{model} {index} {name}", model, GraftConfig, {**form, **sites})
        for index, (model, sites, forms) in enumerate(models)
        for name, form in forms.items()
    ]


def model_cases(task_type: str) -> list[Row]:
    """`config_cls, config_kwargs` for models of Transformers, at their default sites."""
    rows = [
        (GraftConfig, {"task_type": task_type, "target_modules": None, **form}) for form in FORMS.values()
    ]
    tokens = {"trainable_token_indices": [0, 1, 3]}
    return [*rows, (GraftConfig, {"task_type": task_type, "target_modules": None, **LINEAR, **tokens})]


def multiple_active_cases() -> list[Row]:
    """`test_name, tuner_method, config_cls, config_kwargs_1, config_kwargs_2`."""
    off = {"init_weights": False}
    return [
        (
            f"graft {name} {second}",
            "graft",
            GraftConfig,
            {**form, **off, "target_modules": ["lin0"]},
            {**form, **off, "target_modules": [second]},
        )
        for name, form in FORMS.items()
        for second in ("lin0", "lin1")
    ]


def _like_lora(config: LoraConfig, form: dict[str, Any]) -> GraftConfig:
    """A graft configuration with the sites of one for LoRA."""
    rank = {"r": config.r} if config.r != LoraConfig().r else {}
    return GraftConfig(
        target_modules=config.target_modules,
        modules_to_save=config.modules_to_save,
        init_weights=False,
        **{**form, **rank},
    )


def like_lora(row: Row) -> list[Row]:
    """Rows of a test name and configurations: ours at the sites of LoRA's; none for other methods' rows."""
    name, *configs = row
    if not all(type(config) is LoraConfig for config in configs):
        return []
    outputs_only = any({"emb", "conv2d"} & set(config.target_modules) for config in configs)
    forms = SEQUENTIAL if outputs_only else FORMS
    return [
        (f"graft {title}: {name}", *(_like_lora(config, form) for config in configs))
        for title, form in forms.items()
    ]


def replaced(argnames: str, rows: list[Any], module: str) -> list[Any]:
    """What the parameters `argnames` of a test in `module` range over, for our method alone."""
    names = ",".join(part.strip() for part in argnames.split(","))
    whole: dict[str, Callable[[], list[Any]]] = {
        "test_name,model_id,config_cls,config_kwargs": custom_cases,
        "test_name,tuner_method,config_cls,config_kwargs_1,config_kwargs_2": multiple_active_cases,
        "config_cls": lambda: [GraftConfig],
        "config0": lambda: [
            GraftConfig(target_modules=["lin0"], init_weights=False, **f) for f in FORMS.values()
        ],
    }
    if names in whole:
        return whole[names]()
    if names in ("test_name,config0,config1", "test_name,config"):
        return [ours for row in rows for ours in like_lora(row)]
    if names == "config_cls,config_kwargs" and len(rows) > 10:
        return model_cases(_TASK_TYPES[module])
    return rows


_TASK_TYPES = {
    "test_decoder_models": "CAUSAL_LM",
    "test_feature_extraction_models": "FEATURE_EXTRACTION",
    "test_seq_classifier": "SEQ_CLS",
}

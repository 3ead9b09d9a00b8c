"""Every error graftwork raises on purpose.

Each message is one line: what was given, what is allowed, how to fix it. The command line prints
it and exits with code 2.

    GraftworkError
    ├── ConfigError       a setting of GraftConfig or of a gate family (also a ValueError)
    ├── SiteError         no module of the backbone matches the asked-for sites (also a ValueError)
    ├── RoutingError      a forward pass whose rows have no task, or not as many as rows (also a ValueError)
    ├── MergeError        adapters without an equivalent weight of their site
    ├── StructureError    a structure that does not fit the model or the budget (also a ValueError)
    ├── RecipeError       a recipe: unknown key, wrong type, missing value (also a ValueError)
    ├── DataError         a task's data: missing file, broken line, unknown label (also a ValueError)
    ├── CheckpointError   a saved model that cannot be read or belongs to another backbone
    ├── StorageError      a file that cannot be written: full disk, or another process writes it
    ├── ExportError       a model that cannot be written in another format
    ├── ServingError      a server that cannot start or go on
    └── TrainingError     a run that cannot start or go on
        ├── DivergenceError   its loss or weights are not finite
        └── Interrupted       the user pressed Ctrl-C
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "ExportError",
    "GraftworkError",
    "Interrupted",
    "MergeError",
    "RecipeError",
    "RoutingError",
    "ServingError",
    "SiteError",
    "StorageError",
    "StructureError",
    "TrainingError",
]


class GraftworkError(Exception):
    """Base of all errors raised on purpose by graftwork.

    Example:
        >>> try:
        ...     gw.GraftConfig(budget=-1)
        ... except gw.GraftworkError as error:
        ...     print(type(error).__name__)
        ConfigError
    """

    shared = False
    """True if every process of a run raises this error, so that one of them is enough to print it."""


class ConfigError(GraftworkError, ValueError):
    """A setting of `GraftConfig` or of a gate family is out of range."""


class SiteError(GraftworkError, ValueError):
    """No module of the backbone matches the asked-for sites."""


class RoutingError(GraftworkError, RuntimeError, ValueError):
    """The rows of a forward pass have no task or adapter, an unknown one, or the wrong number of them.

    Also a ValueError: that is what PEFT's own methods raise for bad `adapter_names`.
    """


class MergeError(GraftworkError, NotImplementedError):
    """Adapters have no equivalent weight of the site they sit at, and cannot be merged into it."""


class StructureError(GraftworkError, ValueError):
    """A structure does not fit the model, or a budget cannot be met."""


class RecipeError(GraftworkError, ValueError):
    """A recipe has an unknown key, a value of the wrong type, or lacks a value."""


class DataError(GraftworkError, ValueError):
    """The data of a task cannot be read, or its labels do not fit the task."""


class CheckpointError(GraftworkError, RuntimeError):
    """A saved model cannot be read, or belongs to another backbone."""


class StorageError(GraftworkError):
    """A file cannot be written: the disk is full, or another process is writing the same output."""


class TrainingError(GraftworkError, RuntimeError):
    """A training run cannot start or cannot go on."""


class DivergenceError(TrainingError):
    """The loss or the weights of a training run are not finite."""


class Interrupted(TrainingError):
    """The user pressed Ctrl-C; the message says how to go on."""


class ExportError(GraftworkError, RuntimeError):
    """A model cannot be written in another format, or a package for it is missing."""


class ServingError(GraftworkError, RuntimeError):
    """A server cannot start or cannot go on."""

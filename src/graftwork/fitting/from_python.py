"""`gw.fit`: training from Python, with data from files or from memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from graftwork.advice import called
from graftwork.distributed.processes import is_main, join, on_all
from graftwork.errors import DivergenceError, Interrupted, TrainingError
from graftwork.files.reading import user_path
from graftwork.fitting import fit as fitting
from graftwork.fitting.given import given_recipe
from graftwork.launcher import launched
from graftwork.models.predictor import Predictor, load

if TYPE_CHECKING:
    from graftwork.recipe.recipe import Recipe

__all__ = ["fit"]

KEPT = "Nothing is kept, as no output was given: name one to be able to go on."


def fit(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    tasks: Mapping[str, Any] | Sequence[Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    graft: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    noise: Sequence[Any] | Mapping[str, Any] | None = None,
    seed: int | None = None,
    start: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    console: Console | None = None,
    **settings: Any,
) -> Predictor:
    """Train from Python as `graftwork fit` does, and return a model that predicts.

    The settings are those of a recipe (`graftwork fit --help` lists them). A task's data are a path as in a
    recipe, a list of mappings, a pandas DataFrame, a `datasets.Dataset`, or a `DatasetDict` with `train` and
    perhaps `validation` and `test`; or a mapping of the task's settings with such data as `train`,
    `validation` and `test`. A split that is not given is a tenth of the train texts, as in a recipe. The same
    rows give the same model to the bit, whatever they are given as. Tasks may have different labels, and any
    number of them.

    With an `output` the folder is the one that `graftwork fit` writes: it can be loaded, resumed, evaluated
    and exported. Rows from memory are not copied into it. Its recipe has `memory:TASK/SPLIT` in place of
    them, and its report their digests, so that `resume=True` needs the same call with the same rows, and
    refuses others; `graftwork fit --resume` and `graftwork evaluate` without `--data` cannot find them.
    Without an `output` the folder is a temporary one that lasts as long as the returned object; a run that is
    interrupted is then lost.

    Args:
        recipe: the path of a recipe, a mapping of the same form, or a `Recipe`; what is given by keyword
            replaces what a path or a mapping says, of a section only the keys that are given.
        model: backbone: a hub id, a folder, or `package:NAME/sub/folder`.
        tasks: name -> data, or name -> settings with data; or a list as in a recipe.
        output: folder to write; default that of the recipe, else a temporary one.
        graft: adapter pool, gates and sites, such as `{"budget": 0.002}`.
        training: the training loop, such as `{"epochs": 3}`.
        schedule: phases of the search, as fractions of the training.
        noise: noise, as in a recipe.
        seed: of everything random; default 0.
        start: folder of a finished model to go on from (docs/python.md): its structure is kept, its adapters
            and heads are trained further. Without a recipe its own is used; of a task in `tasks` it says what
            is not given.
        overwrite: replace the output folder if it exists.
        resume: go on from the last checkpoint of the same call.
        console: where to print; default standard output.
        **settings: further keys of a recipe.

    Returns:
        The trained model, as `gw.load` gives it; `report` is its report, `folder` where it is.

    Raises:
        RecipeError: a setting is unknown or wrong.
        DataError: rows cannot be read, lack a field, or are too few.
        GraftworkError: as for `graftwork fit`; nothing is written.
        Interrupted: Ctrl-C; with an `output` checkpoints are kept.

    Example:
        >>> rows = [{"text": f"a {word} {i}", "label": word} for i in range(30) for word in ("red", "blue")]
        >>> pairs = [{"a": "red", "b": f"lamp {i}", "label": i % 3} for i in range(60)]
        >>> model = gw.fit(
        ...     model="backbone",
        ...     tasks={"colour": rows, "rest": {"train": pairs, "text": ["a", "b"]}},
        ...     graft={"budget": "5%", "pool_size": 4},
        ...     training={"epochs": 1, "max_length": 16},
        ... )
        prepare: ...test scores; ...written to ...
        >>> [answer["task"] for answer in model.predict(["a red stone"], task="colour")]
        ['colour']
        >>> {name: task["rows"]["test"] for name, task in model.report["tasks"].items()}
        {'colour': 6, 'rest': 6}
    """
    given = {
        "model": model,
        "tasks": tasks,
        "output": output,
        "graft": graft,
        "training": training,
        "schedule": schedule,
        "noise": noise,
        "seed": seed,
        "start": start,
        **settings,
    }
    given = {key: value for key, value in given.items() if value is not None}
    join()
    console = console or Console(quiet=not is_main())
    words = ["recipe"] * (recipe is not None) + [f"{key}={key}" for key in given]
    with called("fit", *words, overwrite=overwrite), _Place() as place:
        loaded, notes = on_all(lambda: given_recipe(recipe, given, output=place.output))
        for note in notes:
            console.print(f"note: {note}", highlight=False, markup=False)
        kept = loaded.output != place.output
        if not kept:
            place.check(resume=resume)
        with nullcontext() if kept else _without_advice():
            fitting.fit(loaded, overwrite=overwrite, resume=resume, console=console)
        found = load(user_path(loaded.output))
        if kept:
            return found
        place.keep_for(found)
        return found


class _Place:
    """A temporary folder for a model, removed at the end unless it is kept for an object."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="graftwork-")
        self.output = str(Path(self.folder) / "model")
        self.kept = False

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def check(self, *, resume: bool) -> None:
        """Refuse what needs a folder with a name.

        Raises:
            TrainingError: the run is to be resumed, or several processes train it.
        """
        if resume:
            raise TrainingError("nothing to resume: without an output no run is kept; give output=.")
        if launched() > 1:
            raise TrainingError(f"{launched()} processes need one folder to write; give output=.")

    def keep_for(self, holder: object) -> None:
        """Remove the folder when this object is gone, or the program ends."""
        weakref.finalize(holder, shutil.rmtree, self.folder, ignore_errors=True)
        self.kept = True


@contextmanager
def _without_advice() -> Iterator[None]:
    """Around a run that cannot go on later, so that no message says how.

    Raises:
        Interrupted: Ctrl-C.
        DivergenceError: the loss or a weight is not finite.
    """
    try:
        yield
    except Interrupted:
        raise Interrupted(f"interrupted. {KEPT}") from None
    except DivergenceError as error:
        raise DivergenceError(f"{error.__cause__ or error} {KEPT}") from None

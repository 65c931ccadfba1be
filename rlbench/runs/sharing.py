"""Finds finished shared stages of other experiments by identity, and adopts them into this experiment's folder.

The experiment's folder stays complete for the analysis, and nothing is computed twice. Weights are hard-linked if the
file system supports it, so they take no extra space; other files are copied. A stage still running in another
experiment is not awaited: two commands that start together each compute their own. Loads no torch.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlbench.base.digests import check_model
from rlbench.base.files import (
    partial_folder,
    publish,
    whole_file,
    write_json,
)
from rlbench.base.progress import PROGRESS
from rlbench.base.records import Damaged
from rlbench.config.schema import Config
from rlbench.models.sources import differing_files
from rlbench.runs.directory import (
    DONE,
    Run,
    check_done,
    status_of,
)
from rlbench.runs.existing import curve_problems, unmeasured
from rlbench.runs.record import BUDGET, IDENTITY, MANIFEST, RESULT, SETTINGS, WITHOUT_MODEL

OWN = ("STATUS", IDENTITY.name, SETTINGS, PROGRESS.name)
"""Files that belong to a directory and not to the result."""
MODEL = "model"


def find_finished(run: Run, config: Config, model_files: Callable[[], Mapping[str, str]]) -> Path | None:
    """Return the directory of the same finished stage in another experiment of `runs_dir`, or None.

    Args:
        run: any shared stage. RL runs are never found.
        config: the cell's config.
        model_files: returns the sha256 of each file of the model loaded here. Stages with other model files are not
            adopted. Called only if there is a candidate.

    Raises:
        BadInput: if a candidate has a damaged file.
    """
    if run.stage == "rl":
        return None
    below = run.root.relative_to(config.group_dir.parent)
    wanted = json.loads(json.dumps(run.identity))
    for path in (experiment / below for experiment in sorted(Path(config.runs_dir).glob("*"))):
        if path.resolve() == run.root.resolve() or status_of(path) != DONE or not (path / RESULT.name).is_file():
            continue
        if not (path / IDENTITY.name).is_file() or _identity(path) != wanted:
            continue
        check_done(path)  # its files are read below
        if run.stage not in WITHOUT_MODEL and differing_files(_files_of_model(path), model_files()):
            continue
        if not _lacks_curve(Run(path, run.stage, run.label, run.seed, run.hash, run.identity), config):
            return path
    return None


def _identity(root: Path) -> dict[str, Any] | None:
    try:
        return IDENTITY.load(root)
    except Damaged:
        return None  # reported when that directory is used


def _files_of_model(root: Path) -> Mapping[str, str]:
    """Return the model files of a finished run, or an empty mapping if its manifest has none or is damaged."""
    with suppress(FileNotFoundError, Damaged):
        return MANIFEST.load(root, "model")["model"]["files"]
    return {}


def _lacks_curve(there: Run, config: Config) -> bool:
    every = config.trainer.sft.evaluate_every if there.stage == "sft" else None
    missing = unmeasured(there, config.trainer.sft.evaluated) if every is not None else []
    return bool(every is not None and curve_problems(there, every, missing))


def adopt(run: Run, source: Path, config: Config) -> None:
    """Copy or link a finished stage into a directory that this process holds.

    `result.json` gets this experiment's name. `result.json`, `budget.json` and `manifest.json` record where the stage
    was computed (`adopted_from`), so that its cost is counted once.

    Args:
        run: the stage in this experiment.
        source: its directory in the other experiment.
        config: the cell's config.

    Raises:
        BadInput: if a source file is damaged. Nothing is adopted then.
    """
    check_done(source)
    check_model(source / MODEL)
    noted = _noted(source, source.relative_to(config.runs_dir).as_posix(), config.experiment_name)
    if (source / MODEL).is_dir():
        made = partial_folder(run.root / MODEL)
        shutil.copytree(source / MODEL, made, copy_function=_link)
        publish(made, run.root / MODEL)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in (*OWN, *noted) and not path.name.startswith("."):
            with whole_file(run.root / path.name) as beside:
                shutil.copyfile(path, beside)
    for name, content in noted.items():
        write_json(run.root / name, content)


def _noted(source: Path, place: str, experiment: str) -> dict[str, dict[str, Any]]:
    """Return the contents of the files that record where a stage was computed.

    If the source itself was adopted, its recorded origin is kept.

    Args:
        source: directory of the finished stage.
        place: the same directory relative to `runs_dir`.
        experiment: name of the adopting experiment.

    Raises:
        BadInput: if one of the files has invalid content.
    """
    remedy = f"move {source} away and run the same command again, which then makes the stage here"
    result, budget = RESULT.read(source, remedy, "budget"), BUDGET.read(source, remedy)
    manifest = MANIFEST.read(source, remedy)
    origin = {"adopted_from": place}
    return {
        RESULT.name: {**result, "experiment": experiment, "budget": origin | result["budget"]},
        BUDGET.name: {**origin, **budget},
        MANIFEST.name: {**origin, **manifest},
    }


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # different file systems, or no hard links
        shutil.copyfile(source, target)

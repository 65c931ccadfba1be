"""Match our runs to the cells of a recorded sweep, and list missing cells with their cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.collection import Collection, collect
from analysis.papers.page import COMMAND
from analysis.problems import Problem
from analysis.render.sheet import Sheet, sheet_of
from rlbench.base.errors import BadInput
from rlbench.base.nested import flatten
from rlbench.base.program import run_words

if TYPE_CHECKING:
    from rlbench.launching.recorded import RecordedCell

    Missing = tuple[str, str, RecordedCell | None]
    """Backbone, title and cell of a row without runs."""

HOURS_AN_UPDATE = 2 * 8 * 5.6 / 3600
"""Upper bound on GPU-hours per update of 384 completions with a 0.5B model. A port's log shows 5.5 to 5.7 s for 48
completions on two H800; 384 are eight times as many."""

BILLIONS = {"qwen2.5_0.5b": 0.494, "llama3.2_1b": 1.236, "llama3.2_3b": 3.213, "qwen2.5_7b": 7.616}
"""Billions of parameters. Cost is assumed to be proportional."""

DEFINING = ("rl.num_iterations", "rl.start", "dataset.demonstrations_from")
"""Settings that define a row or table. A run with another value does not belong to it."""

NAMED = 8
"""Maximum number of settings named when runs differ from the sweep."""


def shared(cell: "RecordedCell", stage: str) -> "RecordedCell":
    """The cell of a shared stage: a cell without its method and seed, with the stage as method."""
    own = ("method", "seed")
    kept = [text for text in cell.overrides if text.lstrip("+").split("=")[0] not in own]
    choices = {key: value for key, value in cell.choices.items() if key not in own} | {"method": stage}
    config = replace(cell.config, stage=stage)
    return replace(cell, overrides=(*kept, f"+method={stage}"), choices=choices, config=config)


def read_groups(runs: Path | None, cells: "Sequence[RecordedCell]") -> tuple[dict[str, Collection], list[Problem]]:
    """The runs of a sweep's datasets and models, by the experiment of its cells, and problems of runs.

    Args:
        runs: a folder of runs, or of experiment folders; None for the folders that the cells write to.

    Raises:
        BadInput: if there is no such folder, or a folder has runs of several experiments.
    """
    if runs is not None and not runs.is_dir():
        raise BadInput(f"--runs {runs}: there is no such folder")
    found: dict[str, Collection] = {}
    problems: dict[str, Problem] = {}
    for name in dict.fromkeys(cell.config.experiment_name for cell in cells):
        root = runs or Path(cells[0].config.runs_dir)
        folder = root / name if runs is None or (root / name).is_dir() else root
        if not folder.is_dir():
            continue
        collection = collect(folder)
        pairs = {(cell.config.dataset.name, cell.config.model.name) for cell in cells}
        frame = collection.runs
        wanted = [pair in pairs for pair in zip(frame["dataset"], frame["model"], strict=True)]
        frame = frame.loc[wanted].reset_index(drop=True)  # .loc, because [] with an empty list selects columns
        experiments = sorted(set(frame["experiment"]))
        if len(experiments) > 1:
            raise BadInput(
                f"{folder} holds runs of several experiments ({', '.join(experiments)}); name one with --runs FOLDER"
            )
        places = {f"{dataset}-{model}" for dataset, model in pairs}
        problems |= {p.run: p for p in collection.problems if places & set(Path(folder.resolve(), p.run).parts)}
        if len(frame):
            found[name] = replace(collection, runs=frame)
    return found, list(problems.values())


def runs_of(cell: "RecordedCell", group: Collection) -> tuple[pd.DataFrame, list[Problem], list[str]]:
    """The runs of a cell's row by seed, problems of runs that belong elsewhere, and other settings that differ."""
    from rlbench.runs.directory import label_of
    from rlbench.runs.identity import canonical, stage_settings

    config = cell.config
    label = label_of(config, config.stage)
    part = group.runs[(group.runs["model"] == config.model.name) & (group.runs["label"] == label)]
    expected, usable = settings_of(canonical(stage_settings(config, config.stage))), []
    left_out: list[Problem] = []
    others: list[str] = []
    for run in part["run"]:
        if run not in group.settings:
            left_out.append(Problem(run, "without identity.json its settings are not known"))
            continue
        differing = _differing(expected, group.settings[run])
        defining = [key for key in DEFINING if key in differing]
        if defining:
            value, wanted = differing[defining[0]]
            left_out.append(Problem(run, f"{defining[0]} is {value}, and here it must be {wanted}"))
            continue
        usable.append(run)
        others += [f"{key}: {value} for {wanted}" for key, (value, wanted) in differing.items()]
    return part[part["run"].isin(usable)].sort_values("seed", kind="stable"), left_out, others


def settings_notes(others: Sequence[str]) -> list[str]:
    """Note on settings that differ from the sweep's."""
    if not others:
        return []
    counts = Counter(others)
    named = "; ".join(key for key, _ in counts.most_common(NAMED))
    more = f"; and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
    return [f"Runs with other settings than the sweep's are used all the same: {named}{more}."]


def settings_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings by dotted key, without training seeds, as in `Collection.settings`."""
    return {key: value for key, value in flatten(identity).items() if key not in ("seed", "sft.seed")}


def _differing(expected: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of a run that differ from the expected ones: the value there and the expected one.

    Input digests are ignored, because whoever reads runs need not have the data.
    """
    keys = sorted(key for key in {*expected, *there} if not key.startswith("inputs."))
    values = {key: (there.get(key, "nothing"), expected.get(key, "nothing")) for key in keys}
    return {key: both for key, both in values.items() if expected.get(key) != there.get(key)}


def gpu_hours(cell: "RecordedCell") -> float | None:
    """Upper bound on GPU-hours of a cell's own stage; None if the model has no estimate or the stage trains nothing."""
    config = cell.config
    updates = {"rl": config.trainer.rl.updates, "sft": config.trainer.sft.updates}.get(config.stage)
    if updates is None or config.model.name not in BILLIONS:
        return None
    return updates * HOURS_AN_UPDATE * BILLIONS[config.model.name] / BILLIONS["qwen2.5_0.5b"]


def command(cell: "RecordedCell") -> str:
    """The command for all seeds of a cell, as a user types it."""
    first, *rest = (text for text in cell.overrides if not text.startswith("seed="))
    return " ".join([*run_words(), first, *([] if first.endswith("=mini") else ["dataset.path=FOLDER"]), *rest])


def sweep_command(name: str, sweep: str) -> str:
    """The command for a whole sweep."""
    return f"{' '.join(run_words())} +{name}={sweep}{'' if sweep == 'mini' else ' dataset.path=FOLDER'}"


def missing_sheets(missing: "Sequence[Missing]", name: str, sweeps: Sequence[str]) -> list[Sheet]:
    """A table of rows without runs, with the commands that produce them; no table if none are missing.

    Args:
        missing: the rows.
        name: folder in experiments/.
        sweeps: its sweeps.
    """
    if not missing:
        return []
    lines, total = [], 0.0
    for backbone, title, cell in missing:
        hours = gpu_hours(cell) if cell else None
        total += hours or 0.0
        said = command(cell) if cell else "not in this sweep"
        lines.append((backbone, title, f"{hours:,.0f}" if hours else "–", said))
    notes = [f"All at once: {'; '.join(sweep_command(name, sweep) for sweep in sweeps)}"]
    if total:
        notes += [
            f"GPU-hours: at most {total:,.0f} for one seed of all that is missing; a verdict on a number takes two "
            "seeds, one on a difference three (seed=3407,3408,3409). An upper bound, inferred: a port logged 5.5 to "
            "5.7 s for 48 completions of 0.5B on two H800; 384 completions are eight times that, other backbones by "
            "parameters, SFT by updates.",
        ]
    return [sheet_of("No run yet", ("Backbone", "Method", "GPU-hours", COMMAND), lines, notes, names=2)]

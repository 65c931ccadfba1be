"""Checks of run directories that exist already: is this one the wanted run, and does it hold what the config needs?"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.content import SHOWN
from rlbench.base.digests import read_list
from rlbench.base.records import PUT_BACK, Damaged
from rlbench.config.plugins import load_plugins, plugin_digests, used_by
from rlbench.config.schema import Config
from rlbench.runs.directory import DONE, Run, label_of, locate, locate_all
from rlbench.runs.identity import INPUTS, differing_keys
from rlbench.runs.record import IDENTITY, MANIFEST

EXTERNAL = "external"
"""The stage of lists from elsewhere. The row has the system's name."""


def stage_of(root: Path) -> str | None:
    """Return the stage of the run in a directory, or None if there is no sound run."""
    try:
        return str(IDENTITY.load(root).get("stage"))
    except (FileNotFoundError, Damaged):
        return None


def check_row(config: Config) -> list[str]:
    """Return an error if lists from elsewhere have the name of a row that the config makes."""
    rows = [config.group_dir / label_of(config, stage) for stage in config.stages]
    return [
        f"{row} holds lists from elsewhere under the name of this row. Move it away, or give this row another name "
        "with variant=NAME"
        for row in rows
        if any(stage_of(path.parent) == EXTERNAL for path in row.glob(f"*/{IDENTITY.name}"))
    ]


def unmeasured(run: Run, steps: Iterable[int]) -> list[int]:
    """Return the given updates at which the run has no validation measurements."""
    measured = {row["step"] for row in run.read_metrics() if row["split"] == "validation"}
    return [step for step in steps if step not in measured]


def check_curve(config: Config) -> list[str]:
    """Return an error if a finished SFT stage lacks evaluations that the config requests."""
    run, every = locate(config, "sft"), config.trainer.sft.evaluate_every
    if "sft" not in config.stages or every is None or run.status() != DONE:
        return []
    return curve_problems(run, every, unmeasured(run, config.trainer.sft.evaluated))


def check_start(config: Config) -> list[str]:
    """Return an error if RL starts from a finished SFT stage whose model is missing."""
    if config.stages[-2:] != ("sft", "rl"):
        return []
    run = locate(config, "sft")
    if run.status() != DONE or not (missing := _missing_of_a_model(run.final_model)):
        return []
    return [
        f"{missing}, but RL starts from it. Restore it, or move {run.root} away and run the same command again to "
        "repeat that stage"
    ]


def _missing_of_a_model(folder: Path) -> str:
    """Say which file of a saved model is missing, or "". Other damage is found when the model is loaded."""
    if not folder.is_dir():
        return f"{folder} is missing"
    try:
        names = list(read_list(folder))
    except Damaged:
        names = []
    for name in (*names, "config.json"):
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
    return "" if any(folder.glob("*.safetensors")) else f"{folder} has no weights (*.safetensors)"


def curve_problems(run: Run, every: int, missing: Sequence[int]) -> list[str]:
    """Return an error if an SFT run has passed updates at which it should have been evaluated."""
    if not missing:
        return []
    first = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    return [
        f"{run.root} was trained without {len(missing)} of the evaluations that trainer.sft.evaluate_every = {every} "
        f"requires (updates {first}), and the weights of those updates are gone. Move it away and run the same "
        "command again, which trains the same weights; or use another experiment_name; or set "
        "trainer.sft.evaluate_every=null"
    ]


def check_recorded(run: Run) -> list[str]:
    """Return an error if the directory's identity.json is not this run's: edited, or of another run."""
    differences = differing_from_recorded(run)
    if not differences:
        return []
    return [
        f"{run.root} contains another run: {'; '.join(differences)} (identity.json). Move the folder away, or use "
        "another runs_dir."
    ]


def superseded(run: Run) -> list[str]:
    """Return a notice for each run of the same row, seed and settings that was made from other inputs."""
    notices = []
    for path in sorted(run.root.parent.glob(f"seed{run.seed}-*")):
        if path == run.root or not (path / IDENTITY.name).is_file():
            continue
        try:
            there = IDENTITY.load(path)
        except Damaged:
            continue  # reported when that directory is used
        now = json.loads(json.dumps(run.identity))
        if not isinstance(there.get(INPUTS), dict):
            continue
        if {**there, INPUTS: None} == {**now, INPUTS: None}:
            differences = differing_keys(there[INPUTS], now[INPUTS], shown=_shortened)
            notices.append(
                f"{path.name} is the same run with other inputs and is kept ({path}); this run is {run.root.name}: "
                f"{'; '.join(differences)}"
            )
    return notices


def _shortened(value: Any) -> str:
    return str(value)[:SHOWN]


def differing_from_recorded(run: Run) -> list[str]:
    """Return how the recorded identity differs from the run's; empty if none is recorded yet."""
    if not (run.root / IDENTITY.name).exists():
        return []
    there = IDENTITY.read(run.root, "remove it and run the same command again, which writes a new one")
    return differing_keys(there, json.loads(json.dumps(run.identity)))


def check_plugins(config: Config) -> list[str]:
    """Return an error for each stage of a config whose existing run was made with different plugin code.

    Plugins that fail to load are not reported here.

    Raises:
        BadInput: if the manifest of a run is damaged.
    """
    if load_plugins(config.plugins):
        return []
    return [
        problem for run in locate_all(config) for problem in other_plugins(run.root, used_by(run.stage, config.plugins))
    ]


def other_plugins(root: Path, names: Sequence[str]) -> list[str]:
    """Return an error if an existing run was made with different plugin code.

    Plugins are not part of a run's identity, so the directory name does not reflect them. Their content is compared,
    not their names. A sweep loads all its plugins for every cell, so added or removed plugins are allowed on their own.
    One added and one removed together count as a replacement.

    Args:
        root: the run directory; it may not exist.
        names: plugins that the run's stage uses, which have been loaded.

    Raises:
        BadInput: if the run's manifest is damaged.
    """
    if not (root / MANIFEST.name).exists():
        return []
    there, now = MANIFEST.read(root, PUT_BACK, "plugins")["plugins"], plugin_digests(names)
    lost = [name for name, digest in there.items() if digest not in now.values()]
    new = [name for name, digest in now.items() if digest not in there.values()]
    changed = sorted({*lost, *new}) if lost and new else []
    if not changed:
        return []
    sides = [
        f"{name}: sha256 was {there.get(name, 'none')[:SHOWN]}, is now {now.get(name, 'none')[:SHOWN]}"
        for name in changed
    ]
    return [
        f"{root} was made with a different version of the plugins ({'; '.join(sides)}): move it away, or give the "
        "new code its own row with variant=NAME"
    ]

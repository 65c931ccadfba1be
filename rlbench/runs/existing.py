"""Checks of run directories that exist already: is this one the wanted run, and does it hold what the config needs?"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rlbench.base.content import SHOWN
from rlbench.base.files import read_object
from rlbench.config.schema import Config
from rlbench.runs.directory import DONE, Run, locate
from rlbench.runs.identity import INPUTS, differing_keys


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
    there = (run.final_model / "config.json").is_file() and any(run.final_model.glob("*.safetensors"))
    if run.status() != DONE or there:
        return []
    return [
        f"{run.final_model} is gone, and RL starts from it: put it back, or move {run.root} away, and the same command "
        "trains that stage again"
    ]


def curve_problems(run: Run, every: int, missing: Sequence[int]) -> list[str]:
    """Return an error if an SFT run has passed updates at which it should have been evaluated."""
    if not missing:
        return []
    first = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    return [
        f"{run.root} has been trained without evaluations at {len(missing)} of the updates that "
        f"trainer.sft.evaluate_every = {every} asks for ({first}), and its weights of then are gone: move it away, and "
        "the same command trains it again, to the same weights; or use another experiment_name; or set "
        "trainer.sft.evaluate_every=null"
    ]


def check_recorded(run: Run) -> list[str]:
    """Return an error if the directory's identity.json is not this run's: edited, or of another run."""
    differences = differing_from_recorded(run)
    if not differences:
        return []
    return [
        f"{run.root} holds another run: {'; '.join(differences)} (identity.json). Move the folder away or use another "
        "runs_dir."
    ]


def superseded(run: Run) -> list[str]:
    """Return a notice for each run of the same row, seed and settings that was made from other inputs."""
    notices = []
    for path in sorted(run.root.parent.glob(f"seed{run.seed}-*")):
        recorded = path / "identity.json"
        if path == run.root or not recorded.is_file():
            continue
        try:
            there = json.loads(recorded.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            continue  # reported when that directory is used
        now = json.loads(json.dumps(run.identity))
        if not isinstance(there, dict) or not isinstance(there.get(INPUTS), dict):
            continue
        if {**there, INPUTS: None} == {**now, INPUTS: None}:
            differences = differing_keys(there[INPUTS], now[INPUTS], shown=_shortened)
            notices.append(
                f"{path.name} is the same run on other inputs and stays where it is ({path}); this one is "
                f"{run.root.name}: {'; '.join(differences)}"
            )
    return notices


def _shortened(value: Any) -> str:
    return str(value)[:SHOWN]


def differing_from_recorded(run: Run) -> list[str]:
    """Return how the recorded identity differs from the run's; empty if none is recorded yet."""
    recorded = run.root / "identity.json"
    if not recorded.exists():
        return []
    there = read_object(recorded, "remove it, and give the same command again; it writes the file anew")
    return differing_keys(there, json.loads(json.dumps(run.identity)))

"""A run in its trackers: its names, its result, and a finished run that is shown once more."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlbench.config.schema import Config
from rlbench.runs.budget import named_speed
from rlbench.runs.completions import as_table
from rlbench.runs.directory import Run
from rlbench.runs.record import COMPLETIONS, MANIFEST, MEASUREMENTS, RESULT
from rlbench.tracking import UPLOADERS, Tracker, TrackerIdentity, make_tracker


def identity_of(config: Config, target: Run, attempt: int) -> TrackerIdentity:
    """Return the names of an attempt of a run."""
    return TrackerIdentity(
        experiment=config.experiment_name,
        group=target.name,
        job_type=target.stage,
        name=f"{target.label}-seed{target.seed}",
        tags=(config.dataset.name, config.model.name, target.label),
        attempt=attempt,
        project=config.tracker.project,
        entity=config.tracker.entity,
        row=target.label,
    )


def track_result(tracker: Tracker, config: Config, result: Mapping[str, Any]) -> None:
    """Send the final values of a run, and the files that the config asks for.

    Args:
        tracker: of the run.
        config: of the run.
        result: has `metrics` by split, and `budget`.
    """
    means = {f"{split}/{name}": value for split, table in result["metrics"].items() for name, value in table.items()}
    tracker.summary({f"final/{name}": value for name, value in means.items()})
    tracker.summary(named_speed(result["budget"], "final/speed"))
    tracker.log_table("final", ["split", "metric", "value"], [[*name.split("/", 1), v] for name, v in means.items()])
    tracker.upload(config.tracker.upload)


def show_finished(config: Config, target: Run, remedy: str) -> None:
    """Show a finished run in W&B once more, from its files: an agent waits for its values.

    Args:
        config: of the run.
        target: the last stage of its cell.
        remedy: what the user can do if a file is damaged.

    Raises:
        BadInput: if a file is damaged.
    """
    origin, result = MANIFEST.read(target.root, remedy), RESULT.read(target.root, remedy)
    tracker = make_tracker(
        [mode for mode in (config.tracker.mode, *config.tracker.also) if mode in UPLOADERS] or ["none"],
        directory=target.root,
        identity=identity_of(config, target, target.attempts()),
        config={**asdict(config), "manifest": origin},
    )
    curves: dict[int, dict[str, float]] = {}
    for point in MEASUREMENTS.read(target.root, remedy):
        curves.setdefault(point["step"], {})[f"{point['split']}/{point['metric']}"] = point["value"]
    for step, points in sorted(curves.items()):
        tracker.log(points, step)
    lists: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in COMPLETIONS.read(target.root, remedy):
        lists.setdefault((row["step"], row["split"]), []).append(row)
    for (step, split), rows in sorted(lists.items()):
        tracker.log_table(f"completions/{split}", *as_table(rows), step)
    track_result(tracker, config, result)
    tracker.finish()

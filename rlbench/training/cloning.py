"""Begin a clone: copy the parent's checkpoint and logs into its directory.

After the copy a clone is an interrupted run that resumes. So optimiser, random numbers, place in the data, spending and
curve continue where the parent stood.
"""

import json
from pathlib import Path

from rlbench.base.digests import damage, difference, read_list
from rlbench.base.errors import BadInput
from rlbench.base.files import whole_file
from rlbench.config.schema import Config
from rlbench.runs.directory import Run
from rlbench.runs.record import INHERITED, Inherited
from rlbench.training.checkpoints import BEST, RESUME_FILE, last_checkpoint, publish_copy, steps_of, validations


def take_checkpoint(config: Config, run: Run) -> None:
    """Copy the parent's checkpoint into a clone that has none of its own. For the main process.

    Raises:
        BadInput: the parent's checkpoint or one of its logs is missing or damaged.
    """
    assert config.clone is not None
    if last_checkpoint(run.checkpoints) is not None:
        return
    parent, step = Path(config.runs_dir) / config.clone.run, config.clone.step
    source = checkpoint_of(parent, step)
    for name, wanted in read_list(source, "logs").items():
        with whole_file(run.root / name) as beside, (parent / name).open("rb") as log:
            beside.write_bytes(log.read(wanted["bytes"]))
    best = max((kept for kept in steps_of(parent / "checkpoints", BEST) if kept <= step), default=None)
    if best is not None:
        publish_copy(parent / "checkpoints" / f"{BEST}-{best}", run.checkpoints / f"{BEST}-{best}")
    INHERITED.write(run.root, spent_by(source, step))
    publish_copy(source, run.checkpoints / source.name)  # last, so that a run without it is begun again


def checkpoint_of(parent: Path, step: int) -> Path:
    """The folder of a run's checkpoint, checked.

    Raises:
        BadInput: it is missing or damaged, or a log has changed since it was written.
    """
    source = parent / "checkpoints" / f"checkpoint-{step}"
    if not source.is_dir():
        found = ", ".join(map(str, steps_of(parent / "checkpoints"))) or "none"
        raise BadInput(f"{parent} has no checkpoint of update {step} (checkpoints: {found}); choose one with --at")
    wrong = damage(source)
    if not wrong:
        logs = read_list(source, "logs").items()
        found_wrong = (difference(parent / name, name, wanted, grows=True) for name, wanted in logs)
        wrong = next(filter(None, found_wrong), "")
    if wrong:
        raise BadInput(f"{source} is damaged ({wrong}) and cannot be continued; choose another one with --at")
    return source


def spent_by(checkpoint: Path, step: int) -> Inherited:
    """What a run had spent by a checkpoint."""
    totals = json.loads((checkpoint / RESUME_FILE).read_text(encoding="utf-8"))["budget"]
    counts = totals["counts"]
    return {
        "updates": step,
        "prompts": counts["prompts"],
        "completions": counts["completions"],
        "generated_tokens": counts["generated_tokens"],
        "trained_tokens": counts["trained_tokens"],
        "seconds": totals["seconds"]["total"],
    }


def check_best(parent: Run, metric: str, step: int) -> list[str]:
    """Return an error if the parent no longer has its best weights of the updates up to a checkpoint."""
    values = {update: value for update, value in validations(parent, metric).items() if update <= step}
    best = max(values, key=lambda update: (values[update], -update)) if values else None
    if best is None or best in steps_of(parent.checkpoints, BEST):
        return []
    return [
        f"evaluation.checkpoint = best: the best weights of {parent.root} up to update {step} are those of update "
        f"{best}, and they are gone; choose another checkpoint with --at, or use evaluation.checkpoint=last"
    ]

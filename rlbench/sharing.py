"""Finished shared stages of other experiments: found by their identity, and taken into this experiment's folder.

An experiment's folder stays complete for the analysis, and nothing is computed twice. Weights are linked where the file
system can (no second copy on the disk), all else is copied. A stage that another command is still making is not waited
for: two commands that start together each make their own. Loads no torch.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlbench.config import Config
from rlbench.digests import check_model
from rlbench.files import partial_folder, publish, read_object, whole_file, write_json
from rlbench.models.sources import differing_files
from rlbench.runs import DONE, Run, check_done, curve_problems, status_of, unmeasured

OWN = ("STATUS", "identity.json", "config.yaml", "progress.json")
"""Files that are of a directory and not of what was computed."""
MODEL = "model"


def find_finished(run: Run, config: Config, model_files: Callable[[], Mapping[str, str]]) -> Path | None:
    """Where another experiment of the same `runs_dir` has finished the same stage; None where none has.

    Args:
        run: oracle, zero_shot or sft; nothing is found for an RL run.
        config: the cell's.
        model_files: gives file to sha256 of the model that is loaded here; a stage that began with others is not taken.
            Called only where there is a stage to compare with.

    Raises:
        BadInput: where the same stage is there and one of its files is damaged.
    """
    if run.stage == "rl":
        return None
    below = run.root.relative_to(config.group_dir.parent)
    wanted = json.loads(json.dumps(run.identity))
    for path in sorted(Path(config.runs_dir).glob(f"*/{below.as_posix()}")):
        if path.resolve() == run.root.resolve() or status_of(path) != DONE or not (path / "result.json").is_file():
            continue
        if not (path / "identity.json").is_file() or _read(path / "identity.json") != wanted:
            continue
        check_done(path)  # what follows reads its files
        if run.stage != "oracle" and differing_files(_files_of_model(path), model_files()):
            continue
        if not _lacks_curve(Run(path, run.stage, run.label, run.seed, run.hash, run.identity), config):
            return path
    return None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # damaged: whoever uses that directory is told


def _files_of_model(root: Path) -> Mapping[str, Any]:
    """The files of the model that a finished run began with; empty where its manifest, as it was written, has none."""
    model = read_object(root / "manifest.json", f"move {root} away").get("model")
    files = model.get("files") if isinstance(model, dict) else None
    return files if isinstance(files, dict) else {}


def _lacks_curve(there: Run, config: Config) -> bool:
    every = config.trainer.sft.evaluate_every if there.stage == "sft" else None
    missing = unmeasured(there, config.trainer.sft.evaluated) if every is not None else []
    return bool(every is not None and curve_problems(there, every, missing))


def adopt(run: Run, source: Path, config: Config) -> None:
    """Take a finished stage into a directory that this process holds.

    `result.json` gets this experiment's name. `result.json`, `budget.json` and `manifest.json` say where the stage was
    made (`adopted_from`), so that its cost can be counted once.

    Args:
        run: the stage here.
        source: its directory in the other experiment.
        config: the cell's.

    Raises:
        BadInput: where a file there is damaged.
    """
    check_done(source)
    check_model(source / MODEL)
    place = source.relative_to(config.runs_dir).as_posix()
    if (source / MODEL).is_dir():
        made = partial_folder(run.root / MODEL)
        shutil.copytree(source / MODEL, made, copy_function=_link)
        publish(made, run.root / MODEL)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in OWN and not path.name.startswith("."):
            with whole_file(run.root / path.name) as beside:
                shutil.copyfile(path, beside)
    for name in ("result.json", "budget.json", "manifest.json"):
        content = read_object(run.root / name, f"move {source} away")
        if name == "result.json":
            content |= {"experiment": config.experiment_name, "budget": content["budget"] | {"adopted_from": place}}
        else:
            content |= {"adopted_from": place}
        write_json(run.root / name, content)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)

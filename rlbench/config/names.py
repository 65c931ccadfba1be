"""Checks the names and paths of a config: experiments, rows, datasets, models and files. Loads no torch."""

from collections.abc import Iterable
from pathlib import Path

from rlbench.config.baselines import BASELINES
from rlbench.config.schema import USUAL_DRAWING, Config, FileModelConfig

LONGEST = 255
"""Maximum bytes of one name in a file system."""
LONGEST_PATH = 4095
"""Maximum bytes of a path on Linux."""
LONGEST_PROJECT = 128
NOT_IN_PROJECTS = "/\\#?%:"
"""Characters that W&B forbids in the name of a project."""


def odd_name(name: str) -> str:
    """Return why a text cannot be a folder name, or "" if it can."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "contains half a character (a lone surrogate)"
    if not name.strip():
        return "is empty"
    if name in (".", ".."):
        return "means the folder itself or its parent"
    if "/" in name or "\\" in name:
        return "contains a path separator"
    if not name.isprintable():
        return "contains a newline or another control character"
    return f"is longer than {LONGEST} bytes" if size > LONGEST else ""


def odd_path(path: str) -> str:
    """Return why a text cannot be a path, or "". No file is looked at."""
    try:
        sizes = [len(part.encode()) for part in path.split("/")]
    except UnicodeEncodeError:
        return "contains half a character (a lone surrogate)"
    if not path.strip():
        return "is empty"
    if not path.isprintable():
        return "contains a newline or another control character"
    if max(sizes) > LONGEST:
        return f"has a part longer than {LONGEST} bytes"
    return f"is longer than {LONGEST_PATH} bytes" if sum(sizes) + len(sizes) - 1 > LONGEST_PATH else ""


def odd_project(name: str) -> str:
    """Return why a text cannot name a tracker's project, or ""."""
    if odd := odd_name(name):
        return odd
    if len(name) > LONGEST_PROJECT:
        return f"is longer than {LONGEST_PROJECT} characters"
    wrong = [letter for letter in NOT_IN_PROJECTS if letter in name]
    return f"contains {' '.join(wrong)}, which W&B does not allow" if wrong else ""


def folders_to_write(config: Config) -> dict[str, str]:
    """Return the folders that a run writes to, by key. By default the data cache is inside `cache_dir`."""
    folders = {"runs_dir": config.runs_dir, "cache_dir": config.cache_dir}
    data = config.runtime.data_cache
    if data is not None and not Path(data).is_relative_to(config.cache_dir):
        folders["runtime.data_cache"] = data
    return folders


def check_paths(config: Config) -> list[str]:
    """Return one sentence per invalid path in a config. Only the text counts: the files need not exist."""
    of_data = {f"dataset.{key}": getattr(config.dataset, key) for key in config.dataset.paths}
    of_model = {f"model.{key}": getattr(config.model, key) for key in config.model.paths}
    paths = {**folders_to_write(config), **of_data, **of_model}
    model = config.model.path if isinstance(config.model, FileModelConfig) else None
    given = {key: path for key, path in paths.items() if path is not None}
    problems = [f"{key} = {_shown(path)} {odd}; give a path" for key, path in given.items() if (odd := odd_path(path))]
    for key, path in given.items():
        if key != "model.path" and (path == "~" or path.startswith("~/")):
            problems.append(f"{key} = {path}: ~ is not expanded to your home folder; write the full path")
    if model is not None and model.startswith("~") and not odd_path(model):
        try:
            Path(model).expanduser()
        except RuntimeError:
            problems.append(f"model.path = {model}: there is no user of that name; write the full path")
    return problems


def _shown(text: str) -> str:
    """Return a text as one short line."""
    return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}..."


HIDDEN = "starts with a dot, which marks hidden and unfinished folders"
OTHER_STAGES = ("oracle", "zero_shot", "sft")
"""Stages whose rows are named after them. Rows of RL have the names of algorithm and reward."""


def row_of_runs(name: str, algorithms: Iterable[str], rewards: Iterable[str]) -> str:
    """Return which row of runs has or could have a name, or "" if none.

    Runs have the rows `oracle`, `zero_shot`, `sft`, one per baseline, and `algorithm-reward`, all but baselines also
    with `@variant`. Case is ignored, because some file systems ignore it.

    Args:
        name: name of a row that is not a run's.
        algorithms, rewards: the known names. A name counts with a known algorithm or a known reward, because the other
            one may be added later.
    """
    row = name.casefold().partition("@")[0]
    if row in OTHER_STAGES:
        return f"the stage {row}"
    if row in BASELINES:
        return f"the baseline {row}"
    method = next((one for one in algorithms if row.startswith(f"{one.casefold()}-")), None)
    if method is not None:
        return f"runs of algorithm={method}"
    reward = next((one for one in rewards if row.endswith(f"-{one.casefold()}")), None)
    return "" if reward is None else f"runs with reward={reward}"


def _hidden(key: str, name: str) -> str:
    """Return why a folder that begins with this name would be hidden, or ""."""
    begins = key in ("experiment_name", "dataset.name", "algorithm.name") and name.startswith(".")
    return HIDDEN if begins else ""


def _names_of_defaults(config: Config) -> list[str]:
    """Return one sentence for each choice that has the name of the default. Its rows would look like the default's."""
    return [
        f"{key}.name = {name} names the default, but {key} is another here, and its rows would have that name; give "
        f"it one of its own, such as {key}.name=mine"
        for key, name in config.drawn.items()
        if name == USUAL_DRAWING[key]
    ]


def check_names(config: Config) -> list[str]:
    """Return one sentence per invalid name in a config."""
    project = config.tracker.project
    names = {
        "experiment_name": config.experiment_name,
        "variant": config.variant or "none",
        "algorithm.name": config.algorithm.name,
        "reward.name": config.reward.name,
        "dataset.name": config.dataset.name,
        "model.name": config.model.name,
        "adapter.name": config.adapter.name,
        "sampler.name": config.sampler.name,
        "rollout.name": config.rollout.name,
        "schedule.name": config.schedule.name,
        "tracker.entity": "none" if config.tracker.entity is None else config.tracker.entity,
    }
    odd = [(key, name, odd_name(name) or _hidden(key, name)) for key, name in names.items()]
    odd.append(("tracker.project", project, odd_project(project)))
    problems = [f"{key} = {_shown(name)} {why}; give another name, such as {key}=mine" for key, name, why in odd if why]
    problems += _names_of_defaults(config)
    if problems or check_paths(config):
        return problems  # the row's name is made of these
    if why := odd_name(config.label):
        source = config.dataset.demonstration_source
        shorter = " or rename the file in dataset.demonstrations_from" if source else ""
        problems.append(f"the row's name {_shown(config.label)} {why}; choose another with variant=NAME{shorter}")
    return problems

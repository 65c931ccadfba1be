"""Command-line checks for `run.py`: checks names before Hydra does and reports all problems at once."""

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlbench.base.errors import BadInput, nearest, nearest_key
from rlbench.base.program import CONF, EXPERIMENTS, as_started
from rlbench.base.user_files import read_user_yaml, unreachable
from rlbench.config.plugins import load_plugins
from rlbench.config.resolving import MISTYPED, NO_SETTINGS, of_another_family, resolve
from rlbench.config.schema import POLICY_OPTIMISATION, Config
from rlbench.running.checks import check_values
from rlbench.running.words import one_value, parse, repeated, split, sweeps, values, wrong_groups
from rlbench.runs.processes import let_the_main_process_speak

CONFIG = "config"
"""Name of the primary config of `conf/`."""
OF_SWEEPS = ("hydra.mode=RUN", "hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.")
"""Overrides of Hydra that change nothing in one run."""


def fail(error: BadInput) -> NoReturn:
    """Print all problems once (main process only) and exit with code 2."""
    let_the_main_process_speak()
    count = len(error.problems)
    print(f"rlbench: {count} problem{'s' if count > 1 else ''}, nothing was run:", file=sys.stderr)
    for problem in error.problems:
        print(f"  - {problem}", file=sys.stderr)
    for notice in error.notices:
        print(f"  note: {notice}", file=sys.stderr)
    raise SystemExit(2)


def groups(more: Path | None = None) -> dict[str, list[str]]:
    """Return the config groups and their options of `conf/`, `experiments/` and an optional third folder."""
    found: dict[str, list[str]] = {}
    for folder in [CONF, EXPERIMENTS, *([more] if more else [])]:
        for path in sorted(folder.rglob("*.yaml")):
            group = path.parent.relative_to(folder).as_posix()
            if group != ".":
                found.setdefault(group, []).append(path.name.removesuffix(".yaml"))
    return found


def methods(family: str) -> list[str]:
    """Return the names of the algorithms in `conf/` that belong to a family."""
    texts = {name: (CONF / "algorithm" / f"{name}.yaml").read_text(encoding="utf-8") for name in groups()["algorithm"]}
    return [name for name, text in texts.items() if yaml.safe_load(text).get("family", POLICY_OPTIMISATION) == family]


def in_config() -> list[str]:
    """Return the groups of which every config has an option, from the defaults list of conf/config.yaml."""
    defaults = read_user_yaml(CONF / f"{CONFIG}.yaml")["defaults"]
    return [key.split()[-1] for entry in defaults if isinstance(entry, dict) for key in entry]


def config_dir(arguments: Sequence[str]) -> Path | None:
    """Return the folder given with `--config-dir`, which holds the user's own configs, or None.

    Raises:
        BadInput: if the folder does not exist.
    """
    named = split(arguments).folder
    if named is not None and (reason := unreachable(named)):
        raise BadInput(f"--config-dir {named} cannot be read: {reason}")
    if named is not None and not named.is_dir():
        raise BadInput(
            f"--config-dir {named}: there is no such folder; give a folder with config groups, laid out like conf/"
        )
    return named.resolve() if named is not None else None


def check_overrides(arguments: Sequence[str]) -> DictConfig:
    """Check the groups, options and config keys on a command line, and the files of a user's config folder.

    Returns:
        The config, including Hydra's own settings. A sweep has the first of each list of values.

    Raises:
        BadInput: for every unknown name, with the nearest valid one, every misuse of Hydra's grammar, and every
            unusable file.
    """
    folder = config_dir(arguments)
    known, usual = groups(folder), in_config()
    overrides = parse(split(arguments).others, known, usual)
    problems = _hidden(folder) if folder and folder != CONF else []
    problems += repeated(overrides) + wrong_groups(overrides, known, usual) + _plugins(overrides)
    if folder and not problems:
        of_groups = [override for override in overrides if override.key_or_group in known]
        problems += [
            problem
            for o in of_groups
            for problem in _unreadable(folder / o.key_or_group, values(o, known[o.key_or_group]))
        ]
    if problems:
        raise BadInput(*problems)
    single = [one_value(o, known.get(o.key_or_group, ())) for o in overrides if not o.is_interval_sweep()]
    composed = _composed(folder, single, [o for o in overrides if o.key_or_group not in known], known)
    if composed.hydra.mode is not RunMode.MULTIRUN and "multirun" not in split(arguments).flags:
        problems += sweeps(overrides, known)
    swept = [v for o in overrides if o.key_or_group == "algorithm" for v in values(o, known["algorithm"])]
    for override in overrides:
        name = override.key_or_group
        if name not in known and override.type is OverrideType.CHANGE:
            # A key of an interval is not in the composed command line.
            problems += _unknown_key(composed, override, known) or _unknown_to_others(name, swept[1:])
    if problems:
        raise BadInput(*problems)
    return composed


def is_one_run(arguments: Sequence[str], composed: DictConfig) -> bool:
    """Whether a checked command line asks for one run, and for nothing else of Hydra."""
    words = split(arguments)
    of_hydra = [word for word in words.others if word.lstrip("+~").startswith("hydra")]
    plain = all(word.startswith(OF_SWEEPS) for word in of_hydra)
    return plain and not words.flags and composed.hydra.mode is not RunMode.MULTIRUN


def without_hydra(composed: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own settings. Changes the config."""
    with open_dict(composed):
        del composed["hydra"]
    return composed


def config_of(overrides: Sequence[str], folder: Path | None = None) -> Config:
    """Return the config of a command that runs no cell, such as `rlbench.teach`. Loads its plugins.

    Args:
        overrides: settings KEY=VALUE.
        folder: the user's config folder, or None.

    Raises:
        BadInput: for every unknown name and every invalid value.
    """
    words = [] if folder is None else ["--config-dir", str(folder)]
    config = resolve(without_hydra(check_overrides([*words, *overrides])))
    if problems := load_plugins(config.plugins) or check_values(config):
        raise BadInput(*problems)
    return config


def _plugins(overrides: Sequence[Override]) -> list[str]:
    return [
        f"plugins={value} must be a list; write plugins=[folder/file.py] or plugins=[package.module]"
        for override in overrides
        if override.key_or_group == "plugins" and not override.is_delete()
        for value in values(override)
        if not value.startswith(("[", "$"))
    ]


def _composed(
    folder: Path | None, words: Sequence[str], settings: Sequence[Override], known: Mapping[str, Sequence[str]]
) -> DictConfig:
    """Compose a config.

    Args:
        folder: the user's config folder, or None.
        words: the overrides, with one value each.
        settings: those of the overrides that choose no option of a group.
        known: the options of each config group.

    Raises:
        BadInput: for every unknown key, or with Hydra's reason.
    """
    searched = [f"hydra.searchpath=['file://{folder}']"] if folder else []
    lines = {str(override.input_line).partition("=")[0] for override in settings}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return compose(CONFIG, overrides=[*searched, *words], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            reason = _reason(error)
        try:
            chosen = [word for word in words if word.partition("=")[0] not in lines]
            composed = compose(CONFIG, overrides=[*searched, *chosen], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise BadInput(f"config: {_reason(error)}") from error
    raise BadInput(*([said for o in settings for said in _misplaced(composed, o, known)] or [f"config: {reason}"]))


def _reason(error: Exception) -> str:
    """Return the message of Hydra, or of the error that made it stop, on one line."""
    said = str(error) or str(error.__cause__)
    return said.strip().splitlines()[0].rstrip(".")


def _misplaced(composed: DictConfig, override: Override, known: Mapping[str, Sequence[str]]) -> list[str]:
    """Report a setting that does not exist, or one that is added although it exists."""
    name, line = override.key_or_group, str(override.input_line)
    if override.is_force_add():
        return []
    unknown = _unknown_key(composed, override, known)
    if override.is_add():
        right = line.removeprefix("+")
        return [] if unknown else [f"{line}: the config has {name} already; write {right}"]
    return unknown


def _hidden(folder: Path) -> list[str]:
    """Report files of a folder that Hydra would ignore because `conf/` has a file of the same name."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*.yaml")))
    return [
        f"--config-dir {folder}: conf/ also has a file {file.as_posix()}, which would be used instead; rename yours"
        for file in files
        if (CONF / file).is_file()
    ]


def _unreadable(group: Path, options: Iterable[str]) -> list[str]:
    """Report YAML errors in the selected options of a user's config folder."""
    problems = []
    for path in (group / f"{option}.yaml" for option in options):
        try:
            if path.exists() or path.is_symlink():
                read_user_yaml(path)
        except BadInput as error:
            problems += error.problems
    return problems


def _unknown_to_others(name: str, algorithms: Sequence[str]) -> list[str]:
    """Report a setting unknown to a later algorithm of a sweep. Composing the config checks the first."""
    section, _, key = name.partition(".")
    files = [CONF / "algorithm" / f"{algorithm}.yaml" for algorithm in algorithms]
    said = [
        of_another_family(section, key, yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in files
        if key and path.is_file()
    ]
    return [sentence for sentence in said if sentence][:1]


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Return the dotted keys of the settings below a node."""
    found = []
    for key in map(str, node):
        if not prefix and key in ("hydra", *NO_SETTINGS):
            continue
        found.append(f"{prefix}{key}")
        if not OmegaConf.is_interpolation(node, key) and isinstance(node._get_node(key), DictConfig):
            found += _keys(node[key], f"{prefix}{key}.") if node[key] is not None else []
    return found


def _unknown_key(composed: DictConfig, override: Override, known: Mapping[str, Sequence[str]]) -> list[str]:
    node: object = composed
    name = override.key_or_group
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node:
            keys = [str(key) for key in node] if isinstance(node, DictConfig) else []
            keys = [key for key in keys if key != "hydra"] + (list(known) if depth == 0 else [])
            if depth and (said := of_another_family(parts[0], ".".join(parts[1:]), composed[parts[0]])):
                return [said]
            where = ".".join(parts[:depth]) or "the config"
            # If the name is similar to a key of the same level, it is a typo; otherwise it may belong to another level.
            near = difflib.get_close_matches(part, keys, n=1, cutoff=MISTYPED)
            said = nearest(part, keys) if near else nearest_key(name, _keys(composed)) or nearest(part, keys)
            said = said or f" {as_started('python run.py')} --cfg job shows all keys"
            return [f"{override.input_line}: {where} has no key '{part}'.{said}"]
        if OmegaConf.is_interpolation(node, part) or OmegaConf.is_missing(node, part):
            return []
        node = node[part]
    return []

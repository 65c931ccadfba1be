"""What `run.py` does around a config: checks names before Hydra does, and prints what is wrong in one report."""

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from rlbench.config import POLICY_OPTIMISATION, of_another_family
from rlbench.errors import BadInput, nearest, nearest_key
from rlbench.processes import let_the_main_process_speak
from rlbench.user_files import read_user_yaml

CONF = Path(__file__).resolve().parent.parent / "conf"
EXPERIMENTS = CONF.parent / "experiments"
"""Sweeps of paper tables, which Hydra finds behind `conf/`: `+table1=sweep`."""

NO_SETTINGS = ("hydra", "tuned")
"""Sections of a composed config that hold no setting of a run."""
MISTYPED = 0.7
"""How like a key of its level a name must be to count as that key, mistyped."""


def fail(error: BadInput) -> NoReturn:
    """Print every problem, on one process, and exit with 2."""
    let_the_main_process_speak()
    count = len(error.problems)
    print(f"rlbench: {count} problem{'s' if count > 1 else ''}, nothing was run:", file=sys.stderr)
    for problem in error.problems:
        print(f"  - {problem}", file=sys.stderr)
    raise SystemExit(2)


def groups(more: Path | None = None) -> dict[str, list[str]]:
    """Config groups and their options, as found in `conf/`, `experiments/` and a folder of the same shape."""
    found: dict[str, list[str]] = {}
    for folder in [CONF, EXPERIMENTS, *([more] if more else [])]:
        for path in sorted(folder.rglob("*.yaml")):
            group = path.parent.relative_to(folder).as_posix()
            if group != ".":
                found.setdefault(group, []).append(path.name.removesuffix(".yaml"))
    return found


def methods(family: str) -> list[str]:
    """The algorithms of `conf/` that are of a family."""
    texts = {name: (CONF / "algorithm" / f"{name}.yaml").read_text(encoding="utf-8") for name in groups()["algorithm"]}
    return [name for name, text in texts.items() if yaml.safe_load(text).get("family", POLICY_OPTIMISATION) == family]


def config_dir(arguments: Sequence[str]) -> Path | None:
    """The folder that `--config-dir` names, where a user keeps configurations of their own.

    Raises:
        BadInput: where there is no such folder.
    """
    named = _split(arguments)[0]
    if named is not None and not named.is_dir():
        raise BadInput(f"--config-dir {named}: there is no such folder; it holds groups as conf/ does")
    return named.resolve() if named is not None else None


def _split(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that `--config-dir` names, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--cfg", "-c")  # Hydra's too: argparse would take it for a short -cd
    found, others = parser.parse_known_args(arguments)
    return found.config_dir, others


def check_overrides(arguments: Sequence[str]) -> None:
    """Check the names on a command line: groups, options and config keys; and the files of a folder of one's own.

    Raises:
        BadInput: for every unknown name, with the nearest valid one, and every file that could not be used.
    """
    texts = [argument for argument in _split(arguments)[1] if "=" in argument and not argument.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except (HydraException, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise BadInput(f"command line: {str(error).splitlines()[0]}") from error
    folder = config_dir(arguments)
    known, choices = groups(folder), []
    problems = _hidden(folder) if folder and folder != CONF else []
    for override in overrides:
        if override.key_or_group == "plugins":
            problems += [
                f"plugins={value}: it must be a list; write plugins=[folder/file.py] or plugins=[package.module]"
                for value in _values(override)
                if not value.startswith(("[", "$"))
            ]
        if override.key_or_group in known:
            wrong = [v for v in _values(override) if v not in (*known[override.key_or_group], "null")]
            problems += [
                f"{override.key_or_group}={value}: there is no such {override.key_or_group}; known: "
                f"{', '.join(known[override.key_or_group])}.{nearest(value, known[override.key_or_group])}"
                for value in wrong
            ]
            if not wrong:
                choices.append(_first_choice(override))
                problems += _unreadable(folder / override.key_or_group, _values(override)) if folder else []
    if problems:
        raise BadInput(*problems)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            searched = [f"hydra.searchpath=['file://{folder}']"] if folder else []
            composed = compose("config", overrides=[*searched, *choices], return_hydra_config=True)
        except HydraException as error:
            raise BadInput(f"config: {str(error).splitlines()[0]}") from error
    swept = [value for override in overrides if override.key_or_group == "algorithm" for value in _values(override)]
    for override in overrides:
        name = override.key_or_group
        if name not in known and not override.is_add() and not override.is_force_add():
            problems += _unknown_key(composed, name, known) or _unknown_to_others(name, swept[1:])
    if problems:
        raise BadInput(*problems)


def _hidden(folder: Path) -> list[str]:
    """Files of a folder that Hydra would pass over for those of the same name in `conf/`."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*.yaml")))
    return [
        f"--config-dir {folder}: conf/ has a file {file.as_posix()} too, and that one would be taken; rename yours"
        for file in files
        if (CONF / file).is_file()
    ]


def _unreadable(group: Path, options: Iterator[str]) -> list[str]:
    """What is wrong with the YAML of options that a folder of one's own has."""
    problems = []
    for path in (group / f"{option}.yaml" for option in options):
        try:
            if path.exists() or path.is_symlink():
                read_user_yaml(path)
        except BadInput as error:
            problems += error.problems
    return problems


def _values(override: Override) -> Iterator[str]:
    if override.is_sweep_override() and not override.is_discrete_sweep():
        yield str(override.input_line).partition("=")[2]
    elif override.is_sweep_override():
        yield from (str(value) for value in override.sweep_string_iterator())
    else:
        yield str(override.value()) if override.value() is not None else "null"


def _first_choice(override: Override) -> str:
    prefix = "+" if override.is_add() else ""
    return f"{prefix}{override.key_or_group}={next(_values(override))}"


def _unknown_to_others(name: str, algorithms: Sequence[str]) -> list[str]:
    """What is wrong with a setting for the further algorithms of a sweep, the first of which has been composed."""
    section, _, key = name.partition(".")
    files = [CONF / "algorithm" / f"{algorithm}.yaml" for algorithm in algorithms]
    said = [
        of_another_family(section, key, yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in files
        if key and path.is_file()
    ]
    return [sentence for sentence in said if sentence][:1]


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    """The dotted keys of settings below a node."""
    found = []
    for key in map(str, node):
        if not prefix and key in NO_SETTINGS:
            continue
        found.append(f"{prefix}{key}")
        if not OmegaConf.is_interpolation(node, key) and isinstance(node._get_node(key), DictConfig):
            found += _keys(node[key], f"{prefix}{key}.") if node[key] is not None else []
    return found


def _unknown_key(composed: DictConfig, name: str, known: dict[str, list[str]]) -> list[str]:
    node: object = composed
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node:
            keys = [str(key) for key in node] if isinstance(node, DictConfig) else []
            keys = [key for key in keys if key != "hydra"] + (list(known) if depth == 0 else [])
            if depth and (said := of_another_family(parts[0], ".".join(parts[1:]), composed[parts[0]])):
                return [said]
            where = ".".join(parts[:depth]) or "the config"
            # What has the nearest name on its own level was mistyped; else it may stand somewhere else.
            near = difflib.get_close_matches(part, keys, n=1, cutoff=MISTYPED)
            said = nearest(part, keys) if near else nearest_key(name, _keys(composed)) or nearest(part, keys)
            return [f"{name}: {where} has no key '{part}'.{said}"]
        if OmegaConf.is_interpolation(node, part) or OmegaConf.is_missing(node, part):
            return []
        node = node[part]
    return []

"""Command-line checks for `run.py`: checks names before Hydra does and reports all problems at once."""

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

from rlbench.base.errors import BadInput, nearest, nearest_key
from rlbench.base.program import CONF, EXPERIMENTS
from rlbench.base.user_files import read_user_yaml
from rlbench.config.resolving import MISTYPED, NO_SETTINGS, of_another_family
from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.runs.processes import let_the_main_process_speak


def fail(error: BadInput) -> NoReturn:
    """Print all problems once (main process only) and exit with code 2."""
    let_the_main_process_speak()
    count = len(error.problems)
    print(f"rlbench: {count} problem{'s' if count > 1 else ''}, nothing was run:", file=sys.stderr)
    for problem in error.problems:
        print(f"  - {problem}", file=sys.stderr)
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


def config_dir(arguments: Sequence[str]) -> Path | None:
    """Return the folder given with `--config-dir`, which holds the user's own configs, or None.

    Raises:
        BadInput: if the folder does not exist.
    """
    named = _split(arguments)[0]
    if named is not None and not named.is_dir():
        raise BadInput(
            f"--config-dir {named}: there is no such folder; give a folder with config groups, laid out like conf/"
        )
    return named.resolve() if named is not None else None


def _split(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the folder given with `--config-dir`, and the remaining arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--cfg", "-c")  # a Hydra flag; without it argparse would read it as an abbreviated -cd
    found, others = parser.parse_known_args(arguments)
    return found.config_dir, others


def check_overrides(arguments: Sequence[str]) -> None:
    """Check the groups, options and config keys on a command line, and the files of a user's config folder.

    Raises:
        BadInput: for every unknown name, with the nearest valid one, and for every unusable file.
    """
    texts = [argument for argument in _split(arguments)[1] if "=" in argument and not argument.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(texts)
    except (HydraException, ValueError) as error:  # ValueError: an integer with thousands of digits
        raise BadInput(f"command line: {str(error).splitlines()[0]}") from error
    folder = config_dir(arguments)
    known, choices = groups(folder), []
    problems = _hidden(folder) if folder and folder != CONF else []
    for override in overrides:
        if override.key_or_group == "plugins":
            problems += [
                f"plugins={value} must be a list; write plugins=[folder/file.py] or plugins=[package.module]"
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
    """Report files of a folder that Hydra would ignore because `conf/` has a file of the same name."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*.yaml")))
    return [
        f"--config-dir {folder}: conf/ also has a file {file.as_posix()}, which would be used instead; rename yours"
        for file in files
        if (CONF / file).is_file()
    ]


def _unreadable(group: Path, options: Iterator[str]) -> list[str]:
    """Report YAML errors in the selected options of a user's config folder."""
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
            # If the name is similar to a key of the same level, it is a typo; otherwise it may belong to another level.
            near = difflib.get_close_matches(part, keys, n=1, cutoff=MISTYPED)
            said = nearest(part, keys) if near else nearest_key(name, _keys(composed)) or nearest(part, keys)
            return [f"{name}: {where} has no key '{part}'.{said}"]
        if OmegaConf.is_interpolation(node, part) or OmegaConf.is_missing(node, part):
            return []
        node = node[part]
    return []

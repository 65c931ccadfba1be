"""The words of a command line of `run.py`: flags of Hydra, and overrides. Says what is wrong with each word."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer, ValueType
from hydra.errors import HydraException

from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import as_started
from rlbench.config.resolving import as_sweep

SWITCHES = (
    "--help -h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run -r",
    "--multirun -m",
    "--shell-completion -sc",
)
"""Hydra's flags without a value."""
WITH_VALUE = ("--cfg -c", "--package -p", "--config-path -cp", "--config-name -cn", "--experimental-rerun")
"""Hydra's flags with a value, except `--config-dir`."""

LONGEST = 80
"""Number of characters to show of a word."""
SUGGESTED = 3
"""Maximum number of groups in a suggestion."""


@dataclass(frozen=True)
class Words:
    """The words of a command line.

    Attributes:
        folder: the folder given with `--config-dir`, or None.
        flags: the long names of Hydra's other flags, with `_` for `-`.
        others: the overrides, and all words that are none of these.
    """

    folder: Path | None
    flags: frozenset[str]
    others: list[str]


def split(arguments: Sequence[str]) -> Words:
    """Split the words of a command line into flags and overrides."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--info", "-i", nargs="?", const="all")
    for names in SWITCHES:
        parser.add_argument(*names.split(), action="store_true")
    for names in WITH_VALUE:
        parser.add_argument(*names.split())
    found, others = parser.parse_known_args(arguments)
    flags = vars(found)
    folder = flags.pop("config_dir")
    return Words(folder, frozenset(name for name, value in flags.items() if value), others)


def parse(words: Sequence[str], groups: Mapping[str, Sequence[str]], in_config: Sequence[str]) -> list[Override]:
    """Parse overrides.

    Args:
        words: of the command line, without flags.
        groups: the options of each config group.
        in_config: the groups of which every config has an option.

    Raises:
        BadInput: for every word that is no override.
    """
    parser = OverridesParser.create()
    overrides: list[Override] = []
    problems = []
    for word in words:
        if said := _no_override(word, groups, in_config):
            problems.append(said)
            continue
        try:
            overrides.append(parser.parse_override(word))
        except (HydraException, ValueError) as error:  # ValueError: an integer with thousands of digits
            reason = next(line for line in str(error).splitlines() if not line.startswith("Error parsing"))
            problems.append(
                f"command line: {reason}, in {word[:LONGEST]}; put a text with spaces, quotes or any of ,:=()[]{{}} "
                "into two pairs of quotes, such as 'key=\"a, b\"'"
            )
    if problems:
        raise BadInput(*problems)
    return overrides


def _no_override(word: str, groups: Mapping[str, Sequence[str]], in_config: Sequence[str]) -> str:
    """Return what is wrong with a word that does not have the form of an override, or ""."""
    if word.startswith("-"):
        known = [name for names in (*SWITCHES, *WITH_VALUE, "--config-dir", "--info") for name in names.split()]
        return f"{word}: there is no such option.{nearest(word, known)} See {as_started('python run.py --hydra-help')}"
    key, equals, _ = word.partition("=")
    if not key.strip("+~ "):
        return f"{word}: a setting needs a key; write KEY=VALUE, without spaces"
    if equals or word.startswith("~"):
        return ""
    if word in groups:
        return f"{word}: a group needs an option; write {written(word, 'OPTION', in_config)}, with one of " + ", ".join(
            groups[word]
        )
    found = [written(group, word, in_config) for group, options in groups.items() if word in options][:SUGGESTED]
    meant = f"{' or '.join(found)}" if found else f"{word}=VALUE"
    return f"{word}: neither a setting nor an option of a group; write {meant}"


def written(group: str, option: str, in_config: Sequence[str]) -> str:
    """Return how a command chooses an option of a group."""
    return f"{'' if group in in_config else '+'}{group}={option}"


def _own_option(group: str, value: str) -> str:
    """Return how to give an option of one's own, for the message about an unknown one."""
    plugin = " and, if a plugin loads it, plugins=[FILE.py]" if group == "dataset" else ""
    return f" An option of your own needs --config-dir FOLDER, with {group}/{value}.yaml in it{plugin}"


def wrong_groups(
    overrides: Sequence[Override], groups: Mapping[str, Sequence[str]], in_config: Sequence[str]
) -> list[str]:
    """Report unknown options of groups, and groups with a sign that does not fit.

    Args:
        overrides: of the command line.
        groups: the options of each config group.
        in_config: the groups of which every config has an option.
    """
    problems = []
    for override in overrides:
        group = override.key_or_group
        if group not in groups:
            continue
        if override.is_delete():
            if group not in in_config:
                problems.append(f"{override.input_line}: the config has no option of {group}; leave it out")
            continue
        if isinstance(override.value(), list):
            problems.append(f"{override.input_line}: a run has one {group}{as_sweep(group, override.value())}")
            continue
        problems += [
            f"{group}={value}: there is no such {group}; known: {', '.join(groups[group])}."
            f"{nearest(value, list(groups[group]))}{_own_option(group, value)}"
            for value in values(override, groups[group])
            if value not in groups[group]
        ]
        option = str(override.input_line).partition("=")[2]
        right = written(group, option, in_config)
        if override.input_line == right:
            continue
        if override.package is not None:
            reason = "a group cannot get another place (@)"
        elif group in in_config:
            reason = f"every config has an option of {group}"
        else:
            reason = f"the config has no option of {group} unless the command adds one"
        problems.append(f"{override.input_line}: {reason}; write {right}")
    return problems


def repeated(overrides: Sequence[Override]) -> list[str]:
    """Report keys and groups that a command line sets more than once."""
    by_key: dict[str, list[str]] = {}
    for override in overrides:
        if not override.is_delete():
            by_key.setdefault(override.key_or_group, []).append(str(override.input_line))
    return [
        f"{key} is set {len(lines)} times ({', '.join(lines)}); keep one"
        for key, lines in by_key.items()
        if len(lines) > 1
    ]


def sweeps(overrides: Sequence[Override], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Report overrides with several values on the command line of one run."""
    problems = []
    for override in overrides:
        if not override.is_sweep_override():
            continue
        line, value = str(override.input_line), str(override.input_line).partition("=")[2]
        if not override.is_discrete_sweep():
            advice = f"add -m hydra/sweeper=optuna to search it: {as_started('python run.py')} -m hydra/sweeper=optuna"
            problems.append(f"{line}: one run has one value; {advice} '{line}' ...")
            continue
        advice = f"add -m to run one cell for each: {as_started('python run.py')} -m {line} ..."
        if override.is_choice_sweep() and override.key_or_group not in groups:
            advice += f" (a list is written [{value}], a text with a comma '{override.get_key_element()}=\"{value}\"')"
        problems.append(f"{line}: one run has one value; {advice}")
    return problems


def values(override: Override, options: Sequence[str] = ()) -> Iterator[str]:
    """Yield the values of an override as texts; an interval is one text.

    Args:
        override: of the command line.
        options: the options of its group, from which a `glob` chooses.
    """
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        yield from override.value().filter(list(options))  # type: ignore[union-attr]
    elif override.is_sweep_override() and not override.is_discrete_sweep():
        yield str(override.input_line).partition("=")[2]
    elif override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        yield str(override.value()) if override.value() is not None else "null"


def one_value(override: Override, options: Sequence[str] = ()) -> str:
    """Return an override with the first of its values, in Hydra's grammar.

    Args:
        override, options: as in `values`.
    """
    if not override.is_discrete_sweep():
        return str(override.input_line)
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        first: object = next(values(override, options))
    else:
        first = next(iter(override.sweep_iterator(Transformer.encode)))
    return f"{override.get_key_element()}={first}"


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """Return a command line without the overrides whose key a later one sets again."""
    keys = [word.partition("=")[0].lstrip("+") if "=" in word else "" for word in arguments]
    return [word for place, word in enumerate(arguments) if not keys[place] or keys[place] not in keys[place + 1 :]]

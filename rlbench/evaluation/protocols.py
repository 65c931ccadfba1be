"""Protocols: how stored lists are scored again. A protocol has matching rules, a list length and cut-offs."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import CONF
from rlbench.config.resolving import wrong_types
from rlbench.config.schema import MatchingConfig
from rlbench.lists.catalog import check_matching
from rlbench.runs.record import Manifest, Result

MATCHING = CONF / "matching"
OWN = "own"
"""Name of the protocol that keeps each run's own matching rules."""


@dataclass(frozen=True)
class Protocol:
    """How lists are scored.

    Attributes:
        name: as the user wrote it.
        matching: matching rules for titles; None for each run's own.
        list_length: N; None for each run's own.
        cutoffs: K of the metrics; None for each run's own.
    """

    name: str
    matching: MatchingConfig | None
    list_length: int | None
    cutoffs: tuple[int, ...] | None


@dataclass(frozen=True)
class Rules:
    """The rules of a protocol for one run, with every part known."""

    matching: MatchingConfig
    list_length: int
    cutoffs: tuple[int, ...]


@dataclass(frozen=True)
class ScoredRun:
    """A finished run whose lists can be scored again.

    Attributes:
        path: its directory.
        name: the directory relative to the folder that was searched.
        result: result.json.
        config: config.yaml.
        identity: identity.json.
        manifest: manifest.json.
    """

    path: Path
    name: str
    result: Result
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    manifest: Manifest

    @property
    def matching(self) -> MatchingConfig:
        """Its own matching rules.

        Raises:
            BadInput: if config.yaml has no valid rules.
        """
        matching = MatchingConfig(**self.part("matching", MatchingConfig))
        if problems := check_matching(matching):
            raise BadInput(f"config.yaml: {'; '.join(problems)}")
        return matching

    def part(self, key: str, schema: type) -> dict[str, Any]:
        """A part of the config that matches the schema. Keys with a default may be absent.

        Raises:
            BadInput: if it does not match.
        """
        needed = {f.name for f in fields(schema) if f.default is MISSING and f.default_factory is MISSING}
        wanted = {field.name for field in fields(schema)}
        part = self.config.get(key)
        if not isinstance(part, dict) or not needed <= part.keys() <= wanted:
            raise BadInput(
                f"{key} in config.yaml does not have the keys of this version of rlbench: {', '.join(sorted(wanted))}"
            )
        if problems := wrong_types(key, schema, part):
            raise BadInput(f"config.yaml: {'; '.join(problems)}")
        return part


def matching_names() -> list[str]:
    """Names of the rules in `conf/matching/`."""
    return sorted(path.stem for path in MATCHING.glob("*.yaml"))


def parse_protocol(text: str) -> Protocol:
    """A protocol from NAME[,KEY=VALUE]...

    NAME is one of `conf/matching/`, or `own`. KEY is list_length, cutoffs (5+10), or a key of the matching rules:
    normalisers (nfkc+casefold), year_tolerance, fuzzy_threshold.

    Raises:
        BadInput: lists all problems of the protocol.
    """
    name, *parts = text.split(",")
    known = [*matching_names(), OWN]
    problems = []
    if name not in known:
        problems.append(f"--protocol {text}: there is no '{name}'; known: {', '.join(known)}.{nearest(name, known)}")
    rules = ("normalisers", "year_tolerance", "fuzzy_threshold")
    keys = ["list_length", "cutoffs", *(rules if name != OWN else ())]
    values: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in keys:
            problems.append(f"--protocol {text}: '{key}' is unknown; known: {', '.join(keys)}.{nearest(key, keys)}")
            continue
        try:
            values[key] = _PARSE[key](value)
        except ValueError:
            problems.append(f"--protocol {text}: {key}={value} is not {_FORMS[key]}")
    if problems:
        raise BadInput(*problems)
    matching = None
    if name != OWN:
        content = yaml.safe_load((MATCHING / f"{name}.yaml").read_text(encoding="utf-8"))
        changes = {key: value for key, value in values.items() if key in rules}
        matching = MatchingConfig(**content | changes | ({"name": text} if changes else {}))
        problems += [f"--protocol {text}: {problem}" for problem in check_matching(matching)]
    protocol = Protocol(text, matching, values.get("list_length"), values.get("cutoffs"))
    length, cutoffs = protocol.list_length, protocol.cutoffs
    if length is not None and length < 1:
        problems.append(f"--protocol {text}: list_length must be at least 1")
    if cutoffs is not None and (min(cutoffs) < 1 or len(set(cutoffs)) < len(cutoffs)):
        problems.append(f"--protocol {text}: cutoffs must be distinct numbers of at least 1")
    if length is not None and cutoffs is not None and max(cutoffs) > length:
        problems.append(f"--protocol {text}: cutoff {max(cutoffs)} is larger than list_length = {length}")
    if problems:
        raise BadInput(*problems)
    return protocol


_PARSE: dict[str, Callable[[str], Any]] = {
    "list_length": int,
    "cutoffs": lambda text: tuple(int(part) for part in text.split("+")),
    "normalisers": lambda text: [part for part in text.split("+") if part],
    "year_tolerance": int,
    "fuzzy_threshold": lambda text: None if text == "null" else float(text),
}
_FORMS = {
    "list_length": "a whole number",
    "cutoffs": "whole numbers joined by +",
    "year_tolerance": "a whole number",
    "fuzzy_threshold": "a number or null",
}


def complete(protocol: Protocol, run: ScoredRun) -> Rules:
    """A protocol with missing parts taken from the run.

    Raises:
        BadInput: if a cut-off exceeds the list length, or the run's own rules are unknown.
    """
    length = protocol.list_length or run.result["list_length"]
    cutoffs = protocol.cutoffs or tuple(run.result["cutoffs"])
    if max(cutoffs) > length:
        raise BadInput(
            f"--protocol {protocol.name}: cutoff {max(cutoffs)} is larger than its list length {length}; give "
            "smaller cutoffs with cutoffs="
        )
    return Rules(protocol.matching or run.matching, length, cutoffs)

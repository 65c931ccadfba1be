"""Turns a composed Hydra config into a typed `Config`: keys, types, default cut-offs and the table of learning rates.

Importing this module loads neither torch nor transformers.
"""

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationKeyError, OmegaConfBaseException

from rlbench.base.errors import BadInput, nearest, nearest_key
from rlbench.base.texts import broken_texts
from rlbench.config.adapters import AdapterConfig
from rlbench.config.bounds import LONGEST_LIST
from rlbench.config.datasets import DATASETS, schemas
from rlbench.config.models import MODELS, PATH_OF_MODEL, model_schemas
from rlbench.config.plugins import HINT, load_plugins
from rlbench.config.rates import ROW_SECTIONS, RateRow, row_for
from rlbench.config.schema import (
    ALGORITHMS,
    POLICY_OPTIMISATION,
    AlgorithmConfig,
    CloneConfig,
    Config,
    EvaluationConfig,
    GenerationConfig,
    MatchingConfig,
    Method,
    RewardConfig,
    RolloutConfig,
    RuntimeConfig,
    SafetyConfig,
    SamplerConfig,
    ScheduleConfig,
    TrackerConfig,
    TrainerConfig,
)

CUTOFFS_STEP = 5
"""Distance between default cut-offs, in ranks."""
_SCALARS: dict[str, type] = {
    "experiment_name": str,
    "variant": str,
    "seed": int,
    "stage": str,
    "runs_dir": str,
    "cache_dir": str,
    "plugins": list,
    "baselines": list,
}
_SECTIONS: dict[str, type] = {
    "reward": RewardConfig,
    "matching": MatchingConfig,
    "adapter": AdapterConfig,
    "trainer": TrainerConfig,
    "generation": GenerationConfig,
    "evaluation": EvaluationConfig,
    "sampler": SamplerConfig,
    "rollout": RolloutConfig,
    "schedule": ScheduleConfig,
    "safety": SafetyConfig,
    "tracker": TrackerConfig,
    "runtime": RuntimeConfig,
}
_VARIANTS: dict[str, tuple[str, str | None, dict[str, Any] | None]] = {
    "algorithm": ("family", POLICY_OPTIMISATION, ALGORITHMS),
    "dataset": ("name", None, None),
    "model": ("kind", None, None),
}
"""Sections with several schemas: the key that selects one, its default, and the schemas. Those of datasets and models
are in their registries, to which plugins may add."""
CLONE = "clone"
"""Optional section: the ancestry of a clone. Only `rlbench.clone` writes it."""
NO_SETTINGS = ("rates", "method")
"""Top-level keys that only feed settings: the table of learning rates, and what a method of `experiments/` needs."""


def resolve(cfg: DictConfig) -> Config:
    """Turn a composed config into a `Config`.

    Raises:
        BadInput: for unknown keys, missing values and values of a wrong type, all together; or if no row of the table
            of learning rates fits.
    """
    try:
        plain = OmegaConf.to_container(_with_rates(_with_name(cfg)), resolve=True)
    except OmegaConfBaseException as error:
        raise BadInput(_of_interpolation(error)) from error
    assert isinstance(plain, dict)
    _fill_cutoffs(plain.get("dataset"))
    for key in ("sampler", "rollout", "schedule"):
        plain.setdefault(key, {})
    plain.setdefault("baselines", [])  # a config.yaml from before there were any
    plain.setdefault("adapter", {})
    known = [*_SCALARS, *_SECTIONS, *_VARIANTS]
    problems = [
        f"config key '{key}' is unknown.{_meant(key, plain, known)}"
        for key in map(str, plain)
        if key not in (*known, CLONE) and key not in NO_SETTINGS
    ]
    problems += [f"config key '{key}' is missing" for key in known if plain.get(key) is None]
    problems += _too_large(plain)
    problems += [f"config: {ascii(text)} contains half a character (a lone surrogate)" for text in broken_texts(plain)]
    if problems:
        raise BadInput(*problems)
    problems += [
        f"{key} = {ascii(plain[key])[:80]} must be a section with settings of its own"
        for key in (*_SECTIONS, *_VARIANTS)
        if not isinstance(plain[key], dict)
    ]
    if problems:
        raise BadInput(*problems)
    problems += [
        f"{key} = {plain[key]!r} must be of type {kind.__name__}{as_sweep(key, plain[key])}"
        for key, kind in _SCALARS.items()
        if type(plain[key]) is not kind  # isinstance would accept True as an int
    ]
    sections: dict[str, type] = dict(_SECTIONS)
    for key, (tag, usual, given) in _VARIANTS.items():
        name = str(plain[key].get(tag, usual))
        if given is None and isinstance(loader := plain[key].get("loader"), str):
            tag, name = "loader", loader  # the user's own data, under any name
        kinds = _of_registry(key, name, plain["plugins"], problems) if given is None else given
        if name in kinds:
            sections[key] = kinds[name]
        else:
            problems.append(
                f"{key}.{tag} = '{name}' is unknown; known: {', '.join(kinds)}.{nearest(name, list(kinds))}"
                + (HINT if given is None else "")
            )
    parts: dict[str, Any] = {key: plain[key] for key in _SCALARS}
    if plain.get(CLONE) is not None:
        sections[CLONE] = CloneConfig
    for key, kind in sections.items():
        parts[key] = _typed(key, kind, plain[key], problems)
    if problems:
        raise BadInput(*problems)
    _in_order(parts["algorithm"], parts["reward"])
    return Config(**parts)


def _of_registry(section: str, name: str, plugins: Any, problems: list[str]) -> dict[str, Any]:
    """The schemas of datasets or models. If none has this name, plugins are loaded, since one may register it."""
    registry: Mapping[str, Any] = DATASETS if section == "dataset" else MODELS
    if name not in registry and isinstance(plugins, list):
        problems += load_plugins(plugins)
    return dict(schemas() if section == "dataset" else model_schemas())


def _with_name(cfg: DictConfig) -> DictConfig:
    """Return a config with the last part of the model's path as its name, if the name is null."""
    path = OmegaConf.select(cfg, "model.path", default=None)
    if not isinstance(path, str) or OmegaConf.select(cfg, "model.name", default="") is not None:
        return cfg
    cfg = copy.deepcopy(cfg)
    OmegaConf.update(cfg, "model.name", PurePath(path).name, merge=False)
    return cfg


def _with_rates(cfg: DictConfig) -> DictConfig:
    """Return a config with rates from the table `rates` in place of null ones. Other settings may refer to them.

    Raises:
        BadInput: for rows of a wrong type, or if no row fits.
    """
    rate, steps, source = (f"trainer.rl.learning_rate{end}" for end in ("", "_steps", "_source"))
    wanted = [key for key in (rate, steps) if OmegaConf.select(cfg, key, default="missing") is None]
    if not wanted:
        return cfg
    names = {section: str(OmegaConf.select(cfg, f"{section}.name")) for section in ROW_SECTIONS}
    row = row_for(_rows(OmegaConf.select(cfg, "rates", default=[])), names)
    if row is None:
        cell = ", ".join(f"{section}={name}" for section, name in names.items())
        raise BadInput(f"{' and '.join(wanted)} = null, and no row of rates fits {cell}: give a value, or add a row")
    cfg = copy.deepcopy(cfg)
    values = {rate: row.rate, steps: row.steps, source: f"the table, {row}"}
    for key in (*wanted, *([source] if rate in wanted else [])):
        OmegaConf.update(cfg, key, values[key], merge=False, force_add=True)
    return cfg


def _rows(table: Any) -> list[RateRow]:
    """Return the rows of the table of learning rates.

    Raises:
        BadInput: if the table is no list, or for rows of a wrong type.
    """
    if isinstance(table, ListConfig):
        table = OmegaConf.to_container(table, resolve=True)
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise BadInput(f"rates = {ascii(table)[:80]} should be a list of rows (docs/reproducibility.md)")
    problems: list[str] = []
    rows = [_typed(f"rates[{place}]", RateRow, row, problems) for place, row in enumerate(table)]
    if problems:
        raise BadInput(*problems)
    return rows


def _in_order(algorithm: Method, reward: RewardConfig) -> None:
    """Sort summands by name: a float sum depends on their order, but the order in a config must not matter."""
    reward.terms = dict(sorted(reward.terms.items()))
    if isinstance(algorithm, AlgorithmConfig):
        algorithm.regularisers = dict(sorted(algorithm.regularisers.items()))
        algorithm.options = dict(sorted(algorithm.options.items()))


def _too_large(values: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Report integers too large for a float, on which OmegaConf fails."""
    problems = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            problems += _too_large(value, f"{prefix}{key}.")
        elif isinstance(value, int) and abs(value) > sys.float_info.max:
            problems.append(f"{prefix}{key} is an integer with more than 300 digits; give a smaller one")
    return problems


def cutoffs_of(list_length: int) -> list[int]:
    """Return the default cut-offs K of metrics: every fifth rank, and the last."""
    return sorted({*range(CUTOFFS_STEP, list_length + 1, CUTOFFS_STEP), list_length})


MISTYPED = 0.7
"""How like a section or value of the top level a name must be to count as that, mistyped."""


def _meant(key: str, plain: Mapping[Any, Any], known: list[str]) -> str:
    """What an unknown key of the top level may have meant: one like it, or a setting of that name in a section."""
    if get_close_matches(key, known, n=1, cutoff=MISTYPED):
        return nearest(key, known)
    (name, *_) = dotted({key: plain.get(key)})
    settings = dotted({section: values for section, values in plain.items() if section in known})
    return nearest_key(name, settings) or nearest(key, known)


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys of all values in nested mappings."""
    found = []
    for key, value in values.items():
        inner = dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else []
        found += inner or [f"{prefix}{key}"]
    return found


def _fill_cutoffs(dataset: Any) -> None:
    """Set null cut-offs of a dataset from its list length."""
    if isinstance(dataset, dict) and "cutoffs" in dataset and dataset["cutoffs"] is None:
        length = dataset.get("list_length")
        dataset["cutoffs"] = []
        # A length out of range is refused later, with the other values. Its cut-offs would fill the memory.
        if isinstance(length, int) and not isinstance(length, bool) and length <= LONGEST_LIST:
            dataset["cutoffs"] = cutoffs_of(length)


_known: dict[tuple[type, str], Any] = {}
"""Typed sections by type and values. The cells of a sweep share most sections."""


def wrong_types(key: str, kind: Any, values: dict[str, Any]) -> list[str]:
    """Check the keys and types of a section of a config that an earlier command wrote.

    Args:
        key: key of the section.
        kind: its dataclass.
        values: its values.

    Returns:
        one sentence per problem.
    """
    problems = _too_large(values, f"{key}.")
    if not problems:
        _typed(key, kind, values, problems)
    return problems


def _typed(key: str, kind: Any, values: dict[str, Any], problems: list[str]) -> Any:
    if (kind, repr(values)) in _known:
        return copy.deepcopy(_known[kind, repr(values)])
    found: list[str] = []
    merged, left = None, copy.deepcopy(values)
    while merged is None:
        try:
            merged = OmegaConf.merge(OmegaConf.structured(kind), left)
        except OmegaConfBaseException as error:
            where = error.full_key or ""
            found.append(
                of_another_family(key, where, values)
                or _of_model(f"{key}.{where}", values)
                or (
                    f"{key} has no key '{where}'.{_meant_key(key, where, values)}"
                    if isinstance(error, ConfigKeyError)
                    else _of_value(error, f"{key}.{where}", OmegaConf.select(OmegaConf.create(values), where))
                )
            )
            # OmegaConf stops at the first bad value. Removing it reveals the next.
            if not _removed(left, where):
                break
    if found:
        problems += found
        return None
    missing = sorted(OmegaConf.missing_keys(merged))
    problems += [f"{key}.{name} is missing" for name in missing]
    if missing:
        return None
    typed = OmegaConf.to_object(merged)
    _known[kind, repr(values)] = copy.deepcopy(typed)
    return typed


def _of_model(key: str, values: Mapping[str, Any]) -> str:
    """What is wrong if a model has neither a name nor a path, whose last part would be its name; or ""."""
    absent = key == "model.name" and "path" in values and values["path"] is None and values.get("name") is None
    return PATH_OF_MODEL if absent else ""


def _meant_key(section: str, where: str, values: dict[str, Any]) -> str:
    """What an unknown key of a section may have meant: a key beside it, or else any of the section's."""
    others = [f"{section}.{key}" for key in dotted(values) if key != where and not key.startswith(f"{where}.")]
    name = f"{section}.{where}"
    beside = [key for key in others if key.rpartition(".")[0] == name.rpartition(".")[0]]
    return nearest_key(name, beside) or nearest_key(name, others)


def _removed(values: Any, path: str) -> bool:
    """Delete the value at a dotted path; for a list item, delete the list. Returns False if nothing was there."""
    *above, last = path.split("[")[0].split(".")
    for part in above:
        values = values.get(part) if isinstance(values, dict) else None
    if not isinstance(values, dict) or last not in values:
        return False
    del values[last]
    return True


def of_another_family(section: str, key: str, values: Mapping[str, Any]) -> str:
    """Return an error for an algorithm setting that only another family has, or "".

    Args:
        section: the section of the key. Only `algorithm` is checked.
        key: the key within the section.
        values: the section's values, including its name and family.
    """
    if section != "algorithm":
        return ""
    first, own = key.split(".")[0], values.get("family", POLICY_OPTIMISATION)
    families = {name: [f.name for f in fields(kind)] for name, kind in ALGORITHMS.items()}
    others = [name for name, known in families.items() if name != own and first in known]
    if own not in families or first in families[own] or not others:
        return ""
    return (
        f"algorithm.{key} is a setting of the {others[0]} family and has no effect on "
        f"algorithm={values.get('name')}, which belongs to the {own} family: remove it (docs/algorithms.md)"
    )


KINDS = {"Integer": "an integer", "Float": "a number", "string": "a text", "bool": "true or false"}
"""What OmegaConf's types of values are to a user."""


def _of_value(error: OmegaConfBaseException, key: str, value: Any) -> str:
    """What is wrong with the value of a key."""
    said = _first_line(error)
    if kind := re.search(r"\b(?:to|valid) (Integer|Float|string|bool)\b", said):
        return f"{key} = {_shown(value)} must be {KINDS[kind[1]]}{as_sweep(key, value)}"
    if value is None:
        return f"{key} = null: it needs a value"
    return f"{key} = {_shown(value)}: {said}"


def as_sweep(key: str, values: Any) -> str:
    """How to run one cell for each of several values, or "" for another value."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        return ""
    several = ",".join(map(str, values))
    return f"; a sweep has one cell for each value: -m {key}={several}, or sweep={{{key!r}: {list(values)}}} in Python"


def _of_interpolation(error: OmegaConfBaseException) -> str:
    """What is wrong with a value that refers to another one."""
    said = _first_line(error)
    if isinstance(error, InterpolationKeyError):
        missing = said.removeprefix("Interpolation key ").removesuffix(" not found")
        return f"{error.full_key}: there is no key {missing} to refer to"
    return f"{error.full_key}: {said.rpartition(': ')[2]}"


def _shown(value: Any) -> str:
    return ascii(value)[:80]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")

"""The reference of config keys, made from the schema, the ranges and the files of `conf/`.

`python docs/hooks/config_keys.py` prints it; `make docs` puts it into the site.
"""

import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from rlbench.config.bounds import BOUNDS, FINITE, LARGEST_SEED, MOST, Bound
from rlbench.config.datasets import schemas
from rlbench.config.models import model_schemas
from rlbench.config.schema import ALGORITHMS, Config

CONF = Path(__file__).resolve().parents[2] / "conf"
VARIANTS: dict[str, dict[str, Any]] = {"algorithm": ALGORITHMS, "dataset": schemas(), "model": model_schemas()}
"""Sections with several schemas, by the value that selects one."""
EXAMPLES = {"policy_optimisation": "rank_grpo", "preference": "dpo", "wheel": "smollm2_135m", "hub": "hf"}
"""The file whose values are shown for a schema, where it does not have the schema's name."""
FROM_TABLE = ("trainer.rl.learning_rate", "trainer.rl.learning_rate_steps")
"""Keys that take their value from the table `rates` where they are null."""
PLACES = {"algorithm": "[Algorithms](algorithms.md)", "reward": "[Rewards](rewards.md)"}
"""Pages that list the options of a group with many."""
NAMES = {MOST: "2³¹ − 1", LARGEST_SEED: "2³² − 1", 10**9: "10⁹", 10**6: "10⁶", math.inf: "∞", -math.inf: "−∞"}


@dataclass(frozen=True)
class Key:
    """A setting.

    Attributes:
        name: its path, such as `trainer.rl.updates`.
        kind: its type, in the words of YAML.
        default: its value in `conf/`, as YAML.
        bound: the range, "" where a value has none.
        meaning: what the docstring of its class says.
    """

    name: str
    kind: str
    default: str
    bound: str
    meaning: str


def meanings(kind: type) -> dict[str, str]:
    """Name of a field to its entry under "Attributes:" in the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")[2]
        for entry in re.split(r"\n(?=    \w)", text):
            name, _, meaning = entry.strip().partition(": ")
            if name:
                found[name] = " ".join(meaning.split())
    return found


def keys(kind: type, values: dict[str, Any], prefix: str = "") -> Iterator[Key]:
    """The settings of a schema, those of nested schemas included.

    Args:
        kind: the dataclass.
        values: its section of `conf/`.
        prefix: path of the section, with a dot at its end.

    Raises:
        KeyError: if a field has no meaning, or no value in `conf/`.
    """
    said, hints = meanings(kind), get_type_hints(kind)
    for field in fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from keys(hint, values[field.name], f"{name}.")
            continue
        value = [] if field.name == "differs" and "differs" not in values else values[field.name]
        yield Key(name, type_name(hint), flow(value), range_of(name, hint), said[field.name])


def type_name(hint: Any) -> str:
    """A type in the words of YAML: `int | None` is "int or null"."""
    if hint is NoneType:
        return "null"
    if hint is Any:
        return "any"
    if isinstance(hint, UnionType):
        return " or ".join(type_name(part) for part in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {type_name(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return f"map of {type_name(key)} to {type_name(value)}"
    return str(hint.__name__)


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def range_of(name: str, hint: Any) -> str:
    """The range of a number as an interval; "" for other values."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return interval(BOUNDS.get(name, FINITE)) if int in parts or float in parts else ""


def interval(bound: Bound) -> str:
    """A range in mathematical notation."""
    left = "(" if bound.open_low or bound.low == -math.inf else "["
    right = ")" if bound.open_high or bound.high == math.inf else "]"
    return f"{left}{NAMES.get(bound.low, bound.low)}, {NAMES.get(bound.high, bound.high)}{right}"


def option(group: str, name: str) -> dict[str, Any]:
    """The values of `conf/<group>/<name>.yaml`."""
    found: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def settings() -> dict[str, dict[str, str]]:
    """Defaults of one dataset with one model, by the name of the file in `conf/settings/`, then by key."""
    return {
        path.stem: {
            key: "from `rates`" if key in FROM_TABLE and value is None else flow(value)
            for key, value in leaves(yaml.safe_load(path.read_text(encoding="utf-8")))
        }
        for path in sorted((CONF / "settings").glob("*.yaml"))
    }


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of nested mappings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def sections() -> dict[str, list[Key]]:
    """Heading to the settings below it, in the order of the schema."""
    top = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    chosen = {key: str(name) for line in top["defaults"] if isinstance(line, dict) for key, name in line.items()}
    said, hints, found = meanings(Config), get_type_hints(Config), {"Top level": list[Key]()}
    for field in fields(Config):
        name, hint = field.name, hints[field.name]
        if name == "clone":  # no setting: rlbench.clone writes it
            continue
        if name in VARIANTS:
            for variant, kind in VARIANTS[name].items():
                values = option(name, EXAMPLES.get(variant, variant))
                found[f"{name}: {variant}"] = list(keys(kind, values, f"{name}."))
        elif is_dataclass(hint) and isinstance(hint, type):
            found[name] = list(keys(hint, option(name, chosen[name]), f"{name}."))
        else:
            found["Top level"].append(Key(name, type_name(hint), flow(top[name]), range_of(name, hint), said[name]))
    return found


def options_line(group: str) -> str:
    """Which files a group has, and which of them is shown."""
    names = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    listed = PLACES.get(group) or ", ".join(f"`{name}`" for name in names)
    return f"Options of `{group}=`: {listed}.\n"


def page() -> str:
    """The reference as Markdown."""
    lines = [
        "# Config keys\n",
        "This page is generated from the schema. `python run.py --cfg job` prints all keys with their values. Set a "
        "key on the command line with `key=value`, or choose an option of a group with `group=option`.\n",
        "The default is the value in `conf/`. A second line in this column is the default for one dataset with one "
        "model (`conf/settings/`). Ranges are intervals: `[` and `]` include the end, `(` and `)` exclude it. A key "
        "that can be null has `null` in its type.\n",
    ]
    special, group = settings(), ""
    for heading, found in sections().items():
        section, _, variant = heading.partition(": ")
        if section != group and section != "Top level":
            lines.append(f"## {section}\n\n{options_line(section)}")
        elif section != group:
            lines.append(f"## {section}\n")
        group = section
        if variant:
            shown = EXAMPLES.get(variant, variant)
            lines.append(f"### {heading}\n\nDefaults of `{section}={shown}`.\n")
        lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
        for key in found:
            default = f"`{cell(key.default)}`"
            for file, values in special.items():
                if values.get(key.name, key.default) != key.default:
                    default += f"<br>`{file}`: {cell(values[key.name])}"
            bound = key.bound.replace(" ", "\N{NO-BREAK SPACE}")
            lines.append(f"| `{key.name}` | {key.kind} | {default} | {bound} | {cell(sentence(key.meaning))} |")
        lines.append("")
    return "\n".join(lines)


def sentence(text: str) -> str:
    """A meaning as a sentence: it begins with a capital letter, unless with a value."""
    first = text.split(maxsplit=1)[0]
    return text if first in ("ddp", "wandb,") else text[0].upper() + text[1:]


def cell(text: str) -> str:
    """Text that does not end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(page())

"""Config keys named in texts of the sources exist, so users can follow the messages."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import yaml

from rlbench.config.datasets import schemas
from rlbench.config.resolving import _SCALARS, _SECTIONS, _VARIANTS
from rlbench.objective.pieces import regularisers
from rlbench.preference.places import pieces_by_name
from rlbench.running.cli import CONF
from rlbench.sampling.places import keeps, makers, structures, weights

ROOT = CONF.parent
SOURCES = ("rlbench", "analysis", "hydra_plugins")
OF_HYDRA = {"hydra", "hydra.searchpath", "hydra.mode", "hydra.sweep.dir", "hydra.launcher", "hydra.sweeper"}
NO_KEYS = {
    "model.safetensors": "a file of weights",
    "model.safetensors.index.json": "the same in several parts",
    "model.gguf": "a file of weights",
    "model.embed_tokens.weight": "a tensor",
    "model.norm.weight": "a tensor",
    "model.layers": "a prefix of tensors, and a key",
    "safety.md": "the end of a page's name",
    "trainer.rl.x": "an example of any key",
    "trainer.train": "a method",
    "trainer.save_model": "a method",
    "model.generate_batch": "a method",
}
"""Names that look like keys but are not."""


def keys_of(kind: Any, prefix: str) -> Iterator[str]:
    """Yield a section's own name and the dotted keys below it, including nested sections."""
    yield prefix
    for name, hint in get_type_hints(kind).items() if is_dataclass(kind) else ():
        if name in {field.name for field in fields(kind)}:
            for part in (hint, *get_args(hint)):
                yield from keys_of(part, f"{prefix}.{name}")


def known_keys() -> set[str]:
    sections = [
        *_SECTIONS.items(),
        *((key, kind) for key, (_, _, kinds) in _VARIANTS.items() for kind in (kinds or schemas()).values()),
    ]
    known = {*_SCALARS, *OF_HYDRA} | {key for name, kind in sections for key in keys_of(kind, name)}
    # Keys that only the files have: the kind of a section, and descriptions.
    for group in ("dataset", "model", "algorithm"):
        for file in (CONF / group).glob("*.yaml"):
            known |= {f"{group}.{key}" for key in yaml.safe_load(file.read_text(encoding="utf-8"))}
    for group in ("launcher", "sweeper"):
        for file in (CONF / "hydra" / group).glob("*.yaml"):
            known |= {f"hydra.{group}.{key}" for key in yaml.safe_load(file.read_text(encoding="utf-8"))}
    # Options of pieces, which the registries know.
    known |= {f"algorithm.regularisers.{name}" for name in regularisers}
    for section, places in (("sampler", (weights, keeps, makers)), ("rollout", (structures,))):
        known |= {f"{section}.options.{name}.{o}" for place in places for name, p in place.items() for o in p.options}
        known |= {f"{section}.options.{name}" for place in places for name in place}
    for name, piece in pieces_by_name().items():
        known |= {f"algorithm.options.{name}.{option}" for option in piece.options}
    return known


SECTIONS = "|".join([*_SECTIONS, *_VARIANTS, "hydra"])
KEY = re.compile(rf"(?<![\w./-])(?:{SECTIONS})(?:\.[a-z][a-z_0-9]*)+")


def named_keys(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, key) for each key named in a source's strings, including docstrings and f-strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for found in KEY.finditer(node.value):
                yield node.lineno, found.group()


def unknown(source: str, known: set[str]) -> list[tuple[int, str]]:
    return [(line, key) for line, key in named_keys(source) if key not in known and key not in NO_KEYS]


def test_every_key_that_a_text_names_exists():
    known = known_keys()
    files = [file for folder in SOURCES for file in sorted((ROOT / folder).rglob("*.py"))] + [ROOT / "run.py"]
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {key}"
        for file in files
        for line, key in unknown(file.read_text(encoding="utf-8"), known)
    ]
    assert wrong == []


def test_the_check_sees_what_it_should():
    known = known_keys()
    assert {"trainer.rl.updates", "dataset.path", "generation.max_new_tokens", "hydra.launcher.jobs"} <= known
    assert {"dataset.contexts", "algorithm.sft_share", "model.member", "hydra.sweeper.trials"} <= known
    source = 'x = 1\nraise E(f"lower trainer.rl.steps = {x}; see generation.max_tokens, seed and dataset.path.")'
    assert unknown(source, known) == [(2, "trainer.rl.steps"), (2, "generation.max_tokens")]
    assert unknown('"hydra.launcher.workers"', known) == [(1, "hydra.launcher.workers")]


def test_what_is_excepted_is_still_there():
    texts = "\n".join(file.read_text(encoding="utf-8") for folder in SOURCES for file in (ROOT / folder).rglob("*.py"))
    assert [name for name in NO_KEYS if name not in texts] == []

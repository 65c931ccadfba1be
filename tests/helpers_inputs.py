"""Small datasets and their loading, and model folders that are read as bytes and never loaded."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from rlbench.base.errors import BadInput
from rlbench.config.schema import DatasetConfig
from rlbench.data import load_dataset
from rlbench.data.record import RankedListDataset

FILMS = ["Heat (1995)", "Jaws (1975)", "Alien (1979)", "Up (2009)", "Big (1988)", "Speed (1994)"]
OF_REDIAL = [
    "dataset=redial",
    "baselines=[]",
    "dataset.list_length=2",
    "dataset.cutoffs=[1,2]",
    "evaluation.metric=ndcg@2",
]
"""Overrides that make the files of `write_redial` a dataset."""


def loader(schema: Callable[..., DatasetConfig], **settings: Any) -> Callable[..., RankedListDataset]:
    """A function that loads a dataset from a path (or None), with other settings if they are given."""

    def load(path: Path | str | None, **options: Any) -> RankedListDataset:
        return load_dataset(schema(path=None if path is None else str(path), **{**settings, **options}))

    return load


def refuser(load: Callable[..., RankedListDataset]) -> Callable[..., list[str]]:
    """A function that loads what `load` refuses, and returns the problems."""

    def refusal(path: Path | None, **options: Any) -> list[str]:
        with pytest.raises(BadInput) as caught:
            load(path, **options)
        return caught.value.problems

    return refusal


def write_lines(file: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_redial(folder: Path, *, swap: str = "") -> Path:
    """Write ReDial in three files of four dialogues each.

    Args:
        folder: created here.
        swap: train, valid or test: the file whose first answer names another film.
    """
    folder.mkdir(parents=True)
    for name in ("train", "valid", "test"):
        rows = []
        for index in range(4):
            film = FILMS[(index + (3 if swap == name and index == 0 else 1)) % len(FILMS)]
            rows.append(
                {
                    "context": [f"I liked {FILMS[index]}, says {name} {index}."],
                    "resp": f"Try {film}!",
                    "entity_name": [film, FILMS[index]],
                    "dialog_id": f"{name}{index}",
                    "is_user": 0,
                }
            )
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def weights(value: float) -> bytes:
    """A file of weights with one number."""
    return save({"weight": np.array([value], dtype=np.float32)})


def write_model(folder: Path) -> Path:
    """A folder with the files of a transformers model, each of a few bytes."""
    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(weights(1.0))
    (folder / "README.md").write_text("for people")
    return folder

"""Small ReDial files, and model folders that are read as bytes and never loaded."""

import json
from pathlib import Path

FILMS = ["Heat (1995)", "Jaws (1975)", "Alien (1979)", "Up (2009)", "Big (1988)", "Speed (1994)"]
OF_REDIAL = [
    "dataset=redial",
    "baselines=[]",
    "dataset.list_length=2",
    "dataset.cutoffs=[1,2]",
    "evaluation.metric=ndcg@2",
]
"""Overrides that make the files of `write_redial` a dataset."""


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
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_model(folder: Path) -> Path:
    """A folder with the files of a transformers model, each of a few bytes."""
    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("for people")
    return folder

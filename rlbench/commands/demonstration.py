"""Makes demonstrations from a teacher's lists for `rlbench.demonstrate`. Loads scipy."""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from rlbench import __version__
from rlbench.base.content import file_digest
from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.checks import EXAMPLES
from rlbench.data.record import RankedListDataset, Record
from rlbench.data.stage1.encoder import BUNDLED, load_encoder
from rlbench.data.stage1.files import (
    contexts_of,
    made_by,
    manifest_of,
    named,
    read_ratings,
    read_rows,
    read_texts,
    write_rows,
)
from rlbench.data.stage1.pipeline import Conversation, Stage1, without_instructions
from rlbench.data.stage1.scores import STEPS
from rlbench.lists.entries import parse_line
from rlbench.lists.exact import CatalogReader
from rlbench.lists.items import Item
from rlbench.lists.relevance import make_judge

console = Console(stderr=True, highlight=False)


def demonstrate(options: argparse.Namespace, config: Config) -> None:
    """Write what the parsed options of `rlbench.demonstrate` ask for.

    Args:
        options: the options.
        config: config with the dataset.

    Raises:
        BadInput: all problems of the files.
    """
    dataset = load_dataset(config.dataset)
    rows = read_rows(options.lists, {"context_id": str, "response": str})
    with_years = dataset.catalog.has_years
    reader = CatalogReader(dataset.catalog)
    lists = [(row["context_id"], list(reader.text(row["response"]).items)) for row in rows]
    conversations = _conversations(options.lists, lists, dataset)
    steps = STEPS[options.steps]
    films = read_texts(options.films, with_years) if options.films else {}
    ratings, unread = _ratings(options.ratings, reader.line) if options.ratings else ({}, 0)
    if steps or options.candidates:
        judge = make_judge(config.matching, dataset.catalog, config.dataset.list_length)
        encode = load_encoder(options.encoder, options.trust_remote_code)
        folder = (options.out or options.candidates).absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        stage = Stage1(judge.catalog, conversations, encode, films, folder)
        if options.candidates:
            ids = (c.context_id for c in conversations)
            offered = zip(ids, stage.candidates(), strict=True)
            write_rows(options.candidates, ({"context_id": i, "candidates": named(films)} for i, films in offered))
            console.print(f"wrote {len(conversations)} lists of candidates to {options.candidates}", markup=False)
    if options.out is None:
        return
    if not steps:
        made = [list(c.named)[: config.dataset.list_length] for c in conversations]
    else:
        made = _made(stage, steps, options, config, ratings, unread)
    shown = zip(conversations, made, strict=True)
    write_rows(options.out, ({"context_id": c.context_id, "completion": "\n".join(named(m))} for c, m in shown))
    _write_manifest(options, dataset)
    console.print(f"wrote {len(made)} demonstrations to {options.out}", markup=False)


def _write_manifest(options: argparse.Namespace, dataset: RankedListDataset) -> None:
    """Write beside the demonstrations what they were made from, with the manifests of the teacher's files."""
    inputs = {
        name: {"path": str(path), "sha256": file_digest(path), "manifest": made_by(path)}
        for name, path in (("lists", options.lists), ("ratings", options.ratings), ("films", options.films))
        if path is not None
    }
    write_json(
        manifest_of(options.out),
        {
            "rlbench": __version__,
            "steps": options.steps,
            "encoder": options.encoder or BUNDLED if STEPS[options.steps] else None,
            "dataset": {"name": dataset.name, "sha256": dataset.fingerprint},
            "inputs": inputs,
            "files": {options.out.name: file_digest(options.out)},
        },
    )


def _conversations(
    file: Path, lists: Sequence[tuple[str, list[Item]]], dataset: RankedListDataset
) -> list[Conversation]:
    """Return the conversations of the lists, in the same order.

    Raises:
        BadInput: if a context is neither in train nor in validation, if a context occurs twice, or if no list has a
            film.
    """
    train = dict(contexts_of([*dataset.splits["train"], *dataset.splits.get("sft", [])]))
    known: dict[str, list[Record]] = dict(contexts_of(dataset.splits["validation"])) | train
    ids = [context for context, _ in lists]
    problems = []
    for words, wrong in (
        ("belong to contexts that are in neither train nor validation", [i for i in ids if i not in known]),
        ("belong to a context that has more than one list", [i for i, count in Counter(ids).items() if count > 1]),
    ):
        if wrong:
            problems.append(f"{file}: {len(wrong)} lists {words}: {', '.join(wrong[:EXAMPLES])}")
    if problems:
        raise BadInput(*problems)
    sound = [(context, films) for context, films in lists if films]
    if not sound:
        form = "Title (Year)" if dataset.catalog.has_years else "Title"
        raise BadInput(f"{file}: no response has a line of the form {form}")
    if len(sound) < len(lists):
        console.print(f"{len(lists) - len(sound)} responses name no film and were left out", markup=False)
    prompts = ["\n".join(m["content"] for m in known[i][0].prompt if m["role"] == "user") for i, _ in sound]
    return [
        Conversation(
            context,
            text,
            known[context][0].seen_titles,
            [film for record in train.get(context, []) for film in record.ground_truth],
            films,
        )
        for (context, films), text in zip(sound, without_instructions(prompts), strict=True)
    ]


def _made(
    stage: Stage1,
    steps: Sequence[str],
    options: argparse.Namespace,
    config: Config,
    ratings: Mapping[str, Mapping[Item, int]],
    unread: int,
) -> list[list[Item]]:
    if "reflect" in steps:
        outside = stage.reflect(ratings)
        without = sum(not ratings.get(c.context_id) for c in stage.conversations)
        if without:
            console.print(f"{without} conversations have no ratings, and Reflect leaves them unchanged", markup=False)
        console.print(
            f"{sum(map(len, ratings.values()))} ratings, including {outside} for films outside the catalogue; "
            f"{unread} lines could not be read",
            markup=False,
        )
    if "adjust" in steps:
        try:
            stage.adjust()
        except ValueError as error:
            raise BadInput(f"{options.lists}: {error}; give lists of train contexts") from error
    try:
        return stage.lists(config.dataset.list_length)
    except ValueError as error:
        raise BadInput(f"dataset.list_length = {config.dataset.list_length}: {error}") from error


def _ratings(
    file: Path, read: Callable[[str], Item | None] = parse_line
) -> tuple[Mapping[str, Mapping[Item, int]], int]:
    ratings: dict[str, Mapping[Item, int]] = {}
    unread = 0
    rows = read_rows(file, {"context_id": str, "response": str})
    repeated = [context for context, count in Counter(row["context_id"] for row in rows).items() if count > 1]
    if repeated:
        raise BadInput(
            f"{file}: {len(repeated)} contexts have more than one line of ratings: {', '.join(repeated[:EXAMPLES])}; "
            "keep one line per context"
        )
    for row in rows:
        ratings[row["context_id"]], more = read_ratings(row["response"], read)
        unread += more
    return ratings, unread

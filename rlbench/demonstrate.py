"""Make SFT demonstrations from a teacher's lists, using Stage 1 of the Rank-GRPO paper (docs/stage1.md)."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.program import CONF, as_started
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.checks import EXAMPLES
from rlbench.data.record import Film, RankedListDataset, Record
from rlbench.data.stage1.encoder import load_encoder
from rlbench.data.stage1.files import contexts_of, named, read_ratings, read_rows, read_texts, write_rows
from rlbench.data.stage1.pipeline import Conversation, Stage1, without_instructions
from rlbench.data.stage1.scores import STEPS
from rlbench.lists.entries import parse_text
from rlbench.lists.relevance import make_judge
from rlbench.running.checks import check_values

console = Console(stderr=True, highlight=False)

EPILOG = """examples:
  write the candidates that the teacher should rate, then turn its ratings into demonstrations:
    python -m rlbench.demonstrate lists.jsonl --candidates candidates.jsonl dataset=redial dataset.path=FOLDER
    python -m rlbench.demonstrate lists.jsonl --ratings ratings.jsonl --out full.jsonl dataset=redial ...
  skip Reflect, or use the teacher's own lists:
    python -m rlbench.demonstrate lists.jsonl --steps remap_adjust --out remap_adjust.jsonl dataset=redial ...
    python -m rlbench.demonstrate lists.jsonl --steps teacher --out teacher.jsonl dataset=redial ...
  run SFT on the demonstrations:
    python run.py stage=sft dataset=redial dataset.path=FOLDER dataset.demonstrations_from=remap_adjust.jsonl

exit codes: 0 done, 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _demonstrate(options)
    except BadInput as error:
        for problem in error.problems:
            console.print(problem, style="red", markup=False, soft_wrap=True)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=as_started("python -m rlbench.demonstrate"),
        description=__doc__,
        epilog=as_started(EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "lists", type=Path, metavar="LISTS", help="the teacher's lists, JSONL with context_id and response"
    )
    parser.add_argument(
        "overrides", nargs="+", metavar="KEY=VALUE", help=as_started("settings of the dataset, as for run.py")
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="output file of the demonstrations; its name becomes the name of the SFT row",
    )
    parser.add_argument(
        "--candidates", type=Path, metavar="FILE", help="output file of the films that the teacher should rate"
    )
    parser.add_argument(
        "--ratings", type=Path, metavar="FILE", help="the teacher's ratings, JSONL with context_id and response"
    )
    parser.add_argument(
        "--films", type=Path, metavar="FILE", help="descriptions of films, JSONL with title, year and text"
    )
    parser.add_argument(
        "--steps",
        choices=STEPS,
        default="remap_reflect_adjust",
        help="steps applied to the lists (default: %(default)s)",
    )
    parser.add_argument(
        "--encoder", metavar="NAME", help="hub id or folder of the text encoder (default: all-MiniLM-L6-v2 from PyPI)"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="allow the encoder to run its own code")
    return parser


def _demonstrate(options: argparse.Namespace) -> None:
    _check(options)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = resolve(compose("config", overrides=options.overrides))
        except HydraException as error:
            raise BadInput(str(error)) from error
    if problems := check_values(config):
        raise BadInput(*problems)
    dataset = load_dataset(config.dataset)
    rows = read_rows(options.lists, {"context_id": str, "response": str})
    lists = [(row["context_id"], list(parse_text(row["response"]).films)) for row in rows]
    conversations = _conversations(options.lists, lists, dataset)
    steps = STEPS[options.steps]
    films = read_texts(options.films) if options.films else {}
    ratings, unread = _ratings(options.ratings) if options.ratings else ({}, 0)
    if steps or options.candidates:
        judge = make_judge(config.matching, dataset.catalog, config.dataset.list_length)
        encode = load_encoder(options.encoder, options.trust_remote_code)
        stage = Stage1(judge.catalog, conversations, encode, films)
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
    console.print(f"wrote {len(made)} demonstrations to {options.out}", markup=False)


def _check(options: argparse.Namespace) -> None:
    problems = [f"{p} already exists; move it away or give another file" for p in _written(options) if p.exists()]
    if not _written(options):
        problems.append("nothing to write: give --out FILE, --candidates FILE, or both")
    if options.out is not None and "reflect" in STEPS[options.steps] and options.ratings is None:
        problems.append(
            f"--steps {options.steps} needs the teacher's ratings; give --ratings FILE (write the films to rate with "
            "--candidates FILE), or use --steps remap_adjust"
        )
    if options.ratings is not None and "reflect" not in STEPS[options.steps]:
        problems.append(f"--ratings {options.ratings} has no effect with --steps {options.steps}; remove it")
    if problems:
        raise BadInput(*problems)


def _written(options: argparse.Namespace) -> list[Path]:
    return [path for path in (options.out, options.candidates) if path is not None]


def _conversations(
    file: Path, lists: Sequence[tuple[str, list[Film]]], dataset: RankedListDataset
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
        raise BadInput(f"{file}: no response has a line of the form Title (Year)")
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
    ratings: Mapping[str, Mapping[Film, int]],
    unread: int,
) -> list[list[Film]]:
    if "reflect" in steps:
        outside = stage.reflect(ratings)
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


def _ratings(file: Path) -> tuple[Mapping[str, Mapping[Film, int]], int]:
    ratings: dict[str, Mapping[Film, int]] = {}
    unread = 0
    rows = read_rows(file, {"context_id": str, "response": str})
    repeated = [context for context, count in Counter(row["context_id"] for row in rows).items() if count > 1]
    if repeated:
        raise BadInput(
            f"{file}: {len(repeated)} contexts have more than one line of ratings: {', '.join(repeated[:EXAMPLES])}; "
            "keep one line per context"
        )
    for row in rows:
        ratings[row["context_id"]], more = read_ratings(row["response"])
        unread += more
    return ratings, unread


if __name__ == "__main__":
    sys.exit(main())

"""Reddit-Movie, the first release of the Reddit data (He et al., CIKM 2023): threads in which people ask for films.

A folder with `train.csv`, `valid.csv`, `test.csv` (one row per turn of a thread) and `id2name.json` (IMDb id to
"Title (Year)"). These columns are used:

    conv_id              "t3_rt7enj_0/14": path 0 of the 14 through the thread t3_rt7enj
    turn_id              the post or comment
    is_seeker            whether its author started the thread
    processed            its text, with films as IMDb ids (tt0053779)
    context_raw          the texts before it, oldest first, as a Python list
    context_processed    the same with films as IMDb ids
    context_turn_ids     the same as turn_ids

A text in the two context columns is a str, or a pair (speaker, text) of which the text is used.

**Samples** are turns of other people that answer the seeker: the turn before is the seeker's. Paths share their first
turns, so each turn is used only once in a split. The row of a turn says whether it is the seeker's. If a turn of the
context has no row, it counts as the seeker's only if it is the first of its thread. Consecutive turns of the seeker, or
of other people, are one turn.

**Films** are the IMDb ids. Ids without a name, or with a name without a year, are ignored. The catalogue is all films
of `id2name.json`. Truth and demonstrations follow `rlbench.data.dialogues`; the dialogue is the thread, and answers to
the same turns share their context.

**Splits** are the published ones, in the order of time. Threads of validation or test are left out of train, and
threads of test out of validation.
"""

import ast
import csv
import html
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_json
from rlbench.config.datasets import named_files
from rlbench.config.schema import RedditMovieConfig
from rlbench.data.dialogues import Reply, Turn, add_turn, finished, left_out, option_problems, split_records
from rlbench.data.film_names import split_film
from rlbench.data.record import Film, RankedListDataset
from rlbench.data.tables import read_table
from rlbench.lists.catalog import Catalog

FILES = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}
NAMES = "id2name.json"
_COLUMNS = (
    "conv_id",
    "turn_id",
    "is_seeker",
    "processed",
    "context_raw",
    "context_processed",
    "context_turn_ids",
)
_BOOLEANS = {"True": True, "true": True, "False": False, "false": False}
_FILM = re.compile(r"(?<![A-Za-z0-9])tt\d{6,9}(?!\d)")
_PATH = re.compile(r"_\d+/\d+$")
_BAD_LITERAL = (ValueError, SyntaxError, MemoryError, RecursionError, TypeError)
"""Errors of `ast.literal_eval` for text that is no Python value."""


@dataclass(frozen=True)
class Comment:
    """A row.

    Attributes:
        thread: id of the thread.
        turn: id of the turn.
        seeker: whether it is the seeker's.
        text: its text with films as IMDb ids.
        before: (id, raw text, text with films as IMDb ids) of each turn before it, oldest first.
    """

    thread: str
    turn: str
    seeker: bool
    text: str
    before: list[tuple[str, str, str]]


def load(config: RedditMovieConfig) -> RankedListDataset:
    """Load Reddit-Movie.

    Raises:
        BadInput: all problems of options and files at once; a split without records.
    """
    problems = option_problems(config.prompt_template)
    files = _files(config.path, problems)
    films: dict[str, Film] = {}
    read: dict[str, list[Comment]] = {}
    unnamed = 0
    if files:
        films, unnamed = _read_names(files["names"], problems)
        read = {split: read_comments(files[split], problems) for split in FILES}
    if problems:
        raise BadInput(*problems)
    counts: Counter[str] = Counter()
    _drop_shared_threads(read, counts)
    replies = {split: _replies(comments, films, counts) for split, comments in read.items()}

    def why_empty(split: str) -> str:
        return (
            f"{files[split]}: none of the {len(replies[split])} answers to a seeker has a target: a target is a film "
            f"of {NAMES} that the answer names and no earlier turn does"
        )

    splits, dropped, long = split_records(config, replies, why_empty)
    notices = [
        f"left out: {counts['of seeker']} turns of seekers, {counts['repeated']} turns that stand on several paths, "
        f"{counts['to others']} answers to other people, and {counts['shared']} turns of threads of a later split",
        *left_out(dropped),
        *([f"{NAMES}: {unnamed} names have no year and are ignored"] if unnamed else []),
        *([f"{counts['unknown']} mentions have an id without a film in {NAMES}"] if counts["unknown"] else []),
        *long.notices(),
    ]
    return finished(config, Catalog(sorted(set(films.values()))), splits, replies["train"], notices)


def sources(config: RedditMovieConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    found = {file.name: file for file in _files(config.path, []).values()}
    return found | named_files(demonstrations=config.demonstrations_from)


def _files(path: str | None, problems: list[str]) -> dict[str, Path]:
    names = [*FILES.values(), NAMES]
    expected = f"a folder with {', '.join(names)} as published"
    if path is None:
        problems.append(f"dataset.path is not set: give dataset.path=FOLDER, {expected} (docs/data.md)")
        return {}
    root = Path(path)
    if not root.is_dir():
        problems.append(f"dataset.path = {path}: there is no such folder; expected {expected}")
        return {}
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        problems.append(f"dataset.path = {path}: {', '.join(missing)} is missing; expected {expected}")
        return {}
    return {split: root / name for split, name in (*FILES.items(), ("names", NAMES))}


def _read_names(file: Path, problems: list[str]) -> tuple[dict[str, Film], int]:
    """(film by IMDb id, number of names without a year)."""
    try:
        names = read_user_json(file, distinct_keys=True)
    except BadInput as error:
        problems += error.problems
        return {}, 0
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        problems.append(f"{file}: expected an object of IMDb id to name")
        return {}, 0
    films = {key: split_film(" ".join(name.split())) for key, name in names.items()}
    dated = {key: film for key, film in films.items() if film is not None}
    if not dated:
        problems.append(f'{file}: no name has the form "Title (Year)"')
    return dated, len(films) - len(dated)


def read_comments(file: Path, problems: list[str]) -> list[Comment]:
    """The rows of a file. Adds all its problems to `problems`."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return read_table(file, _COLUMNS, _comment, problems)


def _comment(row: Mapping[str, str]) -> Comment | tuple[str, str]:
    """The row, or (kind of problem, detail)."""
    for column in ("conv_id", "turn_id"):
        if not row[column]:
            return f"{column} is empty", ""
    if row["is_seeker"] not in _BOOLEANS:
        return "is_seeker must be True or False", repr(row["is_seeker"])[:80]
    lists = []
    for column in ("context_turn_ids", "context_raw", "context_processed"):
        texts = _texts(row[column])
        if texts is None:
            return f"{column} must be a list of texts or of (speaker, text)", repr(row[column])[:80]
        lists.append(texts)
    if len(set(map(len, lists))) > 1:
        lengths = ", ".join(str(len(texts)) for texts in lists)
        return "context_turn_ids, context_raw and context_processed differ in length", lengths
    return Comment(
        _PATH.sub("", row["conv_id"]),
        row["turn_id"],
        _BOOLEANS[row["is_seeker"]],
        row["processed"],
        list(zip(*lists, strict=True)),
    )


def _texts(column: str) -> list[str] | None:
    """The texts of a Python list; None for anything else. An empty cell is an empty list."""
    if not column.strip():
        return []
    try:
        value = ast.literal_eval(column)
    except _BAD_LITERAL:
        return None
    if not isinstance(value, list):
        return None
    texts = [one[-1] if isinstance(one, list | tuple) and len(one) == 2 else one for one in value]
    return texts if all(isinstance(text, str) for text in texts) else None


def _drop_shared_threads(read: dict[str, list[Comment]], counts: Counter[str]) -> None:
    later: set[str] = set()
    for split in reversed(FILES):
        kept = [comment for comment in read[split] if comment.thread not in later]
        counts["shared"] += len(read[split]) - len(kept)
        later |= {comment.thread for comment in kept}
        read[split] = kept


def _replies(comments: Sequence[Comment], films: Mapping[str, Film], counts: Counter[str]) -> list[Reply]:
    """The answers to seekers, each once."""
    of_seeker = {comment.turn: comment.seeker for comment in comments}
    done: set[str] = set()
    replies = []
    for comment in comments:
        if comment.turn in done:
            counts["repeated"] += 1
            continue
        done.add(comment.turn)
        if comment.seeker:
            counts["of seeker"] += 1
            continue
        turns: list[tuple[bool, Turn]] = []
        for place, (turn, raw, processed) in enumerate(comment.before):
            named = _films(processed, films, counts)
            add_turn(turns, of_seeker.get(turn, place == 0), Turn(_clean(raw), named))
        if turns and not turns[-1][0]:
            counts["to others"] += 1
            continue
        given = Turn(_clean(comment.text), _films(comment.text, films, counts))
        replies.append(Reply(comment.thread, [turn for _, turn in turns], given))
    return replies


def _films(text: str, films: Mapping[str, Film], counts: Counter[str]) -> tuple[Film, ...]:
    keys = _FILM.findall(text)
    counts["unknown"] += sum(key not in films for key in keys)
    return tuple(films[key] for key in keys if key in films)


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())

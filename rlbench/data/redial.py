"""ReDial: conversations between a seeker and a recommender of films, in CRSLab's format (one turn per line).

A sample is one answer of the recommender. These fields of a line are used: `context` (the turns so far), `resp` (the
answer), `entity_name` (names in the answer), `dialog_id` and `is_user` (answers of the seeker are left out).

**Speakers.** Consecutive messages of one speaker form one turn, so the turns of `context` alternate. Speakers are
assigned backwards from the answer: the last turn is the seeker's ("User:"), the one before it the recommender's
("System:"), and so on. In the file, every earlier answer of a dialogue is at a position that this rule gives to the
recommender. The field `input` labels turns from the first one onwards, which is wrong if the recommender opened the
dialogue, so it is not used. Empty turns are left out.

**Films** are written as "Title (Year)". `rlbench.data.film_names` separates a title from the words before it. Films
without a year are ignored. Train records are read with only the films that the train split names, so no other split can
change a reward or a demonstration. Validation and test are read with the films of all splits, and the catalogue holds
them all.

**Splits.** train.jsonl, valid.jsonl and test.jsonl are used unchanged. A single file is split by dialogue.

`rlbench.data.dialogues` says what the truth and the demonstrations are.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rlbench.base.errors import BadInput
from rlbench.base.texts import broken_texts
from rlbench.base.user_files import read_user_lines
from rlbench.config.datasets import named_files
from rlbench.config.schema import RedialConfig
from rlbench.data.checks import EXAMPLES, Finding, report
from rlbench.data.dialogues import (
    Reply,
    Turn,
    divided,
    find_files,
    finished,
    left_out,
    option_problems,
    shared_dialogues,
    split_records,
    was_split,
)
from rlbench.data.film_names import FilmNames, learn_film_names
from rlbench.data.record import RankedListDataset
from rlbench.lists.catalog import Catalog

FILES = {"train": "train.jsonl", "validation": "valid.jsonl", "test": "test.jsonl"}
FORM = "CRSLab's format"
_ESCAPES = re.compile(r"(?:%[0-9A-F]{2})+")
_FIELDS = {"context": "a list of str", "resp": "a str", "entity_name": "a list of str", "dialog_id": "a str or int"}


@dataclass(frozen=True)
class CrslabAnswer:
    """One line of a file: the turns before an answer (without empty ones, oldest first), and the answer."""

    dialogue: str
    turns: list[str]
    text: str
    names: list[str]


def load(config: RedialConfig) -> RankedListDataset:
    """Load ReDial.

    Raises:
        BadInput: all problems of options and files at once; a split without records, with the reason.
    """
    fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
    problems = option_problems(config.prompt_template, **fractions)
    files = find_files(config.path, FILES, FORM, problems)
    read: dict[str, list[CrslabAnswer]] = {}
    skipped = repaired = 0
    for split, file in files.items():
        read[split], of_seeker, escapes = read_answers(file, problems)
        skipped, repaired = skipped + of_seeker, repaired + escapes
    problems += shared_dialogues({split: whole_texts(part) for split, part in read.items()}, files)
    if problems:
        raise BadInput(*problems)
    if len(read) == 1:
        (alone,) = read.values()
        read = divided(alone, config.seed, **fractions)
    train_names = film_names(read["train"])
    names = train_names.preferred_to(film_names([answer for part in read.values() for answer in part]))
    answers = {split: with_films(part, train_names if split == "train" else names) for split, part in read.items()}
    any_file = next(iter(files.values()))
    splits, dropped, long = split_records(
        config, answers, lambda split: why_empty(files.get(split, any_file), split, read[split], names)
    )
    notices = [mentions(names), *left_out(dropped, f"{skipped} answers of the seeker")]
    if len(files) == 1:
        notices.append(was_split(any_file, config.seed))
    if repaired:
        notices.append(f"percent-escapes such as %3F were decoded in {repaired} turns and names")
    notices += long.notices()
    return finished(config, Catalog(names.films), splits, answers["train"], notices)


def sources(config: RedialConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    found = {file.name: file for file in find_files(config.path, FILES, FORM, []).values()}
    return found | named_files(demonstrations=config.demonstrations_from)


def mentions(names: FilmNames) -> str:
    """A notice about the films that were found in the texts."""
    return (
        f"{names.known} film mentions match a name in entity_name, {names.read} were found in the text only, and "
        f"{names.unread} years have no title"
    )


def why_empty(file: Path, split: str, answers: Sequence[CrslabAnswer], names: FilmNames) -> str:
    """Why a split has no records, and what to do."""
    if any(names.find(answer.text) for answer in answers):
        return (
            f"{file}: none of the {len(answers)} answers of '{split}' has a target: a target is a film that the "
            "answer names and no earlier turn does"
        )
    if names.films:
        return f"{file}: none of the {len(answers)} answers of '{split}' names a film as \"Title (Year)\""
    named = list(dict.fromkeys(name for answer in answers for name in answer.names))[:EXAMPLES]
    return (
        f"{file}: no film has a year (entity_name has {', '.join(map(repr, named)) or 'no names'}), but "
        'films are recognised only as "Title (Year)"; add the year to every film in context, resp and entity_name'
    )


def film_names(answers: Sequence[CrslabAnswer]) -> FilmNames:
    """The films that answers name, in `entity_name` or in the text."""
    return learn_film_names(
        (name for answer in answers for name in answer.names),
        dict.fromkeys(text for answer in answers for text in (*answer.turns, answer.text)),
    )


def with_films(answers: Iterable[CrslabAnswer], names: FilmNames) -> list[Reply]:
    """The answers with the films that each turn names."""
    turns: dict[str, Turn] = {}  # a turn stands in all answers after it

    def turn(text: str) -> Turn:
        if text not in turns:
            turns[text] = Turn(text, tuple(names.find(text)))
        return turns[text]

    return [Reply(answer.dialogue, list(map(turn, answer.turns)), turn(answer.text)) for answer in answers]


def read_answers(file: Path, problems: list[str]) -> tuple[list[CrslabAnswer], int, int]:
    """(answers of the recommender, number of omitted answers of the seeker, number of decoded texts)."""
    answers: list[CrslabAnswer] = []
    findings: list[Finding] = []
    of_seeker = repaired = 0
    try:
        lines = list(read_user_lines(file))
    except BadInput as error:
        problems += error.problems
        return [], 0, 0
    for number, row, wrong_json in lines:
        if wrong_json:
            findings.append((number, *wrong_json))
            continue
        wrong = list(_row_problems(row))
        if wrong:
            findings += [(number, kind, detail) for kind, detail in wrong]
        elif row["is_user"]:
            of_seeker += 1
        else:
            texts = [*row["context"], row["resp"], *row["entity_name"]]
            repaired += sum(_ESCAPES.search(text) is not None for text in texts)
            turns = [turn for turn in map(clean, row["context"]) if turn]
            names = [clean(name) for name in row["entity_name"]]
            answers.append(CrslabAnswer(str(row["dialog_id"]), turns, clean(row["resp"]), names))
    if not answers and not findings:
        problems.append(f"{file} has no answer of the recommender")
    problems += report(str(file), findings, "line")
    return answers, of_seeker, repaired


def _row_problems(row: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(row, dict):
        yield "not a JSON object", repr(row)[:80]
        return
    fits = {
        "context": _is_texts(row.get("context")),
        "resp": isinstance(row.get("resp"), str),
        "entity_name": _is_texts(row.get("entity_name")),
        "dialog_id": isinstance(row.get("dialog_id"), str | int),
    }
    for field, expected in _FIELDS.items():
        if broken := broken_texts(row.get(field)):
            yield f"{field} contains half a character (a lone surrogate)", ascii(broken[0])[:80]
        if not fits[field]:
            yield f"{field} must be {expected}", repr(row.get(field))[:80] if field in row else "missing"
    if row.get("is_user") not in (0, 1):
        yield "is_user must be 0 or 1", repr(row.get("is_user"))[:80]


def whole_texts(answers: Iterable[CrslabAnswer]) -> dict[str, str]:
    """The longest known text of each dialogue, one turn a line."""
    texts: dict[str, str] = {}
    for answer in answers:
        text = "\n".join([*answer.turns, answer.text])
        texts[answer.dialogue] = max(texts.get(answer.dialogue, ""), text, key=len)
    return texts


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def clean(text: str) -> str:
    """The text with percent-escapes decoded and white space collapsed."""
    return " ".join(_ESCAPES.sub(lambda match: unquote(match[0]), text).split())

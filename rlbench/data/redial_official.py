"""ReDial as its authors publish it (one dialogue a line), with its own test file or that of CRSLab.

These fields of a line are used: `conversationId`, `messages` (`text`, `senderWorkerId`), `movieMentions` (id to name),
`initiatorWorkerId`, `respondentWorkerId`, `initiatorQuestions` and `respondentQuestions`.

**Speakers.** The initiator is the seeker ("User:"), the respondent the recommender ("System:"). Messages without text
are left out. Consecutive messages of one speaker form one turn.

**Films** are the mentions `@id`, whose names stand in `movieMentions`. The text of a prompt has the name instead of the
mention. A title that was typed without `@` is text like any other. A mention whose id has no name is removed from the
text, and counted. A film without a year gets the year of the only film with that title. If there are several or none,
it counts as seen but is no target. Train records use the films of the train split for this, and the others use those of
all splits.

**Truth** and demonstrations follow `rlbench.data.dialogues`, as in CRSLab's form. What the speakers say about each film
afterwards (suggested, seen, liked) changes no record: CRSLab's test file has no such answers, so train and test would
differ. A notice counts the targets that they contradict.

**Splits.** Train and validation are dialogues of train_data.jsonl, divided by a hash of the seed and the dialogue's id.
Test is test_data.jsonl, or the file of `dataset.test` in either form.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.base.texts import broken_texts
from rlbench.base.user_files import read_user_lines
from rlbench.config.datasets import named_files
from rlbench.config.schema import RedialOfficialConfig
from rlbench.data import redial
from rlbench.data.checks import Finding, report
from rlbench.data.dialogues import (
    Reply,
    Turn,
    draw,
    finished,
    left_out,
    option_problems,
    shared_dialogues,
    split_records,
)
from rlbench.data.film_names import FilmNames, learn_film_names, split_film
from rlbench.data.record import RankedListDataset
from rlbench.lists.catalog import Catalog, normalise
from rlbench.lists.items import Item

TRAIN, TEST = "train_data.jsonl", "test_data.jsonl"
_MENTION = re.compile(r"@(\d+)")
_QUESTIONS = ("initiatorQuestions", "respondentQuestions")
_ANSWERS = {"suggested": (0, 1, 2), "seen": (0, 1, 2), "liked": (0, 1, 2)}


@dataclass(frozen=True)
class Dialogue:
    """One line of a file.

    Attributes:
        name: the conversation's id.
        turns: (whether the recommender speaks, text with mentions as @id) of each turn.
        films: name of each mentioned film by its id, in digits.
        seeker: the seeker's answers about each film, by its id.
    """

    name: str
    turns: list[tuple[bool, str]]
    films: dict[str, str]
    seeker: dict[str, dict[str, int]]


def load(config: RedialOfficialConfig) -> RankedListDataset:
    """Load ReDial in the form of its authors.

    Raises:
        BadInput: all problems of options and files at once; a split without records, with the reason.
    """
    problems = option_problems(config.prompt_template, validation_fraction=config.validation_fraction)
    files = _find_files(config, problems)
    train = read_dialogues(files["train"], problems) if "train" in files else []
    crslab: list[redial.CrslabAnswer] = []
    test: list[Dialogue] = []
    if "test" in files:
        if _is_crslab(files["test"]):
            crslab = redial.read_answers(files["test"], problems)[0]
        else:
            test = read_dialogues(files["test"], problems)
    if not problems:
        texts = {"train": _whole_texts(train), "test": _whole_texts(test) | _digits(redial.whole_texts(crslab))}
        problems = shared_dialogues(texts, files)
    if problems:
        raise BadInput(*problems)
    held_out = {d.name for d in train if draw(config.seed, d.name) < config.validation_fraction}
    parts = {
        "train": [d for d in train if d.name not in held_out],
        "validation": [d for d in train if d.name in held_out],
        "test": test,
    }
    train_names = _film_names(parts["train"], [])
    names = train_names.preferred_to(_film_names([*train, *test], crslab))
    counts: Counter[str] = Counter()
    answers = {
        split: _answers(part, train_names if split == "train" else names, counts) for split, part in parts.items()
    }
    answers["test"] += redial.with_films(crslab, names)

    def why_empty(split: str) -> str:
        return (
            f"{files['test' if split == 'test' else 'train']}: none of the {len(answers[split])} answers of '{split}' "
            "has a target: a target is a film with a year that the answer names and no earlier turn does"
        )

    splits, dropped, long = split_records(config, answers, why_empty)
    notices = [
        f"{files['train'].name} was split into train and validation by dialogue, with seed {config.seed}",
        *_told(counts),
        *left_out(dropped),
        *([redial.mentions(names)] if crslab else []),
        _contradicted(train, test),
        *long.notices(),
    ]
    return finished(config, Catalog(names.films), splits, answers["train"], notices)


def sources(config: RedialOfficialConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    found = {f"{split} {file.name}": file for split, file in _find_files(config, []).items()}
    return found | named_files(demonstrations=config.demonstrations_from)


def _find_files(config: RedialOfficialConfig, problems: list[str]) -> dict[str, Path]:
    expected = f"a folder with {TRAIN} and {TEST} as ReDial's authors publish them"
    if config.path is None:
        problems.append(f"dataset.path is not set: give dataset.path=FOLDER, {expected} (docs/data.md)")
        return {}
    root = Path(config.path)
    if not root.is_dir():
        problems.append(f"dataset.path = {config.path}: there is no such folder; expected {expected}")
        return {}
    files = {"train": root / TRAIN, "test": Path(config.test) if config.test else root / TEST}
    advice = {
        "train": f"expected {expected}",
        "test": "dataset.test=FILE names another test file, in the authors' form or in CRSLab's",
    }
    problems += [
        f"{file}: there is no such file; {advice[split]}" for split, file in files.items() if not file.is_file()
    ]
    return {split: file for split, file in files.items() if file.is_file()}


def _is_crslab(file: Path) -> bool:
    """Whether the first line of a file that can be read has the fields of CRSLab's form."""
    try:
        first = next((row for _, row, wrong in read_user_lines(file) if not wrong), None)
    except BadInput:  # reported by the reader of the file
        return False
    return isinstance(first, dict) and "context" in first and "messages" not in first


def read_dialogues(file: Path, problems: list[str]) -> list[Dialogue]:
    """The dialogues of a file. Adds all problems of its lines to `problems`."""
    try:
        lines = list(read_user_lines(file))
    except BadInput as error:
        problems += error.problems
        return []
    findings: list[Finding] = []
    dialogues: dict[str, Dialogue] = {}
    for number, row, wrong_json in lines:
        wrong = [wrong_json] if wrong_json else list(_row_problems(row))
        if not wrong and (name := str(row["conversationId"])) in dialogues:
            wrong = [("conversationId is that of an earlier line", name)]
        if wrong:
            findings += [(number, kind, detail) for kind, detail in wrong]
        else:
            dialogues[name] = _dialogue(name, row)
    if not dialogues and not findings:
        problems.append(f"{file} has no dialogue")
    problems += report(str(file), findings, "line")
    return list(dialogues.values())


def _row_problems(row: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(row, dict):
        yield "not a JSON object", repr(row)[:80]
        return
    if broken := broken_texts(row):
        yield "a text contains half a character (a lone surrogate)", ascii(broken[0])[:80]
    for field in ("conversationId", "initiatorWorkerId", "respondentWorkerId"):
        if not _is_id(row.get(field)):
            yield f"{field} must be a str or int", repr(row.get(field))[:80] if field in row else "missing"
    speakers = [row.get("initiatorWorkerId"), row.get("respondentWorkerId")]
    if speakers[0] == speakers[1]:
        yield "initiatorWorkerId and respondentWorkerId are equal, so nobody is the recommender", repr(speakers[0])[:80]
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("text"), str) and "senderWorkerId" in m for m in messages
    ):
        yield "messages must be a list of {text: str, senderWorkerId}", repr(messages)[:80]
    elif strangers := [m["senderWorkerId"] for m in messages if m["senderWorkerId"] not in speakers]:
        yield "senderWorkerId is neither initiatorWorkerId nor respondentWorkerId", repr(strangers[0])[:80]
    films = row.get("movieMentions")
    if films != [] and not (
        isinstance(films, dict) and all(name is None or isinstance(name, str) for name in films.values())
    ):
        yield "movieMentions must be an object of id to name, or an empty list", repr(films)[:80]
    for field in _QUESTIONS:
        given = row.get(field)
        if given != [] and not (isinstance(given, dict) and all(map(_is_opinion, given.values()))):
            yield f"{field} must be an object of id to suggested, seen and liked (0, 1 or 2)", repr(given)[:80]


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_opinion(value: Any) -> bool:
    return isinstance(value, dict) and all(value.get(key) in allowed for key, allowed in _ANSWERS.items())


def _dialogue(name: str, row: Mapping[str, Any]) -> Dialogue:
    turns: list[tuple[bool, str]] = []
    for message in row["messages"]:
        text = " ".join(message["text"].split())
        speaks = message["senderWorkerId"] == row["respondentWorkerId"]
        if text and turns and turns[-1][0] == speaks:
            turns[-1] = (speaks, f"{turns[-1][1]} {text}")
        elif text:
            turns.append((speaks, text))
    films = {key: redial.clean(title) for key, title in dict(row["movieMentions"]).items() if title and title.strip()}
    return Dialogue(name, turns, films, dict(row["initiatorQuestions"]))


def _whole_texts(dialogues: Iterable[Dialogue]) -> dict[str, str]:
    return {d.name: "\n".join(_named_in_text(text, d.films) for _, text in d.turns) for d in dialogues}


def _digits(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts of CRSLab's dialogues by the ids of ReDial's authors: "test_20001" is 20001."""
    return {re.sub(r"^\D*(?=\d+$)", "", name): text for name, text in texts.items()}


def _named_in_text(text: str, films: Mapping[str, str]) -> str:
    return " ".join(_MENTION.sub(lambda match: films.get(match[1], ""), text).split())


def _film_names(dialogues: Iterable[Dialogue], crslab: Iterable[redial.CrslabAnswer]) -> FilmNames:
    answers = list(crslab)
    return learn_film_names(
        [*(n for d in dialogues for n in d.films.values()), *(name for a in answers for name in a.names)],
        dict.fromkeys(text for a in answers for text in (*a.turns, a.text)),
    )


def _answers(dialogues: Iterable[Dialogue], names: FilmNames, counts: Counter[str]) -> list[Reply]:
    """The turns of recommenders, with the turns before each."""
    years: dict[str, list[int]] = {}
    for title, year in names.spelling:
        years.setdefault(title, []).append(year)
    answers = []
    for dialogue in dialogues:
        films = {key: _named(name, names, years, counts) for key, name in dialogue.films.items()}
        earlier: list[Turn] = []
        for speaks, text in dialogue.turns:
            ids = _MENTION.findall(text)
            counts["unknown id"] += sum(key not in films for key in ids)
            turn = Turn(_named_in_text(text, dialogue.films), tuple(films[key] for key in ids if key in films))
            if not turn.text:
                continue
            if speaks:
                answers.append(Reply(dialogue.name, list(earlier), turn))
            earlier.append(turn)
    return answers


def _named(name: str, names: FilmNames, years: Mapping[str, list[int]], counts: Counter[str]) -> Item:
    """The film of a name in `movieMentions`. Counts films without a year."""
    film = split_film(name)
    if film is not None:
        return names.spelling[normalise(film[0]), film[1]], film[1]
    found = years.get(normalise(name), [])
    counts["undated"] += 1
    counts["ambiguous" if len(found) > 1 else "resolved" if found else "unknown"] += 1
    return (names.spelling[normalise(name), found[0]], found[0]) if len(found) == 1 else (name, None)


def _told(counts: Mapping[str, int]) -> list[str]:
    told = []
    if counts["undated"]:
        told.append(
            f"{counts['undated']} entries of movieMentions have no year: {counts['resolved']} have the title of one "
            f"film and got its year, {counts['ambiguous']} have that of several films, {counts['unknown']} that of none"
        )
    if counts["unknown id"]:
        told.append(f"{counts['unknown id']} mentions have an id without a name in movieMentions and were removed")
    return told


def _contradicted(*parts: Iterable[Dialogue]) -> str:
    """A notice about films that a recommender names first, and what the seekers say about them afterwards."""
    counts: Counter[str] = Counter()
    for dialogue in (d for part in parts for d in part):
        before: set[str] = set()
        for speaks, text in dialogue.turns:
            ids = set(_MENTION.findall(text))
            for key in (ids - before) & dialogue.seeker.keys() if speaks else ():
                said = dialogue.seeker[key]
                counts["all"] += 1
                counts["not suggested"] += said["suggested"] == 0
                counts["seen"] += said["seen"] == 1
                counts["not liked"] += said["liked"] == 0
            before |= ids
    return (
        f"of {counts['all']} films that recommenders name first and seekers answer about, seekers say that "
        f"{counts['not suggested']} were not suggested, {counts['seen']} they had seen, and {counts['not liked']} they "
        "do not like; none of this changes a target"
    )

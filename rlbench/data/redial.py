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

**Truth** is the set of films that the answer names and the dialogue has not named before. Titles decide, since
`seen_titles` holds no years: after "Jumanji (1995)", an answer "Jumanji (2017)" is no target. Answers without a target,
and answers with nothing before them, are left out.

**Splits.** train.jsonl, valid.jsonl and test.jsonl are used unchanged. A single file is split by dialogue.

**Demonstrations** (`truth_then_cooccurrence`) replace Stage 1 of the Rank-GRPO paper, which asks a large model for
lists and adjusts them. They list the films of the truth, then those that most train dialogues name together with the
films seen so far, then the films of most train dialogues. Only train records are used, and only they get them.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from os.path import commonprefix
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rlbench.base.errors import BadInput
from rlbench.base.texts import broken_texts
from rlbench.base.user_files import read_user_lines
from rlbench.config.schema import RedialConfig
from rlbench.data.checks import EXAMPLES, Finding, fingerprint, report, same_wording, wordings
from rlbench.data.film_names import FilmNames, learn_film_names
from rlbench.data.lengths import LongPrompts
from rlbench.data.record import Film, Messages, RankedListDataset, Record
from rlbench.data.stage1.files import demonstrated
from rlbench.lists.catalog import Catalog, normalise

FILES = {"train": "train.jsonl", "validation": "valid.jsonl", "test": "test.jsonl"}
_ESCAPES = re.compile(r"(?:%[0-9A-F]{2})+")
_FIELDS = {"context": "a list of str", "resp": "a str", "entity_name": "a list of str", "dialog_id": "a str or int"}


@dataclass(frozen=True)
class _Answer:
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
    problems = _option_problems(config.prompt_template, config.validation_fraction, config.test_fraction)
    files = _find_files(config.path, problems)
    answers: dict[str, list[_Answer]] = {}
    skipped = repaired = 0
    for split, file in files.items():
        answers[split], of_seeker, escapes = _read(file, problems)
        skipped, repaired = skipped + of_seeker, repaired + escapes
    problems += _shared_dialogues(answers, files)
    if problems:
        raise BadInput(*problems)
    if len(answers) == 1:
        (alone,) = answers.values()
        answers = _split_by_dialogue(alone, config.validation_fraction, config.test_fraction, config.seed)
    everything = [answer for part in answers.values() for answer in part]
    train_names = _film_names(answers["train"])
    names = train_names.preferred_to(_film_names(everything))
    dropped: Counter[str] = Counter()
    long = LongPrompts(config.max_conversation_chars, config.long_prompts)
    splits: dict[str, list[Record]] = {"sft": []}

    def names_of(split: str) -> FilmNames:
        return train_names if split == "train" else names

    template = config.prompt_template.replace("{n}", str(config.list_length))
    for split, part in answers.items():
        splits[split] = list(_records(split, part, names_of(split), template, long, dropped))
    empty = [
        _why_empty(files.get(split, next(iter(files.values()))), split, part, names)
        for split, part in answers.items()
        if not splits[split]
    ]
    if empty:
        raise BadInput(*dict.fromkeys(empty))
    films = _films_by_dialogue(answers["train"], train_names)
    splits["sft"] = _demonstrations(splits["train"], films, config.list_length)
    catalog = Catalog(names.films)
    notices = [
        f"{names.known} film mentions match a name in entity_name, {names.read} were found in the text only, and "
        f"{names.unread} years have no title",
        f"left out: {dropped['no target']} answers without a target, {dropped['no context']} answers without an "
        f"earlier turn, and {skipped} answers of the seeker",
        f"{dropped['named before']} films in answers are not targets, because their title was named earlier in the "
        "dialogue",
    ]
    if len(files) == 1:
        notices.append(
            f"{next(iter(files.values())).name} is the only file; its dialogues were split into train, "
            f"validation and test with seed {config.seed}"
        )
    if repaired:
        notices.append(f"percent-escapes such as %3F were decoded in {repaired} turns and names")
    notices += long.notices()
    training = wordings(splits["sft"], splits["train"])
    for split in ("validation", "test"):
        notices += same_wording(split, splits[split], training)
    shown = {split: splits[split] for split in ("train", "validation")}
    found = demonstrated(config.demonstrations_from, shown, config.list_length)
    if found is not None:
        splits |= found[0]
        notices += found[1]
    return RankedListDataset("redial", catalog, splits, notices=notices, fingerprint=fingerprint(splits, catalog))


def sources(config: RedialConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    found = {file.name: file for file in _find_files(config.path, []).values()}
    shown = config.demonstrations_from
    return found | ({f"demonstrations {Path(shown).name}": Path(shown)} if shown else {})


def _why_empty(file: Path, split: str, answers: Sequence[_Answer], names: FilmNames) -> str:
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


def _film_names(answers: Sequence[_Answer]) -> FilmNames:
    return learn_film_names(
        (name for answer in answers for name in answer.names),
        dict.fromkeys(text for answer in answers for text in (*answer.turns, answer.text)),
    )


def _option_problems(prompt_template: str, validation_fraction: float, test_fraction: float) -> list[str]:
    problems = []
    if "{conversation}" not in prompt_template:
        problems.append(
            "dataset.prompt_template has no {conversation}, so the model would not see the dialogue; add it"
        )
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    problems += [f"dataset.{key} = {share} must lie in (0, 1)" for key, share in fractions.items() if not 0 < share < 1]
    if not problems and sum(fractions.values()) >= 1:
        problems.append(
            f"dataset.validation_fraction + dataset.test_fraction = {sum(fractions.values())} leaves nothing for the "
            "train split; the sum must be below 1"
        )
    return problems


def _find_files(path: str | None, problems: list[str]) -> dict[str, Path]:
    expected = f"a folder with {', '.join(FILES.values())} (or one of them) in CRSLab's format"
    if path is None:
        problems.append(
            f"dataset.path is not set: give dataset.path=FOLDER, {expected} (docs/data.md says where to get it)"
        )
        return {}
    place = Path(path)
    if place.is_file():
        return {"test": place}
    if not place.is_dir():
        problems.append(f"dataset.path = {path}: there is no such folder; expected {expected}")
        return {}
    files = {split: place / name for split, name in FILES.items() if (place / name).is_file()}
    if len(files) not in (1, len(FILES)):
        found = [file.name for file in files.values()]
        problems.append(
            f"dataset.path = {path}: found {' and '.join(found) or 'none of the files'}; expected {expected}"
        )
    return files


def _read(file: Path, problems: list[str]) -> tuple[list[_Answer], int, int]:
    """(answers of the recommender, number of omitted answers of the seeker, number of decoded texts)."""
    answers: list[_Answer] = []
    findings: list[Finding] = []
    of_seeker = repaired = 0
    try:
        lines = list(read_user_lines(file))
    except BadInput as error:
        problems += error.problems
        return [], 0, 0
    for number, row, wrong_json in lines:
        if wrong_json:
            findings.append((number, "not JSON", wrong_json))
            continue
        wrong = list(_row_problems(row))
        if wrong:
            findings += [(number, kind, detail) for kind, detail in wrong]
        elif row["is_user"]:
            of_seeker += 1
        else:
            texts = [*row["context"], row["resp"], *row["entity_name"]]
            repaired += sum(_ESCAPES.search(text) is not None for text in texts)
            turns = [turn for turn in map(_clean, row["context"]) if turn]
            names = [_clean(name) for name in row["entity_name"]]
            answers.append(_Answer(str(row["dialog_id"]), turns, _clean(row["resp"]), names))
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


SAME_START = 80
"""Characters that two dialogues must have in common from the start to count as one; greetings are shorter."""


def _shared_dialogues(answers: dict[str, list[_Answer]], files: dict[str, Path]) -> list[str]:
    """One sentence for each two files that have dialogues in common.

    Files may number their dialogues from the start each, so the same `dialog_id` is not enough: the texts must have the
    same start.
    """
    longest: dict[str, dict[str, str]] = {}
    for split, part in answers.items():
        texts = longest.setdefault(split, {})
        for answer in part:
            text = "\n".join([*answer.turns, answer.text])
            texts[answer.dialogue] = max(texts.get(answer.dialogue, ""), text, key=len)
    problems = []
    for one, other in combinations(longest, 2):
        shared = [
            dialogue
            for dialogue in longest[one].keys() & longest[other].keys()
            if len(commonprefix([longest[one][dialogue], longest[other][dialogue]])) >= SAME_START
        ]
        if shared:
            problems.append(
                f"{files[one]} and {files[other].name}: {len(shared)} dialogues are in both, for example dialog_id "
                f"{', '.join(sorted(shared)[:EXAMPLES])}, so '{one}' and '{other}' would not be independent; keep "
                "each dialogue in one file"
            )
    return problems


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _clean(text: str) -> str:
    """The text with percent-escapes decoded and white space collapsed."""
    return " ".join(_ESCAPES.sub(lambda match: unquote(match[0]), text).split())


def _split_by_dialogue(
    answers: Sequence[_Answer], validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[_Answer]]:
    """Assigns each dialogue by a hash of seed and dialogue id, uniform on [0, 1)."""
    parts: dict[str, list[_Answer]] = {split: [] for split in FILES}
    for answer in answers:
        draw = int(hashlib.sha256(f"{seed}:{answer.dialogue}".encode()).hexdigest()[:12], 16) / 16**12
        if draw < test_fraction:
            parts["test"].append(answer)
        elif draw < test_fraction + validation_fraction:
            parts["validation"].append(answer)
        else:
            parts["train"].append(answer)
    return parts


def _records(
    split: str,
    answers: Iterable[_Answer],
    names: FilmNames,
    template: str,
    long: LongPrompts,
    dropped: Counter[str],
) -> Iterator[Record]:
    """Records of the answers that have a context and a target. Counts the others in `dropped`."""
    for answer in answers:
        if not answer.turns:
            dropped["no context"] += 1
            continue
        seen = list(dict.fromkeys(title for turn in answer.turns for title, _ in names.find(turn)))
        seen_keys = set(map(normalise, seen))
        named = list(dict.fromkeys(names.find(answer.text)))
        truth = [film for film in named if normalise(film[0]) not in seen_keys]
        dropped["named before"] += len(named) - len(truth)
        if not truth:
            dropped["no target"] += 1
            continue
        first = long.first_turn(split, list(map(len, answer.turns)))
        if first is None:
            continue
        prompt = template.replace("{conversation}", _conversation(answer.turns[first:]))
        digest = hashlib.sha256("\n".join(answer.turns).encode()).hexdigest()[:8]
        yield Record(
            [{"role": "user", "content": prompt}],
            truth,
            seen,
            context_id=f"{answer.dialogue}-{digest}",
            cluster_id=answer.dialogue,
        )


def _conversation(turns: Sequence[str]) -> str:
    """One turn per line, with its speaker in front; the last turn is the seeker's."""
    last = len(turns) - 1
    return "\n".join(f"{'System' if (last - i) % 2 else 'User'}: {turn}" for i, turn in enumerate(turns))


def _films_by_dialogue(answers: Iterable[_Answer], names: FilmNames) -> dict[str, set[Film]]:
    films: defaultdict[str, set[Film]] = defaultdict(set)
    for answer in answers:
        for text in (*answer.turns, answer.text):
            films[answer.dialogue].update(names.find(text))
    return films


def _demonstrations(train: Sequence[Record], dialogues: dict[str, set[Film]], list_length: int) -> list[Record]:
    """The train records with `truth_then_cooccurrence` completions; ties are ordered by title and year.

    Raises:
        BadInput: the train dialogues name too few films for lists of `list_length`.
    """
    popularity = Counter(film for films in dialogues.values() for film in films)
    together: defaultdict[str, Counter[Film]] = defaultdict(Counter)
    for films in dialogues.values():
        for film in films:
            together[film[0]].update(films - {film})
    popular = sorted(popularity, key=lambda film: (-popularity[film], film))
    records = []
    for record in train:
        score: Counter[Film] = Counter()
        for title in record.seen_titles:
            score.update(together[title])
        likely = sorted(score, key=lambda film: (-score[film], -popularity[film], film))
        seen = set(map(normalise, record.seen_titles))
        chosen: dict[Film, None] = {}  # ordered, without repeats
        for film in chain(record.ground_truth, likely, popular):
            if len(chosen) == list_length:
                break
            if normalise(film[0]) not in seen:
                chosen[film] = None
        if len(chosen) < list_length:
            raise BadInput(
                f"redial: the train dialogues name only {len(popularity)} films, too few for demonstrations with "
                f"dataset.list_length = {list_length}"
            )
        text = "\n".join(f"{title} ({year})" for title, year in chosen)
        completion: Messages = [{"role": "assistant", "content": text}]
        records.append(replace(record, completion=completion))
    return records

"""Records of dialogues between a seeker and a recommender of films, the same for every dataset of this kind.

A sample is one turn of the recommender (the answer) with the turns before it. Consecutive messages of one speaker form
one turn, so turns alternate and the last turn before an answer is the seeker's.

**Truth** is the set of films with a year that the answer names and the dialogue has not named before. Titles decide,
since `seen_titles` holds no years: after "Jumanji (1995)", an answer "Jumanji (2017)" is no target. Answers without a
target, and answers with nothing before them, are left out.

**Demonstrations** (`truth_then_cooccurrence`) replace Stage 1 of the Rank-GRPO paper, which asks a large model for
lists and adjusts them. They list the films of the truth, then those that most train dialogues name together with the
films seen so far, then the films of most train dialogues. Only train records are used, and only they get them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from os.path import commonprefix
from pathlib import Path
from typing import Protocol, TypeVar

from rlbench.base.errors import BadInput
from rlbench.data.checks import EXAMPLES, fingerprint, same_wording, wordings
from rlbench.data.lengths import LongPrompts
from rlbench.data.record import Film, Messages, RankedListDataset, Record
from rlbench.data.stage1.files import demonstrated
from rlbench.lists.catalog import Catalog, normalise
from rlbench.lists.items import Item


class DialogueSettings(Protocol):
    """The settings that all these datasets have (`rlbench/config/schema.py`)."""

    name: str
    prompt_template: str
    list_length: int
    max_conversation_chars: int | None
    long_prompts: str
    demonstrations_from: str | None


class OfDialogue(Protocol):
    """A row of a file that belongs to a dialogue."""

    @property
    def dialogue(self) -> str: ...


Row = TypeVar("Row", bound=OfDialogue)


@dataclass(frozen=True)
class Turn:
    """What one speaker says, and the films that it names, in their order, repeats included. A film may have no year."""

    text: str
    films: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Reply:
    """A turn of the recommender.

    Attributes:
        dialogue: id of the dialogue.
        turns: the turns before, oldest first, none of them empty.
        given: the answer itself.
    """

    dialogue: str
    turns: Sequence[Turn]
    given: Turn


def option_problems(prompt_template: str, **fractions: float) -> list[str]:
    """Problems of the options that all these datasets have.

    Args:
        prompt_template: must contain {conversation}.
        fractions: shares of dialogues for evaluation, by the names of their settings.
    """
    problems = []
    if "{conversation}" not in prompt_template:
        problems.append(
            "dataset.prompt_template has no {conversation}, so the model would not see the dialogue; add it"
        )
    problems += [f"dataset.{key} = {share} must lie in (0, 1)" for key, share in fractions.items() if not 0 < share < 1]
    if not problems and sum(fractions.values()) >= 1:
        problems.append(
            f"{' + '.join(f'dataset.{key}' for key in fractions)} = {sum(fractions.values())} leaves nothing for the "
            "train split; the sum must be below 1"
        )
    return problems


def draw(seed: int, cluster: str) -> float:
    """A number in [0, 1) that decides the split of a cluster, such as a dialogue. Only its id and a seed matter."""
    return int(hashlib.sha256(f"{seed}:{cluster}".encode()).hexdigest()[:12], 16) / 16**12


def find_files(path: str | None, names: Mapping[str, str], form: str, problems: list[str]) -> dict[str, Path]:
    """The files of a folder: one for each split, or a single one. A path to a file is that of the test split.

    Args:
        path: `dataset.path`.
        names: the file's name for each split.
        form: words about the form of the files, for messages.
        problems: gets what is wrong with the path.
    """
    expected = f"a folder with {', '.join(names.values())} (or one of them) in {form}"
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
    files = {split: place / name for split, name in names.items() if (place / name).is_file()}
    if len(files) not in (1, len(names)):
        found = [file.name for file in files.values()]
        problems.append(
            f"dataset.path = {path}: found {' and '.join(found) or 'none of the files'}; expected {expected}"
        )
    return files


def divided(
    rows: Iterable[Row], seed: int, *, validation_fraction: float, test_fraction: float
) -> dict[str, list[Row]]:
    """The rows of a single file by split. The rows of a dialogue stay together."""
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        place = draw(seed, row.dialogue)
        held_out = "validation" if place < test_fraction + validation_fraction else "train"
        parts["test" if place < test_fraction else held_out].append(row)
    return parts


def was_split(file: Path, seed: int) -> str:
    """A notice about a single file that was split."""
    return f"{file.name} is the only file; its dialogues were split into train, validation and test with seed {seed}"


SAME_START = 80
"""Characters that two dialogues must have in common from the start to count as one; greetings are shorter."""


def shared_dialogues(texts: Mapping[str, Mapping[str, str]], files: Mapping[str, Path]) -> list[str]:
    """One sentence for each two files that have dialogues in common.

    Files may number their dialogues from the start each, so the same id is not enough: the texts must have the same
    start.

    Args:
        texts: the whole text of each dialogue, by split and id.
        files: the file of each split.
    """
    problems = []
    for one, other in combinations(texts, 2):
        shared = [
            dialogue
            for dialogue in texts[one].keys() & texts[other].keys()
            if len(commonprefix([texts[one][dialogue], texts[other][dialogue]])) >= SAME_START
        ]
        if shared:
            problems.append(
                f"{files[one]} and {files[other].name}: {len(shared)} dialogues are in both, for example dialog_id "
                f"{', '.join(sorted(shared)[:EXAMPLES])}, so '{one}' and '{other}' would not be independent; keep "
                "each dialogue in one file"
            )
    return problems


def add_turn(turns: list[tuple[bool, Turn]], speaker: bool, turn: Turn) -> None:
    """Append a turn, or join it to the last one of the same speaker. A turn without text is dropped.

    Args:
        turns: (speaker, turn) of each turn so far, oldest first.
        speaker: which of the two speaks.
        turn: what is said.
    """
    if not turn.text:
        return
    if turns and turns[-1][0] == speaker:
        last = turns.pop()[1]
        turn = Turn(f"{last.text} {turn.text}", last.films + turn.films)
    turns.append((speaker, turn))


def split_records(
    config: DialogueSettings, answers: Mapping[str, Sequence[Reply]], why_empty: Callable[[str], str]
) -> tuple[dict[str, list[Record]], Counter[str], LongPrompts]:
    """The records of all splits, the counts of what was left out (`left_out`), and the rule for long prompts.

    Args:
        config: the dataset's settings.
        answers: turns of recommenders, by split.
        why_empty: says why a split has no records.

    Raises:
        BadInput: a split has no records.
    """
    dropped: Counter[str] = Counter()
    long = LongPrompts(config.max_conversation_chars, config.long_prompts)
    template = config.prompt_template.replace("{n}", str(config.list_length))
    splits = {split: list(records(split, part, template, long, dropped)) for split, part in answers.items()}
    refuse_empty(splits, why_empty)
    return splits, dropped, long


def refuse_empty(splits: Mapping[str, Sequence[Record]], why_empty: Callable[[str], str]) -> None:
    """Refuse splits without records.

    Raises:
        BadInput: what `why_empty` says of each such split; equal sentences once.
    """
    problems = dict.fromkeys(why_empty(split) for split, part in splits.items() if not part)
    if problems:
        raise BadInput(*problems)


def records(
    split: str, answers: Iterable[Reply], template: str, long: LongPrompts, dropped: Counter[str]
) -> Iterator[Record]:
    """Records of the answers that have a context and a target.

    Args:
        split: the split of the answers.
        answers: turns of recommenders.
        template: the user message. {conversation} is replaced.
        long: the rule for long conversations, which counts its effects.
        dropped: counts the answers left out ("no context", "no target") and the films named before ("named before").
    """
    for answer in answers:
        if not answer.turns:
            dropped["no context"] += 1
            continue
        seen = list(dict.fromkeys(title for turn in answer.turns for title, _ in turn.films))
        seen_keys = set(map(normalise, seen))
        named = list(dict.fromkeys((title, year) for title, year in answer.given.films if year is not None))
        truth = [film for film in named if normalise(film[0]) not in seen_keys]
        dropped["named before"] += len(named) - len(truth)
        if not truth:
            dropped["no target"] += 1
            continue
        texts = [turn.text for turn in answer.turns]
        first = long.first_turn(split, list(map(len, texts)))
        if first is None:
            continue
        prompt = template.replace("{conversation}", _conversation(texts[first:]))
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
        yield Record(
            [{"role": "user", "content": prompt}],
            truth,
            seen,
            context_id=f"{answer.dialogue}-{digest}",
            cluster_id=answer.dialogue,
        )


def left_out(dropped: Mapping[str, int], more: str = "") -> list[str]:
    """Notices about what `records` has counted.

    Args:
        dropped: as counted by `records`.
        more: words about other answers that were left out, if there are any.
    """
    return [
        f"left out: {dropped['no target']} answers without a target, {dropped['no context']} answers without an "
        f"earlier turn{more and f', and {more}'}",
        f"{dropped['named before']} films in answers are not targets, because their title was named earlier in the "
        "dialogue",
    ]


def _conversation(turns: Sequence[str]) -> str:
    """One turn per line, with its speaker in front; the last turn is the seeker's."""
    last = len(turns) - 1
    return "\n".join(f"{'System' if (last - i) % 2 else 'User'}: {turn}" for i, turn in enumerate(turns))


def demonstrations(name: str, train: Sequence[Record], answers: Iterable[Reply], list_length: int) -> list[Record]:
    """The train records with `truth_then_cooccurrence` completions; ties are ordered by title and year.

    Args:
        name: the dataset, for messages.
        train: the train records.
        answers: all answers of the train split, also those without a record.
        list_length: N.

    Raises:
        BadInput: the train dialogues name too few films for lists of `list_length`.
    """
    dialogues: defaultdict[str, set[Film]] = defaultdict(set)
    for answer in answers:
        for turn in (*answer.turns, answer.given):
            dialogues[answer.dialogue].update((title, year) for title, year in turn.films if year is not None)
    popularity = Counter(film for films in dialogues.values() for film in films)
    together: defaultdict[str, Counter[Film]] = defaultdict(Counter)
    for films in dialogues.values():
        for film in films:
            together[film[0]].update(films - {film})
    popular = sorted(popularity, key=lambda film: (-popularity[film], film))
    made = []
    for record in train:
        score: Counter[Film] = Counter()
        for title in record.seen_titles:
            score.update(together[title])
        likely = sorted(score, key=lambda film: (-score[film], -popularity[film], film))
        seen = set(map(normalise, record.seen_titles))
        chosen: dict[Item, None] = {}  # ordered, without repeats
        for item in chain(record.ground_truth, likely, popular):
            if len(chosen) == list_length:
                break
            if normalise(item[0]) not in seen:
                chosen[item] = None
        if len(chosen) < list_length:
            raise BadInput(
                f"{name}: the train dialogues name only {len(popularity)} films, too few for demonstrations with "
                f"dataset.list_length = {list_length}"
            )
        text = "\n".join(f"{title} ({year})" for title, year in chosen)
        completion: Messages = [{"role": "assistant", "content": text}]
        made.append(replace(record, completion=completion))
    return made


def finished(
    config: DialogueSettings,
    catalog: Catalog,
    splits: Mapping[str, list[Record]],
    train_answers: Iterable[Reply],
    notices: Sequence[str],
) -> RankedListDataset:
    """The dataset with demonstrations, of a file if one is given, and with notices about prompts in two splits.

    Args:
        config: the dataset's settings.
        catalog: the catalogue.
        splits: the records of train, validation and test.
        train_answers: all answers of the train split, also those without a record.
        notices: about the files and the records.

    Raises:
        BadInput: too few films for demonstrations, or problems of the file of demonstrations.
    """
    made = demonstrations(config.name, splits["train"], train_answers, config.list_length)
    complete = {"sft": made, **splits}
    training = wordings(splits["train"])
    told = [*notices, *(n for split in ("validation", "test") for n in same_wording(split, splits[split], training))]
    shown = {split: splits[split] for split in ("train", "validation")}
    found = demonstrated(config.demonstrations_from, shown, config.list_length)
    if found is not None:
        complete |= found[0]
        told += found[1]
    return RankedListDataset(config.name, catalog, complete, notices=told, fingerprint=fingerprint(complete, catalog))

"""INSPIRED: conversations in which a recommender persuades a seeker to watch a film's trailer (TSV).

A row is an utterance. These columns are used: `dialog_id`, `speaker` (RECOMMENDER or SEEKER), `text`, and `movies`, the
films that the authors' annotation found in the text, separated by semicolons and mostly with a year.

**Films.** The annotation is a look-up of words. It has many films that nobody talks about and misses others, so
`rlbench.data.said` decides which titles an utterance names. They are resolved against a catalogue, that of
`dataset.catalog` or the annotated films of the files themselves:

1. Candidates are the films of the catalogue with this title. Case, articles, punctuation and spaces do not count.
2. A year in the utterance ("the 2014 Godzilla") decides, if it is that of a candidate.
3. Otherwise the annotated year decides: the candidate must be of this year, or of the year before or after.
4. Without such a year, the only candidate is the film.
5. Of several films that are left, the one with exactly this title. If there is none or more than one, the title is
   ambiguous.

A title that is ambiguous, or that the catalogue lacks, counts as seen and is no target. A title of one word that the
catalogue lacks is ignored ("Marvel"). Notices count all of them.

**Records** follow `rlbench.data.dialogues`: consecutive utterances of one speaker are one turn, and the truth of a
recommender's turn is the films that it names first.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.config.datasets import named_files
from rlbench.config.schema import InspiredConfig
from rlbench.data.catalog_files import read_catalog
from rlbench.data.dialogues import (
    Reply,
    Turn,
    add_turn,
    divided,
    find_files,
    finished,
    left_out,
    option_problems,
    shared_dialogues,
    split_records,
    was_split,
)
from rlbench.data.record import Film, RankedListDataset
from rlbench.data.said import named_titles, title_key
from rlbench.data.tables import read_table
from rlbench.lists.catalog import Catalog, normalise
from rlbench.lists.items import Item

FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
FORM = "the authors' form"
_COLUMNS = ("dialog_id", "speaker", "text", "movies")
_SPEAKERS = {"RECOMMENDER": True, "SEEKER": False}
_NAME = re.compile(r"(.*\S)\s*\((\d{4})?\)")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_YEARS_APART = 1


@dataclass(frozen=True)
class Utterance:
    """A row: the dialogue, whether the recommender speaks, the text, and the annotated films with a year or none."""

    dialogue: str
    speaks: bool
    text: str
    films: tuple[Item, ...]


def load(config: InspiredConfig) -> RankedListDataset:
    """Load INSPIRED.

    Raises:
        BadInput: all problems of options and files at once; a split without records.
    """
    fractions = {"validation_fraction": config.validation_fraction, "test_fraction": config.test_fraction}
    problems = option_problems(config.prompt_template, **fractions)
    files = find_files(config.path, FILES, FORM, problems)
    read = {split: read_utterances(file, problems) for split, file in files.items()}
    problems += shared_dialogues({split: _whole_texts(rows) for split, rows in read.items()}, files)
    given, notices = _catalog(config.catalog, problems)
    if problems:
        raise BadInput(*problems)
    if len(read) == 1:
        (alone,) = read.values()
        read = divided(alone, config.seed, **fractions)
        notices.append(was_split(next(iter(files.values())), config.seed))
    everything = [row for rows in read.values() for row in rows]
    counts: Counter[str] = Counter()
    catalog = given or Catalog(_dated(everything))
    of_train = _by_title(given.items if given else _dated(read["train"]))
    of_all = _by_title(catalog.items)
    replies = {split: _replies(rows, of_train if split == "train" else of_all, counts) for split, rows in read.items()}

    def why_empty(split: str) -> str:
        return (
            f"{files.get(split, next(iter(files.values())))}: none of the {len(replies[split])} answers of '{split}' "
            "has a target: a target is a film of the catalogue that the answer names and no earlier turn does"
        )

    splits, dropped, long = split_records(config, replies, why_empty)
    notices += [
        f"{counts['annotated']} annotated films: {counts['not named']} are not named by the utterance; "
        f"{counts['added']} titles were named without an annotation",
        f"{counts['found']} mentions were found in the catalogue, {counts['ambiguous']} have the title of several "
        f"films, and {counts['missing']} are not in the catalogue, of which {counts['one word']} have one word and "
        "were ignored",
        *left_out(dropped),
        *long.notices(),
    ]
    return finished(config, catalog, splits, replies["train"], notices)


def sources(config: InspiredConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    found = {file.name: file for file in find_files(config.path, FILES, FORM, []).values()}
    return found | named_files(catalogue=config.catalog, demonstrations=config.demonstrations_from)


def _catalog(file: str | None, problems: list[str]) -> tuple[Catalog | None, list[str]]:
    if file is None:
        return None, []
    try:
        return read_catalog(file)
    except BadInput as error:
        problems += error.problems
        return None, []


def read_utterances(file: Path, problems: list[str]) -> list[Utterance]:
    """The rows of a file. Adds all its problems to `problems`."""
    return read_table(file, _COLUMNS, _utterance, problems, delimiter="\t")


def _utterance(row: Mapping[str, str]) -> Utterance | tuple[str, str]:
    """The row, or (kind of problem, detail)."""
    if not row["dialog_id"]:
        return "dialog_id is empty", ""
    if row["speaker"] not in _SPEAKERS:
        return f"speaker must be {' or '.join(_SPEAKERS)}", repr(row["speaker"])[:80]
    text = " ".join(row["text"].replace("QUOTATION_MARK", '"').split())
    films = []
    for entry in filter(None, (" ".join(part.split()) for part in row["movies"].split(";"))):
        dated = _NAME.fullmatch(entry)
        films.append((dated[1], int(dated[2]) if dated[2] else None) if dated else (entry, None))
    return Utterance(row["dialog_id"], _SPEAKERS[row["speaker"]], text, tuple(films))


def _whole_texts(rows: Iterable[Utterance]) -> dict[str, str]:
    texts: defaultdict[str, str] = defaultdict(str)
    for row in rows:
        texts[row.dialogue] += f"{row.text}\n"
    return texts


def _named_by_annotation(row: Utterance) -> dict[str, Item]:
    """The annotated films that an utterance names by itself, by the key of their title."""
    annotated = {title_key(title): (title, year) for title, year in row.films}
    return {key: annotated[key] for key in named_titles(row.text, annotated, (), ())}


def _dated(rows: Iterable[Utterance]) -> list[Film]:
    """The films with a year that utterances name, sorted."""
    return sorted({(title, year) for row in rows for title, year in _named_by_annotation(row).values() if year})


def _by_title(films: Iterable[Item]) -> dict[str, list[Item]]:
    found: defaultdict[str, list[Item]] = defaultdict(list)
    for film in films:
        found[title_key(film[0])].append(film)
    return found


def _replies(rows: Sequence[Utterance], films: Mapping[str, list[Item]], counts: Counter[str]) -> list[Reply]:
    """The turns of recommenders, with the turns before each."""
    by_dialogue: defaultdict[str, dict[str, Item]] = defaultdict(dict)
    for row in rows:
        by_dialogue[row.dialogue] |= _named_by_annotation(row)
    turns: defaultdict[str, list[tuple[bool, Turn]]] = defaultdict(list)
    for row in rows:
        named = tuple(_films(row, by_dialogue[row.dialogue], films, counts))
        add_turn(turns[row.dialogue], row.speaks, Turn(row.text, named))
    return [
        Reply(dialogue, [turn for _, turn in spoken[:place]], given)
        for dialogue, spoken in turns.items()
        for place, (speaks, given) in enumerate(spoken)
        if speaks
    ]


def _films(
    row: Utterance, of_dialogue: Mapping[str, Item], films: Mapping[str, list[Item]], counts: Counter[str]
) -> Iterator[Item]:
    """The films that an utterance names. Counts what became of the annotation and of the titles."""
    annotated = {title_key(title): (title, year) for title, year in row.films}
    keys = named_titles(row.text, annotated, of_dialogue, films)
    counts["annotated"] += len(annotated)
    counts["not named"] += len(annotated.keys() - set(keys))
    counts["added"] += len(set(keys) - annotated.keys())
    for key in keys:
        entry = annotated.get(key) or of_dialogue.get(key) or (films[key][0][0], None)
        film = _resolved(entry, row.text, films.get(key, []), counts)
        if film[1] is not None or key in films or len(entry[0].split()) > 1:
            yield film
        else:
            counts["one word"] += 1


def _resolved(entry: Item, text: str, candidates: Sequence[Item], counts: Counter[str]) -> Item:
    """The film of the catalogue that a title means, or the title with the year None. Counts what it found."""
    title, year = entry
    in_text = set(map(int, _YEAR.findall(text)))
    found = [film for film in candidates if film[1] in in_text]
    if len(found) != 1:
        found = list(candidates)
        if year is not None:
            near = [(abs(film[1] - year), film) for film in candidates if film[1] is not None]
            nearest = min((apart for apart, _ in near), default=_YEARS_APART + 1)
            found = [film for apart, film in near if apart == nearest <= _YEARS_APART]
    if len(found) > 1:
        found = [film for film in found if normalise(film[0]) == normalise(title)] or found
    counts["found" if len(found) == 1 else "ambiguous" if found else "missing"] += 1
    return found[0] if len(found) == 1 else (title, None)

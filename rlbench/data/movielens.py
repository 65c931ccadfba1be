"""MovieLens-1M as a list task: the films that a person liked, and the ones liked next.

A folder with `movies.dat` (MovieID::Title (Year)::Genres) and `ratings.dat` (UserID::MovieID::Rating::Timestamp), in
ISO-8859-1 or UTF-8, as published. `users.dat` is not read: prompts name no age, sex or occupation.

**Likes** are ratings of `min_rating` or more, in the order of time; films rated in the same second are in the order of
their ids.

**Splits** leave the last likes of each person out. The last `truth_size` likes are the truth of a test record, and the
`truth_size` likes before them are the truth of a validation record. Up to `train_windows` earlier blocks of the same
size are the truths of train records. The prompt of a record names the `history` likes before its truth, oldest first,
one per line. Records with fewer than `min_history` likes before the truth are left out. A test prompt thus names the
truth of the person's validation record, but no prompt names anything later than its truth. Each person is a cluster.

**Titles.** "Matrix, The (1999)" is The Matrix (1999), and other titles in parentheses, as in "Seven (a.k.a. Se7en)
(1995)", are left out. A film of the truth whose title the prompt names with another year is no target.

Demonstrations follow `rlbench.data.dialogues`, with a person in place of a dialogue.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_text, text_lines
from rlbench.config.datasets import named_files
from rlbench.config.schema import MovielensConfig
from rlbench.data.checks import Finding, report
from rlbench.data.dialogues import Reply, Turn, finished, option_problems, refuse_empty
from rlbench.data.film_names import split_film
from rlbench.data.lengths import LongPrompts
from rlbench.data.record import Film, RankedListDataset, Record
from rlbench.lists.catalog import Catalog, normalise
from rlbench.lists.items import line_of

FILES = ("movies.dat", "ratings.dat")
_ARTICLE = re.compile(
    r"(.+), (The|A|An|La|Le|Les|L'|Il|Lo|I|El|Los|Las|Der|Die|Das|De|Det|Den|En|Un|Une|O|Os)", re.IGNORECASE
)
_OTHER_TITLE = re.compile(r"\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*$")


def load(config: MovielensConfig) -> RankedListDataset:
    """Load MovieLens-1M.

    Raises:
        BadInput: all problems of options and files at once; a split without records.
    """
    problems = option_problems(config.prompt_template)
    if config.min_history > config.history:
        problems.append(
            f"dataset.min_history = {config.min_history} is more than dataset.history = {config.history}, the number "
            "of films that a prompt names"
        )
    files = _files(config.path, problems)
    films: dict[int, Film] = {}
    likes: dict[int, list[Film]] = {}
    counts: Counter[str] = Counter()
    if files:
        films = _read_films(files["movies.dat"], problems, counts)
        likes = _read_likes(files["ratings.dat"], films, config.min_rating, problems, counts)
    if problems:
        raise BadInput(*problems)
    long = LongPrompts(config.max_conversation_chars, config.long_prompts)
    splits: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    replies: list[Reply] = []
    for user, liked in likes.items():
        for split, place, stop in _blocks(len(liked), config):
            history = liked[max(0, place - config.history) : place]
            record = _record(f"{user}", f"{user}-{place}", split, history, liked[place:stop], config, long, counts)
            if record is not None:
                splits[split].append(record)
                if split == "train":
                    turns = [Turn("", tuple(history))]
                    replies.append(Reply(record.cluster_id, turns, Turn("", tuple(record.ground_truth))))
    refuse_empty(
        splits,
        lambda split: (
            f"{files['ratings.dat']}: nobody has enough ratings of at least {config.min_rating} for a record of "
            f"'{split}'; lower dataset.min_history, dataset.truth_size or dataset.min_rating"
        ),
    )
    notices = [
        f"{counts['liked']} of {counts['ratings']} ratings are at least {config.min_rating}; {len(likes)} people have "
        "one",
        f"{counts['same title']} films of truths are not targets, because the prompt names their title",
        *([f"{counts['other title']} titles lost another title in parentheses"] if counts["other title"] else []),
        *([f"{counts['merged']} films equal an earlier film"] if counts["merged"] else []),
        *long.notices(),
    ]
    return finished(config, Catalog(sorted(set(films.values()))), splits, replies, notices)


def sources(config: MovielensConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    return _files(config.path, []) | named_files(demonstrations=config.demonstrations_from)


def _files(path: str | None, problems: list[str]) -> dict[str, Path]:
    expected = f"a folder with {' and '.join(FILES)} of MovieLens-1M"
    if path is None:
        problems.append(f"dataset.path is not set: give dataset.path=FOLDER, {expected} (docs/data.md)")
        return {}
    files = {name: Path(path) / name for name in FILES}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        problems.append(f"dataset.path = {path}: {' and '.join(missing)} is missing; expected {expected}")
        return {}
    return files


def _read_rows(file: Path, columns: int, problems: list[str]) -> Iterator[tuple[int, list[str] | None]]:
    """(line number, fields) of each line; None in place of fields if their number is wrong."""
    try:
        text = read_user_text(file, otherwise="iso-8859-1")
    except BadInput as error:
        problems += error.problems
        return
    for number, line in enumerate(text_lines(text), 1):
        if line.strip():
            fields = line.split("::")
            yield number, fields if len(fields) == columns else None


def _read_films(file: Path, problems: list[str], counts: Counter[str]) -> dict[int, Film]:
    films: dict[int, Film] = {}
    findings: list[Finding] = []
    for number, fields in _read_rows(file, 3, problems):
        if fields is None:
            findings.append((number, "expected MovieID::Title (Year)::Genres", ""))
        elif not fields[0].isdecimal():
            findings.append((number, "MovieID must be a whole number", repr(fields[0])[:80]))
        elif int(fields[0]) in films:
            findings.append((number, "MovieID is that of an earlier line", fields[0]))
        elif (film := split_film(" ".join(fields[1].split()))) is None:
            findings.append((number, 'the title must have the form "Title (Year)"', repr(fields[1])[:80]))
        else:
            title = _title(film[0])
            counts["other title"] += "(" in film[0] and "(" not in title
            films[int(fields[0])] = (title, film[1])
    problems += report(str(file), findings, "line")
    if not films and not findings:
        problems.append(f"{file} has no films")
    counts["merged"] = len(films) - len(set(films.values()))
    return films


def _title(name: str) -> str:
    """The title without other titles in parentheses and with its article in front."""
    short = _OTHER_TITLE.sub("", name) or name
    article = _ARTICLE.fullmatch(short)
    if not article:
        return short
    return f"{article[2]}{'' if article[2].endswith(chr(39)) else ' '}{article[1]}"


def _read_likes(
    file: Path, films: Mapping[int, Film], min_rating: int, problems: list[str], counts: Counter[str]
) -> dict[int, list[Film]]:
    """The films that each user liked, in the order of time, each film once."""
    rated: defaultdict[int, dict[int, int]] = defaultdict(dict)
    findings: list[Finding] = []
    pairs: set[tuple[int, int]] = set()
    for number, fields in _read_rows(file, 4, problems):
        if fields is None or not all(field.strip().isdecimal() for field in fields):
            findings.append((number, "expected UserID::MovieID::Rating::Timestamp, four whole numbers", ""))
            continue
        user, movie, rating, time = map(int, fields)
        if movie not in films:
            findings.append((number, "movies.dat has no such MovieID", str(movie)))
        elif not 1 <= rating <= 5:
            findings.append((number, "the rating must lie between 1 and 5", str(rating)))
        elif (user, movie) in pairs:
            findings.append((number, "this user has rated this film before", f"{user}::{movie}"))
        else:
            pairs.add((user, movie))
            if rating >= min_rating:
                rated[user][movie] = time
    problems += report(str(file), findings, "line")
    if not pairs and not findings:
        problems.append(f"{file} has no ratings")
    counts["ratings"], counts["liked"] = len(pairs), sum(map(len, rated.values()))
    return {
        user: list(dict.fromkeys(films[movie] for movie in sorted(times, key=lambda movie: (times[movie], movie))))
        for user, times in sorted(rated.items())
    }


def _blocks(likes: int, config: MovielensConfig) -> Iterator[tuple[str, int, int]]:
    """(split, first, after the last) of each block of likes that is a truth, the latest first."""
    size = config.truth_size
    names = ["test", "validation", *["train"] * config.train_windows]
    for number, split in enumerate(names, 1):
        place = likes - number * size
        if place >= config.min_history:
            yield split, place, place + size


def _record(
    user: str,
    context_id: str,
    split: str,
    history: Sequence[Film],
    block: Sequence[Film],
    config: MovielensConfig,
    long: LongPrompts,
    counts: Counter[str],
) -> Record | None:
    """The record of a block; None if nothing is left of it."""
    lines = [line_of(*film) for film in history]
    first = long.first_turn(split, list(map(len, lines)))
    if first is None:
        return None
    seen = {normalise(title) for title, _ in history}
    truth = [film for film in block if normalise(film[0]) not in seen]
    counts["same title"] += len(block) - len(truth)
    if not truth:
        return None
    prompt = config.prompt_template.replace("{n}", str(config.list_length))
    prompt = prompt.replace("{conversation}", "\n".join(lines[first:]))
    titles = list(dict.fromkeys(title for title, _ in history))
    return Record([{"role": "user", "content": prompt}], truth, titles, context_id=context_id, cluster_id=user)

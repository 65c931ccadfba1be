"""Sample lists for human readers: greedy lists from evaluations, and sampled training groups with advantages.

Each row shows its lowest seed. A page has a size limit for each kind. Samples are chosen evenly over contexts and
updates, and always for all rows or none, so that rows stay comparable.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.html.rows import Look
from analysis.render.numbers import counted
from rlbench.base.errors import BadInput
from rlbench.base.files import leads_outside
from rlbench.base.records import PUT_BACK, RowsFile
from rlbench.lists.items import line_of
from rlbench.runs.record import COMPLETIONS, ROLLOUTS

BYTES = 2_000_000
"""Maximum bytes of each kind of sample in a page."""

TEXT = 400
"""Maximum number of characters of a raw completion."""

Sample = dict[str, Any]


def sample_data(looks: Sequence[Look], folder: Path, limit: int = BYTES) -> dict[str, Any]:
    """Both kinds of samples of the runs in a folder, for the page's scripts; `limit` is in bytes of each kind."""
    names = Names()
    damaged: list[str] = []
    greedy = {row: _read(folder, look.runs[0], COMPLETIONS, damaged) for row, look in enumerate(looks)}
    groups = {row: _read(folder, look.runs[0], ROLLOUTS, damaged) for row, look in enumerate(looks)}
    lists, lists_left = bounded(greedy, lambda one: (one["split"], one["context_id"]), names.greedy, limit)
    sampled, sampled_left = bounded(groups, lambda one: one["prompt"], names.group, limit)
    gone = [] if folder.is_dir() else [f"lists are in run directories, which are not at {folder.as_posix()}"]
    counts = ((lists_left, "list"), (sampled_left, "sampled group"))
    small = [f"{counted(count, noun)} left out to keep this page small" for count, noun in counts if count]
    return {
        "greedy": lists,
        "groups": sampled,
        "titles": list(names.titles),
        "verdicts": list(names.verdicts),
        "contexts": names.contexts,
        "seeds": [look.seeds[0] for look in looks],
        "leftOut": gone + damaged + small,
    }


def _read(folder: Path, run: str, file: RowsFile[Any], damaged: list[str]) -> list[Sample]:
    """Read the samples of a run. If the file is damaged, return none and append a sentence to `damaged`.

    `collection.reading.check_files` has compared the file with its digest. But a collection may be older than the
    damage, and a run may come from someone else.
    """
    path = folder / run
    try:
        if leads_outside(path / file.name, path):
            raise BadInput(f"{path / file.name} is a link that leads out of the run: {PUT_BACK}")
        return file.read(path, PUT_BACK)
    except BadInput as error:
        damaged.append(f"lists of {run} left out: {error}")
        return []


class Names:
    """Titles, verdicts and contexts, each stored once. Samples refer to them by index."""

    def __init__(self) -> None:
        self.titles: dict[str, int] = {}
        self.verdicts: dict[str, int] = {}
        self.contexts: list[dict[str, Any]] = []
        self._contexts: dict[Hashable, int] = {}

    def title(self, entry: Sequence[Any]) -> int:
        return self.titles.setdefault(line_of(entry[0], entry[1]), len(self.titles))

    def verdict(self, name: str) -> int:
        return self.verdicts.setdefault(name, len(self.verdicts))

    def context(self, sample: Sample, split: str) -> int:
        key = (split, sample["context_id"], sample["prompt"])
        if key not in self._contexts:
            self._contexts[key] = len(self.contexts)
            relevant = [self.title(entry) for entry in sample["relevant"]]
            name = sample["context_id"] or ""
            self.contexts.append({"id": name, "split": split, "prompt": sample["prompt"], "relevant": relevant})
        return self._contexts[key]

    def greedy(self, row: int, sample: Sample) -> list[Any]:
        """[row, step, context, NDCG, ranks, text]. A rank is [title, verdict]; text is None if it is just the ranks."""
        score = next((value for name, value in sample.items() if name.startswith("ndcg@")), None)
        ranks = [[self.title(rank), self.verdict(rank[2])] for rank in sample["ranks"]]
        written = _text(sample["text"], sample["ranks"])
        return [row, sample["step"], self.context(sample, sample["split"]), _rounded(score), ranks, written]

    def group(self, row: int, sample: Sample) -> list[Any]:
        """[row, step, context, lists]. A list is [reward, hits, finished, ranks, text]; a rank is
        [title, verdict, return, advantage]."""
        lists = [
            [
                _rounded(one["reward"]),
                one["hits"],
                one["finished"],
                [[self.title(k), self.verdict(k[2]), _rounded(k[3]), _rounded(k[4])] for k in one["ranks"]],
                _text(one["text"], one["ranks"]),
            ]
            for one in sample["lists"]
        ]
        return [row, sample["step"], self.context(sample, "train"), lists]


def _text(text: str, ranks: Sequence[Sequence[Any]]) -> str | None:
    """The completion (cut to `TEXT` characters), or None if it is just these ranks, one per line."""
    if text.strip() == "\n".join(line_of(rank[0], rank[1]) for rank in ranks):
        return None
    return text if len(text) <= TEXT else text[:TEXT] + "…"


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def bounded(
    samples: Mapping[int, Sequence[Sample]],
    place: Callable[[Sample], Hashable],
    as_data: Callable[[int, Sample], list[Any]],
    limit: int,
) -> tuple[list[list[Any]], int]:
    """Samples within a size limit, and the number of omitted samples.

    Args:
        place: key by which rows are matched (a context).
        as_data: converts a row's sample to data for the page.
        limit: maximum bytes of JSON.
    """
    rows_of: dict[tuple[int, Hashable], list[tuple[int, Sample]]] = {}
    for row, own in samples.items():
        for sample in own:
            rows_of.setdefault((sample["step"], place(sample)), []).append((row, sample))
    kept, size, left_out = [], 0, 0
    for key in spread(rows_of):
        if size <= limit:
            data = [as_data(row, sample) for row, sample in rows_of[key]]
            size += len(json.dumps(data, ensure_ascii=False).encode())
        if size > limit:
            left_out += len(rows_of[key])
        else:
            kept += data
    kept.sort(key=lambda one: (one[2], one[1], one[0]))
    return kept, left_out


def spread(keys: Iterable[tuple[int, Hashable]]) -> list[tuple[int, Hashable]]:
    """Keys (step, place), most important first. Steps run from both ends inwards and places in order, alternating."""
    listed = list(keys)
    steps = sorted({step for step, _ in listed})
    of_step = {steps[position]: rank for rank, position in enumerate(_halved(len(steps)))}
    within: Counter[int] = Counter()
    seen: dict[Hashable, int] = {}
    ranks = []
    for step, place in listed:
        ranks.append((of_step[step] + min(seen.setdefault(place, len(seen)), within[step]), of_step[step]))
        within[step] += 1
    return [listed[i] for i in sorted(range(len(listed)), key=ranks.__getitem__)]


def _halved(length: int) -> list[int]:
    """Indices 0 .. length - 1: the last, the first, then a finer and finer grid between."""
    order: list[int] = []
    parts = 1
    while len(order) < length:
        for i in range(parts, -1, -1):
            position = round(i * (length - 1) / parts)
            if position not in order:
                order.append(position)
        parts *= 2
    return order

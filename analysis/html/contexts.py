"""Data of the comparison of two rows context by context: the score of each row in each test context, and lists.

A score is the mean over the samples of a context and the seeds of a row. Lists are those of a row's lowest seed. A page
has a limit for both: scores of contexts that are evenly spread, and lists of the contexts in which rows differ most. A
context is kept for all rows or for none.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.collection import Collection
from analysis.html.curve_data import thinned
from analysis.html.rows import Look
from analysis.render.numbers import counted
from analysis.statistics import Floats
from rlbench.base.errors import BadInput
from rlbench.base.files import leads_outside
from rlbench.base.records import PUT_BACK, Damaged
from rlbench.lists.items import line_of
from rlbench.runs.tables import CONTEXT, N_TRUTH, PREDICTIONS, check_columns, predictions_file, read_columns

SCORES = 200_000
"""Maximum number of scores in a page."""
CONTEXTS = 5_000
"""Maximum number of contexts with scores."""
BYTES = 400_000
"""Maximum bytes of lists in a page, about."""
RANK_BYTES = 5
"""Bytes of a rank, about."""
STEPS = 4095
"""A score is stored as a multiple of 1 / STEPS of the range of all scores, in two letters of LETTERS."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
HIT = "hit"
LISTS = ("titles", "years", "verdicts")
"""Columns of the predictions with the entries of a list."""


@dataclass(frozen=True)
class RunLists:
    """The lists of a run, one a test sample.

    Attributes:
        places: context to the indices of its samples.
        titles, years, verdicts: entries of each sample.
        n_truth: number of relevant items of each sample.
    """

    places: Mapping[str, Sequence[int]]
    titles: Sequence[NDArray[Any]]
    years: Sequence[NDArray[Any]]
    verdicts: Sequence[NDArray[Any]]
    n_truth: Sequence[int]

    def entries(self, context: str) -> list[tuple[str, str]]:
        """Title and verdict of each rank of a context: a hit if it is one for any of its samples.

        Samples of a context share the prompt, and so the greedy list. If one does not, it is skipped.
        """
        first, *others = self.places[context]
        titles = self.titles[first].tolist()
        same = [first, *(place for place in others if self.titles[place].tolist() == titles)]
        verdicts = [self.verdicts[place].tolist() for place in same]
        found = []
        for title, year, *of_samples in zip(titles, self.years[first].tolist(), *verdicts, strict=True):
            shown = line_of(title, None if year is None or math.isnan(year) else int(year))
            found.append((shown, HIT if HIT in of_samples else of_samples[0]))
        return found


Known = Mapping[str, tuple[str, Sequence[str]]]
"""Context to its prompt and its relevant items, as far as a run has stored them for human readers."""


def context_data(group: Collection, looks: Sequence[Look], folder: Path, metric: str, known: Known) -> dict[str, Any]:
    """Scores and lists of test contexts, for the page's scripts.

    Args:
        folder: folder that contains the runs.
        metric: per-query metric to compare by.
    """
    names, scores, samples = context_scores(group, looks, metric)
    kept = thinned(len(names), min(CONTEXTS, max(1, SCORES // len(looks))))
    low, high = float(scores.min()), float(max(scores.max(), scores.min() + 1e-9))
    trained = [row for row, look in enumerate(looks) if look.stage == "rl"]
    compared = scores[trained] if len(trained) > 1 else scores
    range_of = compared.max(axis=0) - compared.min(axis=0)
    order = sorted(kept.tolist(), key=lambda place: (names[place] not in known, -range_of[place], place))
    wanted = {names[place]: int(samples[place]) for place in order}
    lists, told = context_lists(group, looks, folder, wanted, known)
    if len(kept) < len(names):
        told.append(f"of {len(names):,} contexts, {len(kept):,} that are evenly spread are compared")
    if lists["contexts"] and len(lists["contexts"]) < len(kept):
        told.append(
            f"lists are stored for {counted(len(lists['contexts']), 'context')}, where trained rows differ most"
        )
    place_of = {names[place]: i for i, place in enumerate(kept)}
    return {
        "names": [names[place] for place in kept],
        "scores": [letters((row[kept] - low) / (high - low)) for row in scores],
        "range": [low, high],
        "lists": lists | {"contexts": [place_of[name] for name in lists["contexts"]]},
        "told": told,
    }


def letters(shares: Floats) -> str:
    """Numbers in 0..1 as two letters each."""
    whole = np.rint(shares * STEPS).astype(np.int64)
    alphabet = np.frombuffer(LETTERS.encode(), np.uint8)
    return np.stack([alphabet[whole >> 6], alphabet[whole & 63]], axis=1).tobytes().decode()


def context_scores(
    group: Collection, looks: Sequence[Look], metric: str
) -> tuple[list[str], Floats, NDArray[np.int64]]:
    """Names of the C contexts, (R, C) mean scores of the rows, and (C,) number of samples of each context."""
    means: list[Floats] = []
    names, codes, sizes = pd.Index([]), np.empty(0, np.int64), np.empty(0, np.int64)
    for look in looks:
        parts = [group.queries.read(run, [metric]) for run in look.runs]
        if not means:
            codes, names = pd.factorize(parts[0][CONTEXT.name])
            sizes = np.bincount(codes)
        values = np.mean([part[metric].to_numpy(float) for part in parts], axis=0)
        means.append(np.bincount(codes, weights=values) / sizes)
    return [str(name) for name in names], np.stack(means), sizes


def context_lists(
    group: Collection, looks: Sequence[Look], folder: Path, wanted: Mapping[str, int], known: Known
) -> tuple[dict[str, Any], list[str]]:
    """Lists of contexts, as many of the wanted ones as fit, and sentences on what is left out.

    Args:
        wanted: context to its number of samples, most important first.
    """
    if not folder.is_dir():
        return _empty(), [f"lists are in run directories, which are not at {folder.as_posix()}"]
    steps = dict(zip(group.runs["run"], group.runs["checkpoint_step"], strict=True))
    told: list[str] = []
    lists_of: list[RunLists | None] = []
    for look in looks:
        run = look.runs[0]
        try:
            lists_of.append(read_lists(folder / run, predictions_file("test", int(steps[run]))))
        except BadInput as error:
            lists_of.append(None)
            told.append(f"lists of {run} left out: {error}")
    return _packed(lists_of, wanted, known), told


def read_lists(run: Path, name: str) -> RunLists:
    """The lists in a run's file of predictions.

    Raises:
        BadInput: if the file has no lists, or is a link that leads out of the run.
    """
    file = run / name
    if leads_outside(file, run):
        raise BadInput(f"{file} is a link that leads out of the run: {PUT_BACK}")
    kinds = {column.name: column.kind for column in PREDICTIONS if column.name in (CONTEXT.name, N_TRUTH.name, *LISTS)}
    try:
        check_columns(file, kinds)
        frame = read_columns(file, [*kinds])
    except (Damaged, FileNotFoundError) as error:
        raise BadInput(f"{file} {error}: {PUT_BACK}") from None
    places: dict[str, list[int]] = {}
    for place, context in enumerate(frame[CONTEXT.name].tolist()):
        places.setdefault(context, []).append(place)
    return RunLists(places, *(frame[name].tolist() for name in (*LISTS, N_TRUTH.name)))


def _empty() -> dict[str, Any]:
    keys = ("contexts", "titles", "verdicts", "rows", "truth", "prompts", "samples", "open")
    return {key: [] for key in keys}


def _packed(lists_of: Sequence[RunLists | None], wanted: Mapping[str, int], known: Known) -> dict[str, Any]:
    """The lists of contexts within `BYTES`, with titles and verdicts stored once.

    A rank is V · title + verdict, with V verdicts. Relevant are the stored items, and every item that some row hit;
    `open` is the number of others, None if it is not known because several samples share the context.
    """
    packed = _empty()
    titles: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    size = 0
    for context, samples in wanted.items():
        prompt, relevant = known.get(context, ("", ()))
        truth = dict.fromkeys(relevant)
        rows: list[list[tuple[int, int]] | None] = []
        n_truth = 0
        for lists in lists_of:
            if lists is None or context not in lists.places:
                rows.append(None)
                continue
            n_truth = int(lists.n_truth[lists.places[context][0]])
            entries = lists.entries(context)
            truth |= dict.fromkeys(title for title, verdict in entries if verdict == HIT)
            rows.append(
                [
                    (titles.setdefault(title, len(titles)), verdicts.setdefault(verdict, len(verdicts)))
                    for title, verdict in entries
                ]
            )
        ranks = sum(len(row) for row in rows if row is not None)
        size += RANK_BYTES * ranks + len(json.dumps([*truth, prompt]))
        if size > BYTES:
            break
        packed["contexts"].append(context)
        packed["rows"].append(rows)
        packed["truth"].append([titles.setdefault(title, len(titles)) for title in truth])
        packed["prompts"].append(prompt)
        packed["samples"].append(samples)
        packed["open"].append(max(0, n_truth - len(truth)) if samples == 1 else None)
    of_ranks = [
        [None if ranks is None else [len(verdicts) * title + verdict for title, verdict in ranks] for ranks in rows]
        for rows in packed["rows"]
    ]
    return packed | {"rows": of_ranks, "titles": [*titles], "verdicts": [*verdicts]}


def known_contexts(samples: Mapping[str, Any]) -> Known:
    """Prompts and relevant items of test contexts among the samples of a page (`samples.sample_data`)."""
    return {
        context["id"]: (context["prompt"], [samples["titles"][title] for title in context["relevant"]])
        for context in samples["contexts"]
        if context["split"] == "test"
    }

"""Marks for unfair comparisons, and the notes below a table."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.collection import Collection
from analysis.render.numbers import many
from analysis.tables.compare import checkpoint_baseline_note, pairing_note
from analysis.tables.model import BUDGET, MISSING, ONE_SEED, STOPPED, UNEQUAL
from analysis.tables.scores import split_sizes

NAMED = 8
"""Maximum number of runs that a note names; further runs are only counted."""

ONE_SEED_NOTE = f"{ONE_SEED} One seed: the interval is over contexts only and leaves out how much trainings differ."


def budgets(runs: pd.DataFrame) -> dict[tuple[int, ...], list[str]]:
    """Budget to the labels of the RL rows with such a run, most frequent budget first."""
    counts = Counter(tuple(int(value) for value in budget) for budget in runs[list(BUDGET)].to_numpy())
    ordered = sorted(counts, key=lambda budget: (-counts[budget], budget))
    same = [(runs[list(BUDGET)] == list(budget)).all(axis=1) for budget in ordered]
    return {budget: sorted(set(runs["label"][rows])) for budget, rows in zip(ordered, same, strict=True)}


def unequal_budgets(runs: pd.DataFrame) -> set[str]:
    """RL rows whose budget differs from that of most RL runs; all of them if no budget has a majority."""
    found = budgets(runs)
    if len(found) < 2:
        return set()
    usual = next(iter(found))
    spent = (runs[list(BUDGET)] == list(usual)).all(axis=1)
    return set(runs["label"][~spent]) if spent.mean() > 0.5 else set(runs["label"])


def intervals_text(resamples: int) -> str:
    """How an interval over seeds and contexts is computed, in words."""
    return (
        f"95 % interval over contexts and seeds: {resamples:,} resamples of contexts, all samples of a context and all "
        "seeds together, with a normal deviation for the mean over seeds; stretched for few seeds"
    )


def group_title(group: Collection) -> str:
    """Dataset, model and experiment of a group of runs."""
    first = group.runs.iloc[0]
    return f"{first['dataset']}, {first['model']} (experiment {first['experiment']})"


def group_folder(group: Collection) -> Path:
    """Subfolder for the files of a group, when a command writes several groups."""
    first = group.runs.iloc[0]
    return Path(first["experiment"]) / f"{first['dataset']}-{first['model']}"


def test_note(group: Collection, resamples: int) -> str:
    """Note on the test samples of one group of runs and the meaning of brackets."""
    sizes = split_sizes(group.queries, str(group.runs["run"].iloc[0]))
    return f"{judged('Test', sizes, group.runs)}. Brackets: {intervals_text(resamples)}."


def judged(split: str, sizes: tuple[int, int, int], runs: pd.DataFrame) -> str:
    """The split, sample sizes (from `split_sizes`), list lengths and decoding, in words."""
    samples, contexts, clusters = sizes
    lengths = " or ".join(str(length) for length in sorted(set(runs["list_length"])))
    apart = f" in {many(clusters, 'cluster')}, which intervals resample whole" if clusters < contexts else ""
    return (
        f"{split} split: {many(samples, 'sample')} of {many(contexts, 'context')}{apart}, lists of {lengths}, greedy "
        "decoding"
    )


def sft_note(runs: pd.DataFrame, metric: str) -> str:
    """Note on the meaning of a difference to SFT."""
    sft = runs[runs["stage"] == "sft"]
    if sft.empty:
        return "There is no finished SFT run, so no difference to it can be given."
    one_checkpoint = not sft.duplicated(["experiment", "dataset", "model"]).any()
    what = checkpoint_baseline_note("SFT") if one_checkpoint else pairing_note()
    return f"Δ {metric} to SFT: paired difference on the same contexts. {what}"


def checkpoint_note(runs: pd.DataFrame) -> str:
    """Note on the checkpoint at which RL rows are scored."""
    rules = sorted({str(rule) for rule in runs[runs["stage"] == "rl"]["checkpoint_rule"]})
    of_validation = " on validation" if rules == ["best"] else ""
    return f"RL rows are judged at the {' or '.join(rules)} checkpoint{of_validation}."


def unequal_note(runs: pd.DataFrame, group: str = "") -> str:
    """Note on the unequal budgets of RL rows."""
    spent = "; ".join(
        f"{', '.join(labels)}: {' / '.join(f'{value:,}' for value in budget)}"
        for budget, labels in budgets(runs[runs["stage"] == "rl"]).items()
    )
    under = f" under {group}" if group else ""
    return f"{UNEQUAL} Unequal budgets ({' / '.join(BUDGET)}){under}, not a fair comparison: {spent}."


def missing_note(rows: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """Note on rows with missing seeds."""
    lacking: dict[tuple[int, ...], list[str]] = {}
    for name, seeds in rows:
        lacking.setdefault(seeds, []).append(name)
    told = "; ".join(f"{', '.join(map(str, seeds))} of {', '.join(names)}" for seeds, names in lacking.items())
    return f"{MISSING} Missing seeds: {told}."


def stopped_note(rows: Sequence[tuple[str, tuple[tuple[int, int], ...]]]) -> str:
    """Note on runs that stopped early; each row comes with its (seed, update) pairs."""
    told = "; ".join(
        f"{name}: {', '.join(f'seed {seed} at update {update:,}' for seed, update in stops)}" for name, stops in rows
    )
    return f"{STOPPED} Stopped early, and used at that update: {told}."


def left_out_note(problems: Sequence[tuple[str, str]]) -> str:
    """Note on runs excluded from the table, with the reason."""
    told = "; ".join(f"{run}: {reason}" for run, reason in problems[:NAMED])
    more = f"; and {len(problems) - NAMED:,} more, in table.runs.json" if len(problems) > NAMED else ""
    return f"Left out: {many(len(problems), 'run')}. {told}{more}."

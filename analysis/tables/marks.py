"""Marks for unfair comparisons, and the notes below a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import statistics
from analysis.collection import Collection
from analysis.problems import Problem
from analysis.render.numbers import many, share
from analysis.tables.compare import LEVEL, Family
from analysis.tables.model import BUDGET, MARKS, MISSING, ONE_SEED, STOPPED, UNEQUAL, Row, Versus
from analysis.tables.scores import split_sizes

NAMED = 8
"""Maximum number of runs that a note names; further runs are only counted."""

PAIRING = (
    "Rows with the same seeds are paired by seed. Rows with different seeds are compared on their common seeds if "
    f"these are at least {statistics.LEAST_COMMON} and at least {100 * statistics.COMMON_SHARE:.0f} % of each row’s "
    "seeds. Otherwise all their runs are compared, unpaired."
)
"""Note on which runs of two rows a comparison uses."""

CLONED = "←"
"""Sign of a clone in the name of its row."""

PERMUTED = {"labels": "labels of runs", "seeds": "signs of seeds", "contexts": "signs of contexts"}
"""`Versus.permuted` in words."""

ONE_SEED_NOTE = f"{ONE_SEED} One seed: the interval is over contexts only. It does not show how much trainings differ."


def marked(text: str, marks: Sequence[str], which: Sequence[str] = MARKS) -> str:
    """A text followed by those of its marks that are in `which`."""
    return f"{text} {''.join(mark for mark in marks if mark in which)}".strip()


def budgets(runs: pd.DataFrame) -> dict[tuple[int, ...], list[str]]:
    """Budget to the labels of the RL rows with such a run, most frequent budget first.

    Runs that end after equal numbers of generated tokens have equal budgets, whatever they make of them.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    for label, budget in zip(runs["label"], _budget_columns(runs).to_numpy(), strict=True):
        found.setdefault(tuple(map(int, budget)), []).append(label)
    ordered = sorted(found, key=lambda budget: (-len(found[budget]), budget))
    return {budget: sorted(set(found[budget])) for budget in ordered}


def _budget_columns(runs: pd.DataFrame) -> pd.DataFrame:
    """The columns in which runs of equal budgets are equal."""
    return runs[["token_budget"]] if runs["token_budget"].notna().all() else runs[list(BUDGET)]


def unequal_budgets(runs: pd.DataFrame) -> set[str]:
    """RL rows whose budget differs from that of most RL runs; all of them if no budget has a majority."""
    found = budgets(runs)
    if len(found) < 2:
        return set()
    usual = next(iter(found))
    spent = (_budget_columns(runs) == list(usual)).all(axis=1)
    return set(runs["label"][~spent]) if spent.mean() > 0.5 else set(runs["label"])


def intervals_text(resamples: int) -> str:
    """How an interval over seeds and contexts is computed, in words."""
    return (
        f"95 % interval over contexts and seeds, from {resamples:,} resamples. A resample draws contexts, each with "
        "all its samples and seeds, and adds a normal deviation for the mean over seeds. Few seeds make the interval "
        "wider"
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
    apart = f" in {many(clusters, 'cluster')}, which intervals resample as a whole" if clusters < contexts else ""
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
    what = checkpoint_baseline_note("SFT") if one_checkpoint else PAIRING
    return f"Δ {metric} to SFT: paired difference on the same contexts. {what}"


def clone_note(clones: pd.DataFrame) -> str:
    """Note on rows that continue a checkpoint of another row.

    Args:
        clones: their lines of the run table.
    """
    spent = clones.drop_duplicates("clone_of")
    parts = [
        f"{run['clone_of']}: {run['inherited_updates']:,.0f} updates, {run['inherited_generated_tokens']:,.0f} "
        "generated tokens"
        for _, run in spent.iterrows()
    ]
    return (
        f"{CLONED} A clone: it continues a checkpoint of another row with changed settings. Its budget includes what "
        f"its parent had spent by then ({'; '.join(parts)})."
    )


def checkpoint_rules(runs: pd.DataFrame) -> list[str]:
    """The rules by which RL rows chose their checkpoints."""
    return sorted({str(rule) for rule in runs[runs["stage"] == "rl"]["checkpoint_rule"]})


def checkpoint_note(runs: pd.DataFrame) -> str:
    """Note on the checkpoint at which RL rows are scored."""
    rules = checkpoint_rules(runs)
    of_validation = " on validation" if rules == ["best"] else ""
    return f"RL rows are scored at the {' or '.join(rules)} checkpoint{of_validation}."


def unequal_note(runs: pd.DataFrame, group: str = "") -> str:
    """Note on the unequal budgets of RL rows."""
    trained = runs[runs["stage"] == "rl"]
    spent = "; ".join(
        f"{', '.join(labels)}: {' / '.join(f'{value:,}' for value in budget)}"
        for budget, labels in budgets(trained).items()
    )
    under, names = f" under {group}" if group else "", " / ".join(map(str, _budget_columns(trained))).replace("_", " ")
    return f"{UNEQUAL} Unequal budgets ({names}){under}, not a fair comparison: {spent}."


def row_notes(rows: Sequence[Row], rl: Mapping[str, pd.DataFrame], split: str) -> list[str]:
    """Notes on the marks of rows; `rl` has the RL runs of each group."""
    notes = []
    if any(ONE_SEED in row.marks for row in rows):
        notes.append(ONE_SEED_NOTE if split == "test" else f"{ONE_SEED} One seed: no interval can be given.")
    for group, runs in rl.items():
        if any(UNEQUAL in row.marks for row in rows if row.group == group):
            notes.append(unequal_note(runs, group))
    named = [replace(row, name=f"{row.name} ({row.group})") if row.group else row for row in rows]
    if missing := missing_seeds(named):
        notes.append(f"{MISSING} Missing seeds: {missing}.")
    if stopped := stopped_runs(named):
        notes.append(f"{STOPPED} Stopped early, and used at that update: {stopped}.")
    return notes


def missing_seeds(rows: Sequence[Row]) -> str:
    """Missing seeds with the names of the rows that lack them; "" if none does."""
    lacking: dict[tuple[int, ...], list[str]] = {}
    for row in rows:
        if row.missing:
            lacking.setdefault(row.missing, []).append(row.name)
    return "; ".join(f"{', '.join(map(str, seeds))} of {', '.join(names)}" for seeds, names in lacking.items())


def stopped_runs(rows: Sequence[Row]) -> str:
    """The names of rows with the seed and the last update of each run that stopped early; "" if none did."""
    return "; ".join(
        f"{row.name}: {', '.join(f'seed {seed} at update {update:,}' for seed, update in row.stops)}"
        for row in rows
        if row.stops
    )


def left_out_notes(problems: Sequence[Problem]) -> list[str]:
    """Note on runs excluded from the table, with the reason."""
    left_out = [f"{problem.run}: {problem.reason}" for problem in problems if problem.left_out]
    more = f"; and {len(left_out) - NAMED:,} more, in table.runs.json" if len(left_out) > NAMED else ""
    told = "; ".join(left_out[:NAMED]) + more
    return [f"Left out: {many(len(left_out), 'run')}. {told}."] if left_out else []


def family_note(family: Family, baseline: str) -> str:
    """Note on the tests of a table and their correction."""
    verdict = "A verdict requires equal budgets, and three seeds in each row or a fixed checkpoint on one side."
    if not family.size:
        return f"Nothing is tested. {verdict}"
    parts = [f"{many(family.against, 'difference')} to {baseline}"] if family.against else []
    parts += [f"{many(family.leads, 'column')} with a best row"] if family.leads else []
    corrected = f"p of these {family.size:,} tests is corrected by Holm over all of them."
    if family.size == 1:
        corrected = "p of a single test needs no correction."
    return (
        f"Tested: {' and '.join(parts)}. {corrected} "
        f"A difference holds if its p is below {share(LEVEL, 2)}. All other numbers are shown but not tested. {verdict}"
    )


def comparison_notes(found: Sequence[Versus], baseline: str, split: str, resamples: int, tested: str) -> list[str]:
    """Notes below the comparisons; `tested` is the one on the tests and their correction (`family_note`)."""
    permuted = "p of the test of " + " or ".join(PERMUTED[kind] for kind in sorted({one.permuted for one in found}))
    return [
        f"Δ: the row minus {baseline}, paired on the same contexts of the {split} split. {PAIRING} Brackets: "
        f"95 % interval, not corrected ({resamples:,} resamples).",
        f"p: two-sided p of no difference, from that interval. p permuted: {permuted}. Both are corrected.",
        tested,
        "Better: probability that a run of the row scores higher than a run of the baseline on these samples, with its "
        "95 % interval.",
        "Detectable: true difference that this number of seeds and contexts detects in 80 % of experiments, at the "
        "first step of the correction. In parentheses: its 80 % range, because the variance between seeds is an "
        "estimate.",
    ]


def permutation_notes(found: Sequence[Versus]) -> list[str]:
    """Notes on permutation tests that cannot reach a small p."""
    notes = []
    for kind in sorted({versus.permuted for versus in found}):
        beyond = {v.smallest_p for v in found if v.permuted == kind and (v.smallest_p or 0.0) >= LEVEL}
        if ends := " or ".join(share(smallest) for smallest in sorted(filter(None, beyond))):
            notes.append(f"With so few seeds, the test of {PERMUTED[kind]} cannot reach a p below {ends}.")
    return notes


def checkpoint_baseline_note(baseline: str) -> str:
    """Note on the meaning of a difference to one trained checkpoint."""
    return (
        f"{baseline} is one training and is held fixed. A difference to it is therefore about this checkpoint, from "
        f"which RL rows start. It says nothing about {baseline} as a method, because one training does not show how "
        "much trainings differ."
    )

"""The best variant of each algorithm, chosen on validation."""

import argparse
import sys

import pandas as pd

from analysis.collection import collect
from analysis.command import spoken, terminal
from analysis.render.numbers import share
from analysis.render.sheet import sheet_of, to_rich
from analysis.render.spreadsheet import as_text
from rlbench.base.errors import BadInput
from rlbench.base.files import write_text


def scores(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean validation metric of every variant, best first within its algorithm and reward.

    Returns:
        columns algorithm, reward, variant, seeds, mean, low, high (over seeds), chosen.

    Raises:
        BadInput: if the runs have no variants or no such metric.
    """
    column = f"validation.{metric}"
    if column not in runs:
        known = sorted(c.removeprefix("validation.") for c in runs.columns if c.startswith("validation."))
        if not known:
            raise BadInput("no run has validation metrics, so there is nothing to choose by")
        raise BadInput(f"--metric {metric} is not recorded; known: {', '.join(known)}")
    swept = runs[(runs["stage"] == "rl") & runs["variant"].notna()]
    if swept.empty:
        raise BadInput(
            "no run has a variant; sweep a setting, for example trainer.rl.learning_rate=1e-4,1e-3, or set variant=..."
        )
    reward = swept["reward"].str.split(" @ ").str[0]
    grouped = swept.assign(reward=reward).groupby(["algorithm", "reward", "variant"])[column]
    table = grouped.agg(seeds="count", mean="mean", low="min", high="max").reset_index()
    table = table.sort_values(["algorithm", "reward", "mean"], ascending=[True, True, False], kind="stable")
    table["chosen"] = ~table.duplicated(["algorithm", "reward"])
    return table.reset_index(drop=True)


def check_comparable(runs: pd.DataFrame) -> None:
    """Check that the scores of the runs can be averaged and compared.

    Raises:
        BadInput: if the runs belong to several experiments, datasets or models.
    """
    for what in ("experiment", "dataset", "model"):
        found = sorted(set(runs[what]))
        if len(found) > 1:
            raise BadInput(f"the runs have more than one {what} ({', '.join(found)}); give the folder of one of them")


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    collection = collect(options.runs)
    check_comparable(collection.runs)
    table = scores(collection.runs, options.metric)
    for problem in collection.problems:
        print(f"{spoken('select')}: {problem}", file=sys.stderr)
    rows = [
        (str(row["algorithm"]), str(row["reward"]), str(row["variant"]), str(row["seeds"]), share(row["mean"], 4))
        + (f"{share(row['low'], 4)} to {share(row['high'], 4)}", "chosen" if row["chosen"] else "")
        for _, row in table.iterrows()
    ]
    header = ("algorithm", "reward", "variant", "seeds", f"validation {options.metric}", "over seeds", "")
    sheet = sheet_of(f"Variants of {options.runs}", header, rows, names=3)
    console = terminal()
    console.print(to_rich(sheet, console.width))
    if options.out is not None:
        texts = {name: table[name].map(as_text) for name in ("algorithm", "reward", "variant")}
        write_text(options.out, table.assign(**texts).to_csv(index=False, float_format="%.6f"))
    return 0

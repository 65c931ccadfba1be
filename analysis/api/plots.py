"""Plots that return a matplotlib figure: curves of runs or of one's own numbers, and the credit of one group."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.api.runs import Runs, read
from analysis.collection import Collection, Queries
from analysis.collection.sources import Source
from analysis.figures.choices import AXES, TRAINING
from analysis.figures.grid import colour_bar
from analysis.figures.labels import Key
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.series import measured
from analysis.figures.style import STYLE
from rlbench.api.arguments import named_arguments, one_of
from rlbench.base.errors import BadInput, nearest
from rlbench.lists.items import line_of

RunsLike: TypeAlias = "Runs | str | os.PathLike[str] | pd.DataFrame"
"""Runs, a folder of runs, or one's own numbers: a frame with the columns row, step, metric, value, and optionally seed
(0 if absent) and split ("validation" if absent)."""
NEEDED = ("row", "step", "metric", "value")
CREDITED = ("completion", "rank", "advantage")
COLOURS = "RdBu"
LONGEST = 40


@named_arguments
def plot_curves(
    runs: RunsLike,
    metrics: Sequence[str] | None = None,
    against: str = "updates",
    by: str | None = None,
) -> Figure:
    """Draw metrics of the validation split over training, one line per row and a band over its seeds.

    Args:
        runs: runs of one experiment, dataset and model, a folder of them, or one's own numbers as a frame with the
            columns row, step, metric and value, and optionally seed and split.
        metrics: their names; default: Recall and NDCG at the largest cut-off, and every metric of a frame.
        against: what is on the x axis: updates, completions, generated_tokens or seconds.
        by: one panel per value of this column or setting, such as "algorithm".

    Raises:
        BadInput: an argument is invalid, or no row has a curve.

    Example:
        >>> rlbench.plot_curves("runs/mini", metrics=["ndcg@10"]).savefig("curves.pdf")
    """
    group = _group(runs)
    known = measured(group, "validation")
    if metrics is None and isinstance(runs, pd.DataFrame):
        metrics = known
    _check(group, metrics, known, against, by)
    figure = draw_validation(group, metrics=metrics, against=against, by=by)
    if figure is None:
        raise BadInput(_nothing("validation", metrics, against))
    return _shown(figure)


@named_arguments
def plot_training(
    runs: RunsLike,
    metrics: Sequence[str] | None = None,
    against: str = "updates",
    by: str | None = None,
) -> Figure:
    """Draw smoothed metrics of training, such as the reward, the entropy and the share of units without signal.

    Args:
        runs, against, by: as for `plot_curves`.
        metrics: names of training metrics, such as "reward"; default: the panels of `rlbench report`.

    Raises:
        BadInput: an argument is invalid, or no row has a curve.

    Example:
        >>> rlbench.plot_training("runs/mini", metrics=["reward", "entropy"])
    """
    group = _group(runs)
    known = measured(group, "train")
    _check(group, metrics, known, against, by)
    own = isinstance(runs, pd.DataFrame)
    keys: Sequence[Key] = [("train", name) for name in (known if metrics is None else metrics)]
    figure = draw_training(group, keys=TRAINING if metrics is None and not own else keys, against=against, by=by)
    if figure is None:
        raise BadInput(_nothing("train", metrics, against))
    return _shown(figure)


@named_arguments
def plot_credit(group: pd.DataFrame, completion: int | None = None) -> Figure:
    """Draw the advantages of one group of completions rank by rank, and the ranks of one completion.

    Args:
        group: one row per completion and rank: columns completion and rank (both from 1) and advantage, and optionally
            title, year, verdict and return. `rlbench.sample_group` gives it, and so does one step of one run in
            `Runs.rollouts`.
        completion: the completion to show item by item; default: the one with the most hits.

    Raises:
        BadInput: the frame has no such columns, holds several groups, or has no such completion.

    Example:
        >>> rollouts = rlbench.read("runs/mini/mini-tiny/rank_grpo-relevance/seed0-1a2b3c4d").rollouts
        >>> rlbench.plot_credit(rollouts[rollouts["step"] == 0])
    """
    if not isinstance(group, pd.DataFrame):
        raise BadInput(f"group = {type(group).__name__} must be a DataFrame, such as rlbench.sample_group(run)")
    if missing := [name for name in CREDITED if name not in group]:
        raise BadInput(*(f"group has no column '{name}'.{nearest(name, list(map(str, group)))}" for name in missing))
    if group.empty:
        raise BadInput("group has no rows")
    several = any(group[name].nunique() > 1 for name in ("run", "step", "context_id") if name in group)
    if several or group.duplicated(["completion", "rank"]).any():
        raise BadInput("group holds several groups: choose one run and one step, as in rollouts[rollouts['step'] == 0]")
    known = sorted(map(int, group["completion"].unique()))
    if completion is not None and completion not in known:
        raise BadInput(f"completion = {completion!r} is none of {known[0]}..{known[-1]}")
    chosen = _most_hits(group, known) if completion is None else completion
    table = group.pivot(index="completion", columns="rank", values="advantage")
    size = max(float(np.nanmax(np.abs(table.to_numpy(float)))), 1e-6)
    own = group[group["completion"] == chosen].sort_values("rank")
    with matplotlib.rc_context(STYLE):
        height = 1.1 + 0.2 * max(len(known), len(own))
        figure = Figure(figsize=(7.2, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        image = _draw_group(left, group, table, known.index(chosen), size)
        colour_bar(figure, image, "Advantage")
        _draw_completion(right, own, chosen, size)
    return _shown(figure)


def _shown(figure: Figure) -> Figure:
    """The figure. In a notebook, as the value of a cell, it is shown as a picture."""
    if "ipykernel" in sys.modules:
        from IPython import get_ipython
        from IPython.core.pylabtools import select_figure_formats

        shell: Any = get_ipython()
        # pyplot prepares the shell at its first figure. These figures are none of pyplot's.
        if shell and not any(Figure in one.type_printers for one in shell.display_formatter.formatters.values()):
            select_figure_formats(shell, {"png"})
    return figure


def _draw_group(ax: Axes, group: pd.DataFrame, table: pd.DataFrame, chosen: int, size: float) -> Any:
    """The advantages of all completions as a heat map. Hits have a dot; the chosen completion has a frame."""
    norm = TwoSlopeNorm(0.0, -size, size)
    image = ax.imshow(table.to_numpy(float), aspect="auto", cmap=COLOURS, norm=norm, interpolation="nearest")
    if "verdict" in group:
        hits = group[group["verdict"] == "hit"]
        ranks, completions = (
            table.columns.get_indexer(pd.Index(hits["rank"])),
            table.index.get_indexer(pd.Index(hits["completion"])),
        )
        ax.plot(ranks, completions, "o", color="black", markersize=3, linestyle="none")
    ax.add_patch(Rectangle((-0.5, chosen - 0.5), table.shape[1], 1, fill=False, edgecolor="black", linewidth=1.2))
    ax.set_xticks(_some(table.shape[1]), [str(table.columns[place]) for place in _some(table.shape[1])])
    ax.set_yticks(_some(table.shape[0]), [str(table.index[place]) for place in _some(table.shape[0])])
    ax.grid(False)
    dots = "; dots are hits" if "verdict" in group else ""
    ax.set(xlabel="Rank", ylabel="Completion")
    ax.set_title(f"Advantage of each rank{dots}", loc="left")
    return image


def _some(count: int) -> list[int]:
    """Places of at most ten ticks."""
    return list(range(0, count, -(-count // 10)))


def _draw_completion(ax: Axes, own: pd.DataFrame, chosen: int, size: float) -> None:
    """The advantages of one completion as bars, with its items."""
    cmap, norm = matplotlib.colormaps[COLOURS], TwoSlopeNorm(0.0, -size, size)
    places = np.arange(len(own))
    values = own["advantage"].to_numpy(float)
    ax.barh(places, values, color=[cmap(norm(value)) for value in values], edgecolor="0.35", linewidth=0.5)
    ax.set_yticks(places, [_label(row) for _, row in own.iterrows()])
    if "verdict" in own:
        for label, verdict in zip(ax.get_yticklabels(), own["verdict"], strict=True):
            label.set_fontweight("bold" if verdict == "hit" else "normal")
    ax.invert_yaxis()
    ax.axvline(0.0, color="0.35", linewidth=0.6)
    ax.grid(False, axis="y")
    ax.set(xlabel="Advantage")
    ax.set_title(f"Completion {chosen}{', hits in bold' if 'verdict' in own else ''}", loc="left")


def _label(row: pd.Series) -> str:
    """ "3. Heat (1995)", or the rank alone."""
    if "title" not in row or not isinstance(row["title"], str):
        return str(row["rank"])
    year = row.get("year")
    line = line_of(row["title"], None if year is None or pd.isna(year) else int(year))
    return f"{row['rank']}. {line if len(line) <= LONGEST else line[: LONGEST - 1] + '…'}".replace("$", r"\$")


def _most_hits(group: pd.DataFrame, known: Sequence[int]) -> int:
    if "verdict" not in group:
        return known[0]
    hits = group.loc[group["verdict"] == "hit", "completion"].tolist()
    return max(known, key=hits.count)


def _check(group: Collection, metrics: Sequence[str] | None, known: list[str], against: str, by: str | None) -> None:
    """Raises BadInput for an unknown metric, axis or column."""
    if isinstance(metrics, str):
        raise BadInput(f"metrics = {metrics!r} must be a list, such as [{metrics!r}]")
    if unknown := [name for name in metrics or [] if name not in known]:
        raise BadInput(*(f"metrics has {name!r}, which no row measured.{nearest(name, known)}" for name in unknown))
    one_of("against", against, AXES)
    if by is not None:
        columns = {"algorithm", "reward", "variant", *(key for of_run in group.settings.values() for key in of_run)}
        if by not in columns:
            raise BadInput(f"by = {by!r}: rows have no such setting.{nearest(by, sorted(columns))}")


def _nothing(split: str, metrics: Sequence[str] | None, against: str) -> str:
    named = f" for {', '.join(metrics)}" if metrics else ""
    cost = f" against {against}" if against != "updates" else ""
    return f"runs have no {split} curve{named}{cost} that all seeds of a row share"


def _group(runs: RunsLike) -> Collection:
    """The runs of an argument as one group."""
    if isinstance(runs, pd.DataFrame):
        return _own(runs)
    if isinstance(runs, str | os.PathLike):
        runs = read(runs)
    if not isinstance(runs, Runs):
        raise BadInput(f"runs = {runs!r:.80} must be rlbench.read(...), a folder of runs, or a DataFrame")
    return runs.group()


class OwnNumbers(Source):
    """Curves from a frame, by run; there are no scores and no settings."""

    def __init__(self, curves: Mapping[str, pd.DataFrame]):
        self.folder = Path()
        self._curves = curves

    def scores(self, run: str, columns: Sequence[str]) -> pd.DataFrame:
        raise BadInput("numbers from a frame have no scores of contexts")

    def curves(self, run: str) -> pd.DataFrame:
        return self._curves[run]

    def spending(self, run: str) -> pd.DataFrame:
        return pd.DataFrame()

    def config(self, run: str) -> Mapping[str, Any]:
        return {}


def _own(frame: pd.DataFrame) -> Collection:
    """One's own numbers in the form of runs.

    Raises:
        BadInput: a column is missing, or has no numbers; a step was measured twice.
    """
    known = list(map(str, frame.columns))
    if missing := [name for name in NEEDED if name not in known]:
        raise BadInput(*(f"the frame has no column '{name}'.{nearest(name, known)}" for name in missing))
    if frame.empty:
        raise BadInput("the frame has no rows")
    whole = frame.assign(seed=frame.get("seed", 0), split=frame.get("split", "validation"))
    if odd := [name for name in ("step", "value") if not pd.api.types.is_numeric_dtype(whole[name])]:
        raise BadInput(*(f"the column '{name}' must hold numbers" for name in odd))
    if whole.duplicated(["row", "seed", "split", "metric", "step"]).any():
        raise BadInput("the frame has several values for one row, seed, metric and step; give a column 'seed'")
    rows, curves = [], {}
    for (row, seed), part in whole.groupby(["row", "seed"], sort=True):
        name = f"{row}/seed{seed}"
        named = {"run": name, "label": str(row), "algorithm": str(row), "seed": seed, "stage": "rl"}
        rows.append(named | {"experiment": "", "dataset": "", "model": "", "reward": "", "cutoffs": (1,)})
        curves[name] = part[["step", "split", "metric", "value"]].reset_index(drop=True)
    return Collection(pd.DataFrame(rows), Queries(OwnNumbers(curves), {}), OwnNumbers(curves))

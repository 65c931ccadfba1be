"""Appearance and files of figures.

Colours are Okabe & Ito's, which colour-blind readers can tell apart. Markers and dashes carry the same information.
The same figure gives byte-identical files.
"""

import textwrap
import zlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.choices import AXES, VARIANT
from analysis.outputs import output_file
from analysis.render.templates import PAGE, PAGE_WIDTH, Paper

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))
ALGORITHMS = (
    *("grpo", "rank_grpo", "gspo", "dr_grpo", "dapo", "rloo", "reinforce", "cispo", "gmpo", "sapo"),
    *("rank_grpo_published", "bnpo", "c2gspg", "canon", "clip_cov", "clpo_kl", "dpo", "dppo_kl", "dppo_tv"),
    *("f_grpo", "gopo", "grpo_passk", "gspo_token", "humanline", "kl_cov", "luspo", "max_rl", "opo"),
    *("rapo_scale", "reinforce_pp", "reinforce_pp_baseline", "removal_rank", "rlmlr", "rover", "rs_grpo"),
    *("s_dpo", "shapley_rank", "siren", "sprec", "swap_rank", "top_entropy", "topr", "uniapl", "unlikely"),
    *("verl_erank", "vespo", "gpg", "dro", "tawin", "swap_pool_rank", "optimal_token_baseline", "spo", "cmdp", "hipo"),
    *("e2c", "sage", "farl", "uniapl_adversarial", "shapley_max_rank"),
)
REWARDS = (
    *("relevance", "log_decay", "exp_decay", "ndcg_share", "recall", "power_mean", "dcg", "novelty"),
    *("value_rarity", "asymmetric", "guarded", "guarded_gdpo", "length_count", "soft_overlong", "alp"),
)
"""Names whose place sets the look of their rows (`method_look`). Add new names at the end: an insertion would recolour
the figures of all later ones. A name that is not here has a look as well."""
Method = tuple[str, str, int]
"""Algorithm, reward and number of the variant."""
GREY = "0.35"
FAINT = "0.82"

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.handlelength": 3.2,
    "legend.columnspacing": 1.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "rlbench",
    "pdf.fonttype": 42,
}


def style_of(paper: Paper) -> Any:
    """`STYLE`, or that of a template: its letters (Times, as STIX) in its sizes, and thinner lines."""
    if paper.template is None:
        return STYLE
    labels, small = paper.template.labels, paper.template.small
    return STYLE | {
        "font.family": ["STIXGeneral", "DejaVu Sans"],
        "mathtext.fontset": "stix",
        "font.size": labels,
        "axes.titlesize": labels,
        "axes.labelsize": labels,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "legend.fontsize": small,
        "legend.handlelength": 3.0,
        "legend.columnspacing": 1.0,
        "lines.linewidth": 1.1,
        "lines.markersize": 3.0,
    }


FORMATS = ("png", "svg", "pdf")

UNITS_OF_TIME = ((10_800, 3_600.0, "h"), (300, 60.0, "min"), (0, 1.0, "s"))
UNITS_OF_COUNTS = ((2_000_000, 1e6, "millions"), (20_000, 1e3, "thousands"))
"""Units of an axis: the smallest maximum that needs it, its size and its name."""

SAME = 1e-9
"""Values within this relative difference count as equal: they differ by rounding errors of sums."""


def value_range(low: float, high: float) -> tuple[float, float]:
    """Ends of a value scale. Constant values get a useful range.

    A constant gets a range of ±10 % of its size. A constant 0 gets the range 0 to 1, to avoid negative values
    on the scale of a metric that cannot be negative.
    """
    if high - low > SAME * max(abs(low), abs(high), 1e-3):
        return low, high
    size = max(abs(low), abs(high))
    return (0.0, 1.0) if size < SAME else (low - size / 10, high + size / 10)


def show_constant(ax: Axes) -> None:
    """Give axes with constant data a useful range. Leave other axes unchanged."""
    (x0, y0), (x1, y1) = ax.dataLim.min, ax.dataLim.max
    if np.isfinite([y0, y1]).all() and value_range(y0, y1) != (y0, y1):
        low, high = value_range(y0, y1)
        ax.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if np.isfinite([x0, x1]).all() and x0 == x1:
        ax.set_xlim(x0 - 1, x0 + 1)


def method_look(algorithm: str, reward: str, variant: int = 0, step: int = 0) -> dict[str, Any]:
    """Colour, marker and dashes of a method, for `Axes.plot`. They depend on nothing but the arguments.

    The coefficients keep the colours of three algorithms with two rewards apart, and each pair of colour, marker and
    dashes of five algorithms with three rewards.

    Args:
        algorithm, reward: names; "" where a figure joins all of them.
        variant: number of the row's variant.
        step: number of looks to move on by, if another row has this look.
    """
    a, r, v = _numbers((algorithm, reward, variant))
    return {
        "color": COLOURS[(a + 3 * r + 2 * v + step) % len(COLOURS)],
        "marker": MARKERS[(a + r + v + step) % len(MARKERS)],
        "linestyle": DASHES[(4 * a + r + v + step) % len(DASHES)],
    }


def _number(name: str, known: Sequence[str]) -> int:
    """Place of a name in a list. An unknown name (of a plugin) gets a number from its letters."""
    return known.index(name) if name in known else zlib.crc32(name.encode()) if name else 0


def _numbers(method: Method) -> tuple[int, int, int]:
    algorithm, reward, variant = method
    return _number(algorithm, ALGORITHMS), _number(reward, REWARDS), variant


def styles(runs: pd.DataFrame, by: str | None = None) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each RL row, by label: those of `method_look`, in every figure, page and table.

    Variants are numbered in the order of their names. If two rows share a colour and dashes, a colour and a marker, or
    a marker and dashes, the later one moves to the next free look.

    Args:
        runs: runs of all rows, not only of those in the figure; columns stage, label, algorithm and reward, which
            includes the variant.
        by: "algorithm" or "reward" if the figure has a panel for each, so that a look stands for the other alone.
    """
    rows = runs.loc[runs["stage"] == "rl", ["label", "algorithm", "reward"]].drop_duplicates("label")
    parts = {
        str(label): (str(algorithm), *str(reward).partition(VARIANT)[::2])
        for label, algorithm, reward in rows.itertuples(index=False)
    }
    variants = sorted({variant for _, _, variant in parts.values()})
    methods = {
        label: (
            "" if by == "algorithm" else algorithm,
            "" if by == "reward" else reward,
            0 if by == "reward" else variants.index(variant),
        )
        for label, (algorithm, reward, variant) in parts.items()
    }
    looks = _apart(
        sorted(set(methods.values()), key=lambda one: (_number(one[0], ALGORITHMS), _number(one[1], REWARDS), one))
    )
    return {label: looks[method] for label, method in methods.items()}


def _apart(methods: Sequence[Method]) -> dict[Method, dict[str, Any]]:
    """The look of each method. If it shares a pair of properties with earlier ones, the next look that shares least."""
    taken: set[tuple[Any, Any]] = set()
    found = {}
    for method in methods:
        shared = {}
        for step in range(len(COLOURS) * len(MARKERS) * len(DASHES)):
            look = method_look(*method, step)
            shared[step] = len(taken.intersection(combinations(look.values(), 2)))
            if not shared[step]:
                break
        found[method] = method_look(*method, min(shared, key=shared.__getitem__))
        taken.update(combinations(found[method].values(), 2))
    return found


def axis_unit(against: str, largest: float) -> tuple[float, str]:
    """Divisor for the values of an axis of `AXES`, and the axis label with its unit."""
    for start, size, unit in UNITS_OF_TIME if against == "seconds" else UNITS_OF_COUNTS:
        if largest >= start:
            return size, f"{AXES[against]} ({unit})"
    return 1.0, AXES[against]


def legend_columns(labels: Sequence[str], width: float = PAGE_WIDTH, letters: float = STYLE["legend.fontsize"]) -> int:
    """Number of legend columns that fit below the axes, with rows filled as evenly as possible.

    Args:
        width: width of the figure in inches.
        letters: size of the letters in points.
    """
    entry = max(map(len, labels)) * letters * 0.52 + 5.6 * letters  # points: letters, then handle and gaps
    fit = max(1, int(width * 72 / entry))
    rows = -(-len(labels) // fit)
    return -(-len(labels) // rows)


def draw_legend(
    figure: Figure, entries: Mapping[str, Any], across: int, note: str = "", *, handles: float | None = None
) -> None:
    """Draw a legend of `across` columns below the axes.

    Args:
        entries: label to legend handle; may be empty.
        note: sentences above the legend.
        handles: length of a handle, in letters; None for that of the style.
    """
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=across,
        frameon=False,
        handlelength=handles,
        title=note,
        title_fontsize=7,
    )
    legend.get_title().set_multialignment("center")


class Captioned(Figure):
    """A figure with its caption and style.

    Attributes:
        caption: what it shows, of what, how many seeds, intervals and smoothing.
        style: rcParams that it was drawn with, and is saved with.
    """

    caption = ""
    style: Any = STYLE


def legend_below(figure: Captioned, entries: Mapping[str, Any], note: str, paper: Paper = PAGE) -> None:
    """Draw a legend as `draw_legend` does, in as many columns as fit. The figure grows to make room.

    The note becomes part of the caption. Without a template it is drawn too.
    """
    figure.caption = f"{figure.caption} {' '.join(note.split())}".strip()
    width, height = figure.get_size_inches()
    letters = matplotlib.rcParams["legend.fontsize"]
    note = (
        ""
        if paper.template
        else note
        if width >= PAGE_WIDTH
        else textwrap.fill(" ".join(note.split()), int(20 * width))
    )
    if not entries and not note:
        return
    wide = 0.87 if paper.template else 1.0  # Times is narrower
    across = legend_columns(list(entries), width, letters * wide) if entries else 1
    lines = -(-len(entries) // across) + (1 + note.count("\n") if note else 0)
    figure.set_size_inches(width, height + 0.1 + 0.17 * lines)
    draw_legend(figure, entries, across, note)


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write <path>.<format> for each requested format, without dates. Returns the files written.

    PNG has 200 dots per inch; PDF embeds TrueType fonts.
    """
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    written = []
    with matplotlib.rc_context(figure.style if isinstance(figure, Captioned) else STYLE):
        for kind in formats:
            file = path.with_name(f"{path.name}.{kind}")
            with output_file(file) as beside:
                figure.savefig(beside, format=kind, dpi=200, metadata=metadata[kind])
            written.append(file)
    return written

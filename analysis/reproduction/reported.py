"""The paper's numbers as the project keeps them (experiments/reported/), and what each may be off by."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
REPORTED = EXPERIMENTS / "reported"

MODELS = {
    "Qwen2.5-0.5B": "qwen2.5_0.5b",
    "Llama-3.2-1B": "llama3.2_1b",
    "Llama-3.2-3B": "llama3.2_3b",
    "Qwen2.5-7B": "qwen2.5_7b",
}
"""Backbones as the paper calls them to options of `model`."""

SMALLEST = "Qwen2.5-0.5B"
"""The backbone that the signs of a twin, whose model is no backbone of the paper's, are held against."""

BESIDE = {
    "rank_grpo_published_log_decay": "rank_grpo_log_decay",
    "rank_grpo_published_exp_inf": "rank_grpo_exp_inf",
}
"""Rows of our own to the reported row that they stand beside: which loss made the reported numbers is not known."""

TITLES = {
    "zero_shot": "zero-shot",
    "sft": "SFT",
    "sft_without_reflect": "SFT without reflect",
    "sft_without_remap_reflect": "SFT without remap and reflect",
    "grpo": "GRPO",
    "gspo": "GSPO",
    "rank_grpo_log_decay": "Rank-GRPO log-decay",
    "rank_grpo_exp_inf": "Rank-GRPO exp∞",
    "rank_grpo_exp_inf_without_sft": "Rank-GRPO exp∞ without SFT",
    "rank_grpo_published_log_decay": "Rank-GRPO log-decay, published loss",
    "rank_grpo_published_exp_inf": "Rank-GRPO exp∞, published loss",
    "dpo": "DPO",
    "s_dpo": "S-DPO",
    "sprec": "SPRec",
}

LARGEST_ERROR = {"recall": 0.0035, "ndcg": 0.0025}
"""Upper ends of the standard errors that the paper states for Reddit-v2."""

REDIAL_TEST = 2613
"""Conversations of ReDial's test split (appendix D.7), for which the paper states no standard errors."""

DIGITISING = 0.0003
"""How far a point that was read off a figure may be off."""


@dataclass(frozen=True)
class Row:
    """One row of a reported table.

    Attributes:
        regime: on-policy or mu=2.
        backbone: as the paper calls it; "" for a system that is no backbone of the paper's.
        method: an option of `method`, or the name of such a system.
        values: recall@k and ndcg@k.
    """

    regime: str
    backbone: str
    method: str
    values: dict[str, float]

    @property
    def title(self) -> str:
        return TITLES.get(self.method, self.method)


@dataclass(frozen=True)
class Point:
    """One point of a reported curve, read off a figure."""

    metric: str
    backbone: str
    regime: str
    method: str
    step: int
    value: float


def read_rows(path: Path) -> list[Row]:
    """A table in the form of experiments/reported/results.csv."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                line["regime"],
                line["backbone"],
                line["method"],
                {key: float(value) for key, value in line.items() if "@" in key and value},
            )
            for line in csv.DictReader(file)
        ]


def read_points(path: Path) -> list[Point]:
    """Curves in the form of experiments/reported/curves.csv."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Point(
                line["metric"],
                line["backbone"],
                line["regime"],
                line["method"],
                int(line["step"]),
                float(line["value"]),
            )
            for line in csv.DictReader(file)
        ]


def standard_error(dataset: str, metric: str, value: float) -> float:
    """What a reported number may be off by for its samples.

    Of Reddit-v2 the upper end of what the paper states. Of ReDial the bound of any score in 0..1 with that mean,
    sqrt(p (1 - p) / n).
    """
    if dataset == "reddit_v2":
        return LARGEST_ERROR[metric.split("@")[0]]
    return math.sqrt(value * (1 - value) / REDIAL_TEST)


def methods_in_order(rows: Sequence[Row]) -> list[str]:
    """Methods of reported rows and of our own rows beside them, as the table has them."""
    names = list(dict.fromkeys(row.method for row in rows))
    return names + [own for own, beside in BESIDE.items() if beside in names]

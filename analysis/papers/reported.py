"""The paper's numbers (experiments/reported/) and their errors."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from rlbench.base.program import EXPERIMENTS

REPORTED = EXPERIMENTS / "reported"

MODELS = {
    "Qwen2.5-0.5B": "qwen2.5_0.5b",
    "Llama-3.2-1B": "llama3.2_1b",
    "Llama-3.2-3B": "llama3.2_3b",
    "Qwen2.5-7B": "qwen2.5_7b",
}
"""The paper's backbone names to options of `model`."""

SMALLEST = "Qwen2.5-0.5B"
"""Backbone whose signs a twin is compared with. A twin's model is not one of the paper's backbones."""

BESIDE = {
    "rank_grpo_published_log_decay": "rank_grpo_log_decay",
    "rank_grpo_published_exp_inf": "rank_grpo_exp_inf",
}
"""Rows of our own to the reported row next to them. Which loss produced the reported numbers is not known."""

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
"""Upper bounds of the standard errors that the paper states for Reddit-v2."""

REDIAL_TEST = 2613
"""Conversations of ReDial's test split (appendix D.7), for which the paper states no standard errors."""

DIGITISING = 0.0003
"""Error of a point read off a figure."""


@dataclass(frozen=True)
class ReportedRow:
    """One row of a reported table.

    Attributes:
        dataset: as in conf/dataset.
        backbone: the paper's name; "" for a system without one of the paper's backbones.
        method: an option of `method`, or the name of such a system.
        values: recall@k and ndcg@k.
    """

    dataset: str
    backbone: str
    method: str
    values: dict[str, float]

    @property
    def title(self) -> str:
        return TITLES.get(self.method, self.method)


def read_rows(path: Path) -> list[ReportedRow]:
    """Read a table in the format of experiments/reported/results.csv."""
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            values = {key: float(value) for key, value in line.items() if "@" in key and value}
            rows.append(ReportedRow(line["dataset"], line["backbone"], line["method"], values))
    return rows


def standard_error(dataset: str, metric: str, value: float) -> float:
    """Standard error of a reported number over samples.

    For Reddit-v2 it is the upper bound that the paper states. For ReDial it is the bound for any score in 0..1 with
    mean p, sqrt(p (1 - p) / n).
    """
    if dataset == "reddit_v2":
        return LARGEST_ERROR[metric.split("@")[0]]
    return math.sqrt(value * (1 - value) / REDIAL_TEST)

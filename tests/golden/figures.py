"""The golden figures and their lists as cases."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

LISTS = "published_lists.json"
MEMBERSHIP = "published_lists_in_catalog.json"
COMMITTED = Path(__file__).parent / "data"

Film = tuple[str, int]


def golden_folder() -> Path:
    """The folder in RLBENCH_GOLDEN_DIR, or else the committed one."""
    return Path(os.environ.get("RLBENCH_GOLDEN_DIR") or COMMITTED)


class Case(NamedTuple):
    """One completion and the published code's outputs for it; the keys of recall_ndcg are cut-offs."""

    number: int
    completion: str
    list_length: int
    seen_titles: list[str]
    ground_truth: list[Film]
    parsed: list[Film]
    hits: list[int]
    reward_exp_inf: list[float]
    reward_log_decay: list[float]
    recall_ndcg: dict[int, tuple[float, float]]


def read_cases(folder: Path) -> list[Case]:
    """The cases of `published_lists.json`."""
    raw = json.loads((folder / LISTS).read_text(encoding="utf-8"))["cases"]
    return [_case(number, case) for number, case in enumerate(raw)]


def _case(number: int, raw: dict[str, Any]) -> Case:
    return Case(
        number=number,
        completion=raw["completion"],
        list_length=raw["list_length"],
        seen_titles=raw["seen_titles"],
        ground_truth=[(title, int(year)) for title, year in raw["groundtruth"]],
        parsed=[(title, year) for title, year in raw["parsed"]],
        hits=raw["hits"],
        reward_exp_inf=raw["reward_exp_inf"],
        reward_log_decay=raw["reward_log_decay"],
        recall_ndcg={int(k): (recall, ndcg) for k, (recall, ndcg) in raw["recall_ndcg"].items()},
    )


def read_membership(cases: list[Case], file: Path) -> list[set[Film]]:
    """For each case the parsed entries that are exact catalogue entries."""
    positions = json.loads(file.read_text(encoding="utf-8"))
    return [{case.parsed[i] for i in inside} for case, inside in zip(cases, positions, strict=True)]


def membership(cases: list[Case], films: set[Film]) -> list[list[int]]:
    """For each case the positions of the parsed entries that are exact catalogue entries."""
    return [[i for i, film in enumerate(case.parsed) if film in films] for case in cases]

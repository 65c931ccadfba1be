"""Sampled groups that a run keeps for reading."""

import json
from pathlib import Path

import torch

from rlbench.lists.entries import parse_text
from rlbench.lists.relevance import Verdict
from rlbench.rewards.scorer import ScoredList
from rlbench.runs.directory import locate
from rlbench.training.rollout_log import RolloutLog
from tests.conftest import composed


def test_a_group_that_is_sampled_again_replaces_the_first(tmp_path: Path) -> None:
    run = locate(composed(f"runs_dir={tmp_path}"), "rl")
    log = RolloutLog(run, every=4, num_iterations=1)
    row = {"prompt": [{"role": "user", "content": "?"}], "ground_truth": [], "context_id": "a"}
    scored = ScoredList("Heat (1995)", parse_text("Heat (1995)"), [Verdict.HIT], True)
    for step, worth in ((0, 1.0), (4, 2.0), (4, 3.0), (8, 4.0)):
        ranks = torch.tensor([[worth]])
        log.add(step, row, [scored], ranks, torch.tensor([worth]), ranks / 2)
    kept = [json.loads(line) for line in (run.root / "rollouts.jsonl").read_text().splitlines()]
    assert [(group["step"], group["lists"][0]["reward"]) for group in kept] == [(0, 1.0), (4, 3.0), (8, 4.0)]
    assert kept[1]["lists"][0]["ranks"] == [["Heat", 1995, "hit", 3.0, 1.5]]
    assert [step for step in range(9) if log.is_due(step)] == [0, 4, 8]

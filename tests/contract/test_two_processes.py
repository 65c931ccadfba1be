"""Our trainer on two processes equals TRL's, and equals our trainer on one process.

Losses and gradients are compared after the processes have averaged them.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch

from rlbench.config.schema import Config
from tests.helpers_parity import CASES, UPDATES, assert_same, parity_config
from tests.helpers_processes import Job, on_processes

LAYOUTS = {
    # 6 completions per process: the second group is split between the two.
    "accumulation_1": {"micro_batch_size": 6, "completions_per_update": 12},
    "accumulation_3": {"micro_batch_size": 2, "completions_per_update": 12},
    "accumulation_4": {"micro_batch_size": 2, "completions_per_update": 16},
}
"""Settings over two processes, in groups of 4."""

CASES_OF_LAYOUTS = {
    "accumulation_1": ("grpo", "terms-gdpo"),
    "accumulation_4": ("bnpo", "dapo"),
}
PARITY = [(case, layout) for layout, cases in CASES_OF_LAYOUTS.items() for case in cases]
MORE_PARITY = [
    (case, layout)
    for layout in CASES_OF_LAYOUTS
    for case in ("grpo", "gspo", "bnpo", "dapo", "dr_grpo", "cispo", "terms-gdpo")
    if (case, layout) not in PARITY
]
"""The same methods in the other layout, in the slow suite."""

OURS = {
    "rank_grpo": ["algorithm=rank_grpo"],
    "rank_grpo-gdpo": ["algorithm=rank_grpo", "reward=guarded_gdpo"],  # z-scores over the whole batch
    "dapo": ["algorithm=dapo"],  # tokens of all processes
    "unlikely": ["algorithm=unlikely"],  # tokens and log-probabilities of units
    "canon": ["algorithm=canon"],  # entropies of the rollout
    "verl_erank": ["algorithm=verl_erank"],  # hidden states of the rollout, and their means in earlier updates
    "top_entropy": ["algorithm=top_entropy"],  # entropies of the micro-batch
    "spo": ["algorithm=spo"],  # names of prompts, and their values
    "cmdp": ["algorithm=cmdp", "algorithm.options.kl_budget.budget=0.001"],  # sums over tokens
    "calibration": ["algorithm=rank_grpo", "reward=calibration"],  # passes of one process over its own lists
    "ce_po": ["algorithm=grpo", "reward=ce_po"],
    "rival": [
        "algorithm=rank_grpo",
        "reward=rival",
        "reward.terms.reward_model.rate=0.1",
    ],  # comparisons of all processes
    "bnpo": ["algorithm=bnpo"],
    "replay": ["algorithm=rank_grpo", "sampler=dots_replay", "sampler.capacity=8"],  # groups of all processes
    "attention": ["sampler.weigh=attention", "+sampler.options.attention.references=4"],
    "hint": ["sampler=hint", "sampler.options.hint.hard=1", "sampler.keep=all", "sampler.rounds=1"],
    "critique": ["algorithm=rank_grpo", "sampler=critique", "sampler.options.critique.share=0.5"],
}
"""Methods by what they need from all processes; only bnpo depends on how the batch is divided."""

UNDIVIDED = [
    *(("rank_grpo", layout) for layout in LAYOUTS),
    ("rank_grpo-gdpo", "accumulation_1"),
    ("dapo", "accumulation_3"),
    ("unlikely", "accumulation_1"),
]
"""Methods whose update is that of the whole batch."""
METHODS = ("canon", "verl_erank", "top_entropy", "spo", "cmdp")
REWARDS, SAMPLERS = ("calibration", "ce_po", "rival"), ("replay", "attention", "hint", "critique")
MORE = [
    *((name, "accumulation_1") for name in (*METHODS, *REWARDS)),
    *((name, "accumulation_4") for name in SAMPLERS),
]
"""More of them, in the slow suite."""

DIVIDED = ("bnpo", "accumulation_3")


def laid_out(config: Config, **sizes: int) -> Config:
    return replace(config, trainer=replace(config.trainer, rl=replace(config.trainer.rl, **sizes)))


@cache
def hashed_config(name: str) -> Config:
    return parity_config(*OURS[name], "dataset.list_length=3")


@pytest.fixture(scope="module")
def together(tiny_folder, tmp_path_factory):
    """All trainings on two processes, started once because a start takes seconds."""
    jobs = parity_jobs(PARITY) | hashed_jobs([*UNDIVIDED, DIVIDED])
    return on_processes(2, jobs, tiny_folder, tmp_path_factory.mktemp("together"), limit=300)


@pytest.fixture(scope="module")
def more_together(tiny_folder, tmp_path_factory):
    jobs = parity_jobs(MORE_PARITY) | hashed_jobs(MORE)
    return on_processes(2, jobs, tiny_folder, tmp_path_factory.mktemp("more"), limit=600)


def parity_jobs(wanted):
    jobs = {}
    for case, layout in wanted:
        config = parity_config(*CASES[case][0], "generation.max_new_tokens=12")
        config = laid_out(config, **LAYOUTS[layout])
        jobs["ours", case, layout] = Job(config)
        jobs["theirs", case, layout] = Job(config, CASES[case][1])
    return jobs


def hashed_jobs(wanted):
    return {
        ("hashed", name, layout): Job(laid_out(hashed_config(name), **LAYOUTS[layout]), hashed=True)
        for name, layout in wanted
    }


@pytest.fixture
def alone(mini, tiny_folder, tmp_path):
    """A training on this process, with its whole batch at once."""

    def run(name, layout):
        size = LAYOUTS[layout]["completions_per_update"]
        config = laid_out(hashed_config(name), completions_per_update=size, micro_batch_size=size)
        return Job(config, hashed=True).run(tiny_folder, mini, tmp_path)

    torch.set_default_dtype(torch.float64)
    yield run
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("case", "layout"), PARITY)
def test_reproduces_trl(case, layout, together):
    assert_trls(case, layout, together)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "layout"), MORE_PARITY)
def test_reproduces_trl_in_the_other_layout(case, layout, more_together):
    assert_trls(case, layout, more_together)


def assert_trls(case, layout, together):
    ours, theirs = together["ours", case, layout], together["theirs", case, layout]
    assert ours.processes == theirs.processes == 2
    assert len(ours.losses) == UPDATES
    assert_same(ours, theirs)


OF_ROLLOUTS = {"hits", "success", "list_length", "advantage_std", "frac_zero_variance_units", "completions/mean_length"}


@pytest.mark.parametrize(("name", "layout"), UNDIVIDED)
def test_two_processes_make_the_update_of_one(name, layout, together, alone):
    assert_the_update_of_one(together["hashed", name, layout], alone(name, layout))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), MORE)
def test_two_processes_make_the_update_of_one_with_more(name, layout, more_together, alone):
    assert_the_update_of_one(more_together["hashed", name, layout], alone(name, layout))


def assert_the_update_of_one(two, one):
    assert (one.processes, two.processes) == (1, 2)
    assert_same(two, one)
    assert two.spent == one.spent
    assert all(count > 0 for name, count in one.spent.items() if name != "evaluation_tokens")
    assert one.log[0].keys() >= OF_ROLLOUTS
    for here, there in zip(one.log, two.log, strict=True):
        for metric in OF_ROLLOUTS & here.keys():
            assert there[metric] == pytest.approx(here[metric], abs=1e-6), metric


def test_the_comparison_with_trl_can_fail(together):
    """Token means of micro-batches differ from the token mean of the window over both processes."""
    ours, theirs = together["ours", "dapo", "accumulation_4"], together["theirs", "bnpo", "accumulation_4"]
    assert (ours.gradients[0] - theirs.gradients[0]).abs().max() > 1e-4


def test_the_comparison_with_one_process_can_fail(together, alone):
    """bnpo averages over micro-batches, so its update depends on the division."""
    two, one = together["hashed", *DIVIDED], alone(*DIVIDED)
    assert (two.gradients[0] - one.gradients[0]).abs().max() > 1e-4

"""`run.py` on two processes of this machine, over gloo: it equals one process, and if one fails, no other stays behind.

`pytest tests/integration/test_many_processes.py -m "slow or not slow"` runs everything, in a few minutes.
"""

import json
from functools import cache

import pytest
import torch

from rlbench.runs.directory import DONE, FAILED
from tests.helpers_commands import (
    ACCELERATE,
    ALONE,
    TORCHRUN,
    assert_close,
    assert_identical,
    finish,
    measured,
    predictions,
    stage,
    start,
    succeed,
    wait_for_update,
    weights,
    worker,
)

ROUNDING = 1e-5
"""Tolerance for float32 sums in another order, after 12 updates."""

OF_MICRO_BATCHES = {"entropy": 0.01, "kl": 0.1, "kl_rollout": 0.1, "clip_low": 0.3, "clip_high": 0.3}
OF_MICRO_BATCHES |= {"max_abs_log_ratio": 0.3, "token_accuracy": 0.01}
"""Tolerances for averages over micro-batches, which depend on the division although the underlying values agree."""

LONGER = ["trainer.rl.updates=8", "trainer.rl.save_every=2"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run on one process, and one on two that does the same work."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    running = [start(ALONE, one), start(ACCELERATE, two, "trainer=ddp")]
    for process in running:
        succeed(process)
    return one, two


@pytest.mark.slow
def test_greedy_lists_are_the_same_to_the_bit(both):
    one, two = (stage(root, "zero_shot") for root in both)
    lists = predictions(one)
    assert lists.keys() == {"predictions-validation-0.parquet", "predictions-test-0.parquet"}
    for name, table in predictions(two).items():
        assert table.equals(lists[name]) and table["text"].nunique() > 1
    assert measured(one) == measured(two)


@pytest.mark.slow
def test_sft_is_the_same(both):
    one, two = (stage(root, "sft") for root in both)
    assert {(10, "train", "loss"), (12, "test", "list_length")} <= measured(one).keys()
    assert_close(one, two, ROUNDING, {"entropy": 0.01, "token_accuracy": 0.01})
    there = weights(two)
    for name, value in weights(one).items():
        torch.testing.assert_close(there[name], value, atol=ROUNDING, rtol=0)


@pytest.mark.slow
def test_rl_is_the_same(both):
    one, two = (stage(root, "rl") for root in both)
    found = measured(one)
    for metric in ("loss", "grad_norm", "advantage_std"):
        assert max(abs(found.get((step, "train", metric), 0.0)) for step in (1, 3)) > 1e-3, metric
    assert any(found[step, "train", "reward"] > 0 for step in (1, 3))
    assert_close(one, two, ROUNDING, OF_MICRO_BATCHES)
    for metric in ("loss", "reward", "hits", "grad_norm", "success"):
        assert metric not in OF_MICRO_BATCHES


@pytest.mark.slow
def test_the_manifest_says_how_a_run_was_spread(both):
    said = [json.loads((stage(root, "rl").root / "manifest.json").read_text()) for root in both]
    assert [(manifest["processes"], manifest["strategy"]) for manifest in said] == [(1, None), (2, "ddp")]


@pytest.mark.slow
def test_every_process_has_a_rollout_stream_of_its_own(both):
    """The checkpoint has the generators of both processes: each starts from the seed and the process number."""
    _, two = both
    folder, generator = stage(two, "rl").checkpoints / "checkpoint-4", torch.Generator()
    for process in (0, 1):
        generator.set_state(torch.load(folder / f"rng_state_{process}.pth", weights_only=False)["cpu"])
        assert generator.initial_seed() == process


def test_bad_input_is_printed_once(tmp_path):
    process = start(TORCHRUN, tmp_path, "trainer.rl.completions_per_update=10")
    errors = finish(process, 120)
    assert process.returncode != 0
    assert errors.count("nothing was run") == 1 and errors.count("= 10 is not a multiple") == 2
    assert "exitcode  : 2" in errors


PLANTED = """
import os

from rlbench.training.trainer import RankedListTrainer

generate = RankedListTrainer._generate_single_turn


def planted(self, *args, **options):
    if self.state.global_step == 2 and self.accelerator.process_index == int(os.environ["PLANTED"]):
        raise RuntimeError("planted: the rollout is broken")
    return generate(self, *args, **options)


RankedListTrainer._generate_single_turn = planted
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_all_and_says_why(rank, tmp_path):
    plugin = tmp_path / "planted.py"
    plugin.write_text(PLANTED)
    process = start(TORCHRUN, tmp_path, f"plugins=[{plugin}]", PLANTED=str(rank))
    run = stage(tmp_path, "rl")
    wait_for_update(process, run, 2)
    errors = finish(process, 120)  # far less than a collective waits for a process that has ended
    assert process.returncode != 0
    assert run.status() == FAILED
    said = (run.root / "STATUS").read_text()
    assert "planted: the rollout is broken" in said and ("process 1" in said) == (rank == 1)
    assert "planted: the rollout is broken" in errors
    succeed(start(TORCHRUN, tmp_path, f"plugins=[{plugin}]", PLANTED="-1"))
    assert run.status() == DONE


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A longer uninterrupted run on two processes, by strategy."""

    @cache
    def of(strategy):
        root = tmp_path_factory.mktemp(strategy)
        succeed(start(TORCHRUN, root, f"trainer={strategy}", *LONGER))
        return root

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 0), ("ddp", 1), ("fsdp2", 1)])
def test_killed_and_resumed_is_never_killed(strategy, rank, undisturbed, tmp_path):
    overrides = [f"trainer={strategy}", *LONGER]
    whole = undisturbed(strategy)
    process = start(TORCHRUN, tmp_path, *overrides)
    run = stage(tmp_path, "rl", *LONGER)
    wait_for_update(process, run, 5)
    worker(process, rank).kill()
    finish(process, 120)
    assert process.returncode != 0 and run.status() != DONE
    assert (run.checkpoints / "checkpoint-4" / "rlbench.json").exists()

    alone = start(ALONE, tmp_path, *LONGER)  # as many processes as before, or none
    errors = finish(alone)
    assert alone.returncode == 2 and f"a checkpoint of 2 processes ({strategy})" in errors

    succeed(start(TORCHRUN, tmp_path, *overrides))
    assert run.status() == DONE
    for name in ("sft", "rl"):
        assert_identical(stage(tmp_path, name, *LONGER), stage(whole, name, *LONGER))


@pytest.mark.slow
def test_sharded_weights_make_the_same_run(undisturbed):
    for name in ("zero_shot", "sft", "rl"):
        one, two = (stage(undisturbed(strategy), name, *LONGER) for strategy in ("ddp", "fsdp2"))
        assert_close(one, two, ROUNDING, {})
    saved = stage(undisturbed("fsdp2"), "rl", *LONGER).checkpoints / "checkpoint-8"
    assert (saved / "pytorch_model_fsdp.bin").exists()  # accelerate really sharded


ADAPTED = ["adapter=lora", "adapter.rank=4", "algorithm.kl.beta=0.05", *LONGER]


@pytest.mark.slow
def test_an_adapter_is_trained_alike_by_every_strategy(tmp_path_factory):
    """One process, two with whole weights, two with sharded ones. SFT saves merged weights, RL its adapter."""
    roots = {}
    for name, launcher, strategy in (("one", ALONE, "ddp"), ("ddp", TORCHRUN, "ddp"), ("fsdp2", TORCHRUN, "fsdp2")):
        roots[name] = tmp_path_factory.mktemp(name)
        succeed(start(launcher, roots[name], f"trainer={strategy}", *ADAPTED))
    for name in ("sft", "rl"):
        one, ddp, fsdp2 = (stage(root, name, *ADAPTED) for root in roots.values())
        assert_close(
            one, ddp, ROUNDING, OF_MICRO_BATCHES if name == "rl" else {"entropy": 0.01, "token_accuracy": 0.01}
        )
        assert_close(ddp, fsdp2, ROUNDING, {})
        assert (one.final_model / "adapter_model.safetensors").exists() == (name == "rl")
        for run in (ddp, fsdp2):
            there = weights(run)
            for key, value in weights(one).items():
                torch.testing.assert_close(there[key], value, atol=ROUNDING, rtol=0)
    saved = fsdp2.checkpoints / "checkpoint-8"
    assert list(saved.glob("pytorch_model_fsdp*")) and sum(f.stat().st_size for f in saved.glob("*.bin")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_run_with_an_adapter_is_resumed(strategy, tmp_path_factory):
    whole, killed = (tmp_path_factory.mktemp(name) for name in ("whole", "killed"))
    succeed(start(TORCHRUN, whole, f"trainer={strategy}", *ADAPTED))
    process = start(TORCHRUN, killed, f"trainer={strategy}", *ADAPTED)
    wait_for_update(process, stage(killed, "rl", *ADAPTED), 5)
    worker(process, 1).kill()
    finish(process, 120)
    succeed(start(TORCHRUN, killed, f"trainer={strategy}", *ADAPTED))
    for name in ("sft", "rl"):
        assert_identical(stage(killed, name, *ADAPTED), stage(whole, name, *ADAPTED))


STATEFUL = ["algorithm=humanline", "+algorithm.regularisers.sft=0.1", *LONGER]


@pytest.mark.slow
def test_a_sharded_reference_that_follows_is_resumed(tmp_path_factory):
    """With demonstrations and a reference policy, whose shards are whole weights in the checkpoint."""
    whole, killed = (tmp_path_factory.mktemp(name) for name in ("whole", "killed"))
    succeed(start(TORCHRUN, whole, "trainer=fsdp2", *STATEFUL))
    process = start(TORCHRUN, killed, "trainer=fsdp2", *STATEFUL)
    wait_for_update(process, stage(killed, "rl", *STATEFUL), 5)
    worker(process, 1).kill()
    finish(process, 120)
    succeed(start(TORCHRUN, killed, "trainer=fsdp2", *STATEFUL))
    assert_identical(stage(killed, "rl", *STATEFUL), stage(whole, "rl", *STATEFUL))


@pytest.mark.slow
def test_a_sweep_of_cells_on_two_processes(tmp_path):
    errors = succeed(start(ALONE, tmp_path, "seed=0,1", "hydra.launcher.jobs=2", "hydra.launcher.processes=2", "-m"))
    assert "2 to run" in errors
    for seed in (0, 1):
        run = stage(tmp_path, "rl", f"seed={seed}")
        assert run.status() == DONE
        assert json.loads((run.root / "manifest.json").read_text())["processes"] == 2
    cells = json.loads((run.root.parents[2] / "sweep.json").read_text())["cells"].values()
    assert all("--nproc_per_node=2" in found["command"] for found in cells)


@pytest.mark.slow
def test_sampled_lists_and_the_best_checkpoint_are_the_same(tmp_path_factory):
    more = ["evaluation.samples=4", "evaluation.pass_at=[1,4]", "evaluation.checkpoint=best", "evaluation.every=2"]
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for process in [start(ALONE, one, *more), start(TORCHRUN, two, *more)]:
        succeed(process)
    here, there = (stage(root, "zero_shot", *more) for root in (one, two))
    assert measured(here) == measured(there)
    files = [(run.root / "samples-test-0.parquet").read_bytes() for run in (here, there)]
    assert files[0] == files[1]
    chosen = [json.loads((stage(r, "rl", *more).root / "result.json").read_text())["checkpoint"] for r in (one, two)]
    assert chosen[0] == chosen[1] and chosen[0]["rule"] == "best"

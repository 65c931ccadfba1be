"""Costs of a run: phases, energy counters, peaks, totals of several attempts."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from rlbench.base.progress import Progress
from rlbench.data.record import RankedListDataset
from rlbench.runs import budget
from rlbench.runs.budget import (
    COUNTS,
    PHASES,
    Energy,
    EnergyCounter,
    Ledger,
    cpu_counters,
    gpu_counters,
    named_speed,
    peak_memory,
)
from rlbench.runs.directory import locate
from rlbench.runs.peak import Peak
from rlbench.runs.provenance import cpu_model
from rlbench.runs.record import COMPUTING
from rlbench.training.demonstrations import demonstration_tokens
from rlbench.training.sft import train_sft
from tests.conftest import SMALL, composed
from tests.helpers_safety import short, train
from tests.helpers_training import load, make_recording


def test_a_moment_belongs_to_the_innermost_phase():
    ledger = Ledger()
    time.sleep(0.02)
    with ledger.phase("update"):
        time.sleep(0.03)
        with ledger.phase("reward"), ledger.phase("rollout"):
            time.sleep(0.05)
        running = ledger.totals()["seconds"]
    seconds = ledger.totals()["seconds"]
    total = seconds.pop("total")
    assert set(seconds) == set(PHASES) and seconds["reference"] == 0
    assert seconds["update"] >= 0.03 and seconds["rollout"] >= 0.05
    assert sum(seconds.values()) <= total - 0.02  # each second counts in one phase at most
    assert 0.03 <= running["update"] <= seconds["update"]  # an open phase counts up to now


def test_attempts_add_up_and_peaks_do_not():
    first, second = Ledger(), Ledger()
    first.add(prompts=2, trained_tokens=30)
    with first.phase("rollout"):
        time.sleep(0.02)
    totals = json.loads(json.dumps(first.totals()))
    totals["peak_memory_bytes"]["process"] = 10**15
    totals["energy_joules"] = {"cpu": 5.0, "gpu": None}
    second.resume(totals)
    second.add(prompts=1)
    report = second.report(updates=4, attempts=2)
    assert (report["prompts"], report["trained_tokens"], report["completions"]) == (3, 30, 0)
    assert (report["updates"], report["attempts"]) == (4, 2)
    assert report["seconds"]["rollout"] == totals["seconds"]["rollout"] >= 0.02
    assert report["seconds"]["total"] > totals["seconds"]["total"]
    assert report["peak_memory_bytes"] == {"process": 10**15, "gpu": None}
    assert report["energy_joules"]["gpu"] is None


def test_speed_is_tokens_and_operations_over_seconds(monkeypatch):
    monkeypatch.setattr(budget, "current_peak", lambda on_gpu: Peak(1000.0, "documented"))
    monkeypatch.setattr(budget.processes, "count", lambda: 2)
    ledger = Ledger()
    counts = dict.fromkeys(COUNTS, 0) | {"generated_tokens": 60, "trained_tokens": 40}
    seconds = dict.fromkeys(PHASES, 0.0) | {"rollout": 3.0, "update": 4.0, "evaluation": 1.0, "total": 10.0}
    operations = dict.fromkeys(COMPUTING, 0) | {"rollout": 1500, "update": 4000}
    speed = ledger.speed({"counts": counts, "seconds": seconds, "operations": operations})
    assert speed["tokens_per_second"] == {"rollout": 20.0, "reference": None, "update": 10.0, "evaluation": None}
    unknown = {"reference": None, "evaluation": None}
    assert speed["mfu"] == unknown | {"rollout": 1500 / 6000, "update": 4000 / 8000, "total": 5500 / 20000}
    assert speed["peak"] == {"operations_per_second": 1000.0, "source": "documented", "devices": 2}
    assert named_speed(speed, "speed") == {
        "speed/tokens_per_second_rollout": 20.0,
        "speed/tokens_per_second_update": 10.0,
        "speed/mfu_rollout": 0.25,
        "speed/mfu_update": 0.5,
        "speed/mfu_total": 0.275,
    }


def test_operations_of_attempts_add_up():
    first, second = Ledger(), Ledger()
    first.needed(update=10**13, rollout=3)
    second.resume(json.loads(json.dumps(first.totals())))
    second.needed(update=1)
    report = second.report(updates=1, attempts=2)
    assert report["operations"] == {"rollout": 3, "reference": 0, "update": 10**13 + 1, "evaluation": 0}
    assert report["mfu"]["total"] > 0


def test_utilisation_is_unknown_after_a_checkpoint_without_operations():
    ledger = Ledger()
    ledger.resume({"counts": {"trained_tokens": 3}, "seconds": {"total": 100.0, "update": 50.0}})
    ledger.needed(update=10)
    ledger.add(trained_tokens=2)
    report = ledger.report(updates=1, attempts=2)
    assert set(report["mfu"].values()) == {None}
    assert report["tokens_per_second"]["update"] == pytest.approx(0.1, rel=0.05)


def test_points_of_the_budget_count_training_alone():
    ledger = Ledger()
    ledger.resume({"counts": {"prompts": 3, "evaluation_tokens": 50}, "seconds": {"total": 100.0}})
    ledger.add(prompts=2, evaluation_tokens=7, trained_tokens=9)
    point = ledger.so_far(4)
    assert point.pop("seconds") == pytest.approx(100.0, abs=5.0) and point == {
        "update": 4,
        "prompts": 5,
        "completions": 0,
        "generated_tokens": 0,
        "trained_tokens": 9,
    }
    assert ledger.totals()["counts"]["evaluation_tokens"] == 57


def test_a_failure_knows_its_phase():
    ledger = Ledger()
    with pytest.raises(MemoryError) as error, ledger.phase("update"), ledger.phase("reference"):
        raise MemoryError
    assert ledger.failed_in(error.value) == "reference"
    assert ledger.failed_in(MemoryError()) is None


def package(folder: Path, name: str, number: str, joules: float) -> Path:
    made = folder / f"intel-rapl:{number}"
    made.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", f"{joules * 1e6:.0f}"), ("max_energy_range_uj", "262143328850")):
        (made / file).write_text(f"{text}\n")
    return made


def test_rapl_counts_packages_once_and_through_a_wrap(tmp_path):
    """Two packages count; a core domain within one and the whole platform are not counted again."""
    first, second = package(tmp_path, "package-0", "0", 262_143.0), package(tmp_path, "package-1", "1", 10.0)
    package(tmp_path, "core", "0:0", 5.0), package(tmp_path, "psys", "2", 7.0)
    energy = Energy({"cpu": cpu_counters(tmp_path), "gpu": []})
    (first / "energy_uj").write_text("2000000")
    (second / "energy_uj").write_text("13000000")
    (tmp_path / "intel-rapl:2" / "energy_uj").write_text("900000000")
    assert energy.joules() == {"cpu": pytest.approx(262_143.32885 - 262_143.0 + 2 + 3), "gpu": None}
    (first / "energy_uj").write_text("4000000")
    assert energy.joules()["cpu"] == pytest.approx(0.32885 + 4 + 3)


def test_what_cannot_be_read_is_unknown_and_not_nothing(tmp_path):
    package(tmp_path, "package-0", "0", 1.0)
    counters = cpu_counters(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert Energy({"cpu": counters}).joules() == {"cpu": None}
    assert cpu_counters(tmp_path / "nowhere") == [] and Energy({"cpu": []}).joules() == {"cpu": None}
    assert gpu_counters(0) == []
    refused = EnergyCounter(lambda: 1.0, joules=1.0)
    assert refused.spent == 0.0


def test_peak_memory_is_of_this_stage():
    Ledger()
    before = peak_memory(False)["process"]
    block = np.ones(40_000_000)  # 320 MB
    during = peak_memory(False)["process"]
    assert block[-1] == 1 and during - before > 250e6
    del block
    assert peak_memory(False)["process"] > during - 1e6
    Ledger()
    assert peak_memory(False)["process"] < during - 250e6


def test_tokens_that_are_trained_on_count_once_an_update(mini: RankedListDataset, tiny_folder, tmp_path):
    """Each rollout has two updates, in two micro-batches each."""
    twice = ["trainer.rl.num_iterations=2", "trainer.rl.micro_batch_size=4", "trainer.rl.updates=4"]
    run, _, ledger = train(short(tmp_path, *twice, "evaluation.every=2"), tiny_folder, mini)
    counts = ledger.counts
    assert counts["completions"] == 16 and counts["prompts"] == 4
    assert counts["trained_tokens"] == 2 * counts["generated_tokens"] > 0
    assert 0 < counts["evaluation_tokens"] <= 2 * 2 * 24  # two evaluations of two lists
    seconds = ledger.totals()["seconds"]
    total = seconds.pop("total")
    assert all(value > 0 for value in seconds.values()) and sum(seconds.values()) <= total


def test_sft_trains_on_the_tokens_of_its_demonstrations(mini: RankedListDataset, tiny_folder, tmp_path):
    """Ten updates of four use each of the forty demonstrations once."""
    sft = ["updates=10", "batch_size=4", "micro_batch_size=2", "max_length=256", "save_every=100"]
    config = composed(*SMALL, *(f"trainer.sft.{each}" for each in sft), f"runs_dir={tmp_path}")
    run, (tokenizer, _), ledger = locate(config, "sft"), load(tiny_folder), Ledger()
    records, recording = mini.splits["sft"], make_recording(config, run, ledger=ledger)
    train_sft(config, recording, tiny_folder, tokenizer, records, Progress("", 10, file=None, show=False))
    assert ledger.counts["trained_tokens"] == sum(
        len(demonstration_tokens(record, tokenizer, 256)[1]) for record in records
    )
    assert ledger.counts["prompts"] == 40


def test_the_processor_has_a_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nprocessor\t: 1\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 3 GHz"


@pytest.mark.parametrize("share", ["always", "never"])
def test_operations_of_a_training_do_not_depend_on_how_prompts_are_forwarded(share, mini, tiny_folder, tmp_path):
    """Both paths need the same work. A group is never cut into two micro-batches here."""
    config = short(tmp_path, "algorithm=grpo", "trainer.rl.num_iterations=1", f"trainer.share_prompts={share}")
    _, _, spent = train(config, tiny_folder, mini)
    counts, operations = spent.counts, spent.operations
    assert counts["reference_tokens"] == counts["generated_tokens"] == counts["trained_tokens"] > 0
    assert operations["rollout"] == operations["reference"] == operations["update"] / 3 > 0
    assert operations["evaluation"] > 0

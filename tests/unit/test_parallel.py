"""Distribution over processes, tested in one process; tests/integration/test_many_processes.py uses two."""

import pytest
import torch
from trl import SFTConfig

from rlbench.config.schema import Config
from rlbench.running.checks import check_config
from rlbench.runs import processes
from rlbench.runs.claiming import claim
from rlbench.runs.directory import FAILED, locate
from rlbench.training.parallel import PaddedSampler, deepspeed_config, on_each, parallel_arguments
from tests.conftest import composed

STRATEGIES = ("ddp", "fsdp2", "deepspeed")


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize(("batch", "micro"), [(64, 64), (64, 8), (384, 8), (32, 32)])
def test_an_update_has_the_same_rows_on_any_number(batch, micro, count):
    at_once, accumulation = on_each(batch, micro, count)
    assert at_once * accumulation * count == batch and at_once <= micro


@pytest.mark.parametrize("trainer", ["default", "ddp", "fsdp2"])
@pytest.mark.parametrize("model", ["tiny", "smollm2_135m"])
def test_settings_of_a_pair_hold_with_every_strategy(trainer, model):
    config = composed(f"trainer={trainer}", f"model={model}")
    assert check_config(config, 2) == [] == check_config(config, 8)
    plain = composed(f"model={model}")
    assert (config.trainer.sft, config.trainer.rl) == (plain.trainer.sft, plain.trainer.rl)


def test_the_spread_is_no_part_of_the_identity():
    plain = composed()
    for strategy in STRATEGIES:
        spread = composed(f"trainer={strategy}", "trainer.parallel.cpu_offload=true")
        assert spread.trainer.parallel.strategy == strategy
        for stage in ("zero_shot", "sft", "rl"):
            assert locate(spread, stage).root == locate(plain, stage).root


@pytest.mark.parametrize(
    ("overrides", "count", "problem"),
    [
        (["trainer=fsdp2"], 1, "shards over several processes, but there is only one"),
        (["trainer.parallel.strategy=fsdp"], 2, "Did you mean 'fsdp2'"),
        (["trainer=ddp", "trainer.parallel.cpu_offload=true"], 2, "cpu_offload = True has no effect"),
        (["trainer=deepspeed", "trainer.parallel.zero_stage=3", "algorithm=humanline"], 2, "sync_every = 1"),
        (["trainer.parallel.zero_stage=4"], 2, "zero_stage = 4 must lie in [1, 3]"),
        (["trainer.rl.completions_per_update=72"], 7, "completions_per_update = 72 is not a multiple"),
        (["trainer.sft.batch_size=36", "trainer.sft.micro_batch_size=12"], 2, "batch_size = 36 is not a multiple"),
    ],
)
def test_what_cannot_be_spread_is_refused(overrides, count, problem):
    assert any(problem in said for said in check_config(composed(*overrides), count))


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (said,) = check_config(composed("trainer=deepspeed"), 2)
    assert "requirements-deepspeed.txt" in said


def spread(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Return the arguments that transformers gets with two processes."""
    with monkeypatch.context() as two:
        two.setenv("WORLD_SIZE", "2")
        return parallel_arguments(config)


def test_transformers_takes_the_arguments(monkeypatch, tmp_path):
    config = composed("trainer=fsdp2", "trainer.gradient_checkpointing=true", "trainer.parallel.cpu_offload=true")
    assert parallel_arguments(config) == {}
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **spread(config, monkeypatch))
    assert args.fsdp is True and not args.gradient_checkpointing
    plugin = args.fsdp_plugin_args
    assert plugin["fsdp_version"] == 2 and plugin["cpu_offload"] and plugin["activation_checkpointing"]
    assert plugin["reshard_after_forward"] and plugin["state_dict_type"] == "FULL_STATE_DICT"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_takes_its_config(stage, monkeypatch, tmp_path):
    """Needs deepspeed: `pip install -r requirements-deepspeed.txt -c constraints.txt`."""
    pytest.importorskip("deepspeed")
    config = composed("trainer=deepspeed", f"trainer.parallel.zero_stage={stage}", "trainer.parallel.cpu_offload=true")
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **spread(config, monkeypatch))
    assert args.deepspeed_plugin.zero_stage == stage
    assert args.hf_deepspeed_config.is_offload() and args.hf_deepspeed_config.is_zero3() == (stage == 3)


def test_deepspeed_config_gathers_weights_for_saving():
    zero = deepspeed_config(composed("trainer.parallel.zero_stage=3", "trainer.parallel.cpu_offload=true"))
    assert zero["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    assert zero["zero_optimization"]["offload_param"] == {"device": "cpu"}
    plain = deepspeed_config(composed("trainer=deepspeed"))
    assert plain["zero_optimization"] == {"stage": 2}


def test_an_epoch_ends_with_blank_rows():
    torch.manual_seed(0)  # the sampler's order depends on the process's seed
    sampler = PaddedSampler(5, 8)
    first = list(sampler)
    assert sorted(first[:5]) == [0, 1, 2, 3, 4] and first[5:] == [5, 6, 7] and len(sampler) == 8
    sampler.set_epoch(0)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}, "starts one process and ignores --num_processes"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "trainer=fsdp2"),
        ({"WORLD_SIZE": "2"}, None),
        ({}, None),
    ],
)
def test_how_the_processes_were_started(environment, problem, monkeypatch):
    for name in ("ACCELERATE_USE_CPU", "MASTER_PORT", "WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = processes.check_launch()
    assert problem in said[0] if problem else said == []


def test_a_checkpoint_of_another_number_is_refused(tmp_path):
    config = composed(f"runs_dir={tmp_path}")
    run = locate(config, "rl")
    assert processes.check_resume(run, {"processes": 1, "strategy": None}, config) == []
    assert processes.check_resume(run, {}, config) == []  # of one process, made before the number was recorded
    (said,) = processes.check_resume(run, {"processes": 4, "strategy": "fsdp2"}, config)
    assert "4 processes (fsdp2)" in said and "one process" in said and str(run.checkpoints) in said


def test_the_reason_of_the_process_that_failed_first_stays(tmp_path):
    config = composed(f"runs_dir={tmp_path}")
    run = locate(config, "rl")
    with pytest.raises(RuntimeError), claim(run, config):
        run.set_status(FAILED, "process 1: ValueError: planted")
        raise RuntimeError("Connection closed by peer")
    assert (run.root / "STATUS").read_text() == "failed\nprocess 1: ValueError: planted\n"


def test_alone_everything_is_done_here():
    assert processes.on_main(lambda: 3) == processes.main_first(lambda: 3) == 3
    assert processes.gather("x") == ["x"] and processes.is_main() and processes.count() == 1

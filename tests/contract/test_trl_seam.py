"""The seam to TRL: what the trainer's overrides rely on. Check it here before pinning a new TRL."""

import inspect
from importlib.metadata import version

from trl import GRPOTrainer

from rlbench.training.trainer import RankedListTrainer
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_trainer


def test_version_is_the_pinned_one():
    assert version("trl") == "1.16.0"


def test_signatures():
    def parameters(name):
        return list(inspect.signature(getattr(GRPOTrainer, name)).parameters)

    assert parameters("_calculate_rewards") == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters("_generate_and_score_completions") == ["self", "inputs"]
    assert parameters("_compute_loss") == ["self", "model", "inputs"]
    assert parameters("_generate") == ["self", "prompts"]
    assert parameters("_save_checkpoint") == ["self", "model", "trial"]
    assert parameters("_get_grad_norm") == ["self", "model", "grad_norm"]
    assert parameters("_get_per_token_logps_and_entropies")[1:5] == [
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
    ]


def test_only_the_seam_is_overridden():
    overridden = {name for name in vars(RankedListTrainer) if name in dir(GRPOTrainer) and not name.startswith("__")}
    seam = {"_calculate_rewards", "_generate_single_turn", "_generate_and_score_completions", "_compute_loss"}
    seam |= {"_generate"}  # timed, otherwise unchanged
    seam |= {"_get_per_token_logps_and_entropies"}  # forwards a prompt once for all its completions
    seam |= {"_prepare_inputs"}  # keeps the completions of a prompt together
    seam |= {"_get_train_sampler"}  # its generator is moved to the position of the checkpoint
    assert overridden - {"_tag_names"} <= seam | {name for name in overridden if name.startswith("_abc")}
    assert seam <= overridden


def test_batch_keys(mini, tiny_folder, tmp_path):
    config = composed(
        *SMALL,
        "trainer.rl.completions_per_update=8",
        "trainer.rl.group_size=4",
        "trainer.rl.micro_batch_size=8",
        "generation.max_new_tokens=12",
    )
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(batch)
    shape = output["completion_ids"].shape
    for key in ("completion_mask", "old_per_token_logps", "ref_per_token_logps", "advantages", "unit_ids"):
        assert output[key].shape == shape, key
    assert output["num_items_in_batch"] == output["completion_mask"].sum()
    assert output["prompt_ids"].shape == output["prompt_mask"].shape
    assert not output["unit_ids"].requires_grad and output["unit_ids"].max() < trainer.objective.units.count
    assert not output["advantages"][output["completion_mask"] == 0].any()

"""The seam to TRL: what the trainer's three overrides rely on. A new TRL must be checked here before it is pinned."""

import inspect
from importlib.metadata import version

from trl import GRPOTrainer

from rlbench.data.facts import film_facts
from rlbench.lists import ListReader
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.objective import Objective
from rlbench.relevance import make_judge
from rlbench.rewards.scorer import ListScorer
from rlbench.stages.evaluate import eos_ids
from rlbench.stages.rl import prompt_dataset, trl_arguments
from rlbench.trainer import RankedListTrainer
from tests.conftest import SMALL, composed


def test_version_is_the_pinned_one():
    assert version("trl") == "1.16.0"


def test_signatures():
    def parameters(name):
        return list(inspect.signature(getattr(GRPOTrainer, name)).parameters)

    assert parameters("_calculate_rewards") == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters("_generate_and_score_completions") == ["self", "inputs"]
    assert parameters("_compute_loss") == ["self", "model", "inputs"]
    assert parameters("_get_per_token_logps_and_entropies")[1:5] == [
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
    ]


def test_only_the_seam_is_overridden():
    overridden = {name for name in vars(RankedListTrainer) if name in dir(GRPOTrainer) and not name.startswith("__")}
    seam = {"_calculate_rewards", "_generate_and_score_completions", "_compute_loss"}
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
    tokenizer, model = load_tokenizer(tiny_folder), load_model(tiny_folder, "float32")
    reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(model, tokenizer))
    judge = make_judge(config.matching, mini.catalog, config.dataset.list_length)
    trainer = RankedListTrainer(
        objective=Objective(config.algorithm, config.reward, config.dataset.list_length),
        scorer=ListScorer(reader, judge, film_facts(mini, judge.catalog), config.reward),
        model=model,
        args=trl_arguments(config, tmp_path),
        train_dataset=prompt_dataset(mini.splits["train"]),
        processing_class=tokenizer,
    )
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(batch)
    shape = output["completion_ids"].shape
    for key in ("completion_mask", "old_per_token_logps", "ref_per_token_logps", "advantages", "unit_ids"):
        assert output[key].shape == shape, key
    assert output["num_items_in_batch"] == output["completion_mask"].sum()
    assert output["prompt_ids"].shape == output["prompt_mask"].shape
    assert not output["unit_ids"].requires_grad and output["unit_ids"].max() < reader.units.count
    assert not output["advantages"][output["completion_mask"] == 0].any()

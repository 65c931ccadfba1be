"""Models of a user's own: the policy of a first update is its reference, and the one that drew the lists."""

import pytest
from datasets import Dataset
from trl import GRPOConfig

import rlbench
from rlbench.models.dropout import without_dropout
from rlbench.models.loading import load_model, load_tokenizer
from tests.conftest import SMALL, composed
from tests.helpers_models import WITHOUT_DROPOUT, save_model
from tests.helpers_training import make_trainer

SHORT = [
    *SMALL,
    "algorithm=rank_grpo",
    "algorithm.layout=published",  # so that an untrained model's lists have ranks
    "algorithm.kl.beta=0.1",
    "trainer.rl.updates=2",
    "trainer.rl.completions_per_update=16",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=16",
    "trainer.rl.num_iterations=2",
    "trainer.rl.learning_rate=1e-30",  # no weight changes
    "generation.max_new_tokens=16",
    "+reward.terms.tokens={weight:1.0,normaliser:16.0}",  # without hits, token counts distinguish the lists
]
FAMILIES = ["llama", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("opt", "bloom", "falcon"))]
"""Rotary angles, learnt positions, the same from the mask, and ALiBi."""


@pytest.mark.parametrize("share_prompts", ["auto", "never"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_unchanged_policy_is_its_reference_and_its_past(family, share_prompts, mini, tiny_folder, tmp_path):
    """With dropout in its files, and prompts of different lengths, before which there is padding."""
    rates = dict.fromkeys(WITHOUT_DROPOUT, 0.2)
    folder = save_model(tmp_path / "model", family, load_tokenizer(tiny_folder), **rates)
    model = without_dropout(load_model(folder, "float32"))
    config = composed(*SHORT, f"trainer.share_prompts={share_prompts}")
    trainer = make_trainer(config, mini, load_tokenizer(folder), model, tmp_path / "out")
    assert len({len(trainer.prompt_ids([{"prompt": record.prompt}])[0]) for record in mini.splits["train"]}) > 1
    trainer.train()
    for name in ("kl", "max_abs_log_ratio"):
        found = [row[name] for row in trainer.state.log_history if name in row]
        assert len(found) == 2 and max(map(abs, found)) < 1e-5, (name, found)


def test_trl_trainer_counts_positions_like_its_reference(tiny_folder, tmp_path):
    """GPT-2, with prompts of different lengths. TRL alone counts the padding."""
    folder = save_model(tmp_path / "model", "gpt2", load_tokenizer(tiny_folder))
    words = ["films", "films like Heat", "films like Heat and Alien", "old films"]
    sizes = {"per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 8, "max_steps": 1}
    quiet = {"save_strategy": "no", "report_to": "none", "logging_steps": 1, "use_cpu": True, "bf16": False}
    trainer = rlbench.trl_trainer(
        rlbench.objective("grpo", kl={"beta": 0.1}),
        model=str(folder),
        train_dataset=Dataset.from_list([{"prompt": text} for text in words]),
        reward_funcs=lambda completion_ids, **_: [float(ids[0]) for ids in completion_ids],
        args=GRPOConfig(str(tmp_path / "out"), learning_rate=1e-30, **sizes, **quiet),
    )
    trainer.train()
    (kl,) = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert abs(kl) < 1e-5

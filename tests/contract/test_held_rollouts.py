"""Training on rollouts that are held to the catalogue: ratios, KL and gradients are those of the held policy."""

import pytest
import torch

from rlbench.lists.entries import parse_text
from tests.conftest import SMALL, composed
from tests.contract.test_every_algorithm import OTHER_REWARD
from tests.contract.test_shared_passes import SHORT, check_passes_are_equal
from tests.contract.test_shared_passes import trainer_of as made
from tests.helpers_models import double_precision, only_float64

HELD = ["generation.constraint=catalogue", "generation.exclude=[repeats,seen]", "dataset.list_length=3"]
HELD += ["dataset.cutoffs=[3]", "evaluation.metric=ndcg@3", "generation.max_new_tokens=60", "algorithm.kl.beta=0.05"]


def trainer_of(name, mini, folder, output, *settings):
    config = composed(*SMALL, f"algorithm={name}", *SHORT, *OTHER_REWARD, *HELD, *settings)
    return made(config, mini, folder, output, "float64", ends_early=False)


@pytest.mark.parametrize("name", ["grpo", "rank_grpo", "gspo", "uniapl"])
def test_losses_are_those_of_the_plain_pass_over_all_logits(name, mini, tiny_folder, tmp_path, monkeypatch):
    """The plain pass masks all logits before a softmax, and autograd does the rest."""
    with double_precision():
        check_passes_are_equal(trainer_of(name, mini, tiny_folder, tmp_path), monkeypatch)


def test_rollouts_and_their_log_probabilities(mini, tiny_folder, tmp_path, monkeypatch):
    with double_precision():
        trainer = trainer_of("rank_grpo", mini, tiny_folder, tmp_path)
        only_float64(monkeypatch)
        inputs = next(iter(trainer.get_train_dataloader()))
        batch = trainer._generate_and_score_completions(inputs)
    reader, mask = trainer.scorer.reader, batch["completion_mask"].bool()
    texts = reader.decode([ids[kept].tolist() for ids, kept in zip(batch["completion_ids"], mask, strict=True)])
    for text, row in zip(texts, inputs, strict=True):
        films = parse_text(text).items
        assert text.split("\n") == [f"{title} ({year})" for title, year in films]
        assert len(set(films)) == 3 and set(films) <= set(mini.catalog.items)
        assert not {title for title, _ in films} & set(row["seen_titles"])
    # The slow reference: all logits, the options of a walk in text, softmax.
    with torch.no_grad():
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        logits = trainer.model(input_ids=ids, attention_mask=attention).logits[:, -mask.size(1) - 1 : -1]
    walk = trainer.constraint.start(len(inputs), trainer.constraint.excluded([r["seen_titles"] for r in inputs]), "cpu")
    for step in range(mask.size(1)):
        allowed = walk.allowed(logits.size(2))
        logs = logits[:, step].masked_fill(~allowed, -torch.inf).log_softmax(1)
        there = mask[:, step]
        chosen = torch.where(there, batch["completion_ids"][:, step], reader.eos_token_ids[0])
        expected = logs.gather(1, chosen[:, None]).squeeze(1)[there]
        for name in ("old_per_token_logps", "ref_per_token_logps"):  # at the first rollout, all three policies are one
            torch.testing.assert_close(batch[name][there, step], expected, rtol=1e-9, atol=1e-10)
        walk.place = torch.where(there, walk.place, 0)
        walk.advance(chosen)

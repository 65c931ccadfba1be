"""Random streams: what each depends on, and that they are independent."""

import torch

from rlbench.base.seeding import demonstration_order, evaluation_stream, order, stream_seed
from rlbench.evaluation.evaluate import Sampling, evaluate
from rlbench.training.rl import make_demonstrations, updates_of_an_epoch
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_criteria, make_trainer


def test_evaluation_and_demonstrations_take_nothing_from_the_rollout_stream(mini, tiny_folder):
    config = composed(
        *SMALL,
        "+algorithm.regularisers.sft=0.1",
        "generation.max_new_tokens=8",
        "evaluation.samples=2",
        "evaluation.pass_at=[1]",
    )
    tokenizer, model = load(tiny_folder)
    criteria = make_criteria(config, mini)
    demonstrations = make_demonstrations(config, tokenizer, mini.splits["sft"])
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    lists = [
        evaluate(model, tokenizer, mini.splits["test"], criteria, config, sampling=Sampling(2, seed))
        for seed in (0, 0, 1)
    ]
    demonstrations.batch(24, 8, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    texts = [result.samples["text"].tolist() for result in lists]
    assert texts[0] == texts[1] != texts[2]  # its own stream, restarted each time


def test_rollouts_start_from_the_seed(mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "seed=11", "trainer.rl.completions_per_update=8")
    make_trainer(config, mini, *load(tiny_folder), tmp_path)
    assert torch.initial_seed() == 11


def test_streams_of_numbers_are_what_they_were():
    """Recorded values, because results of earlier runs depend on them."""
    assert demonstration_order(3, 2, 8) == [2, 3, 5, 7, 4, 0, 6, 1]
    with evaluation_stream(5):
        assert torch.randint(1000, (4,)).tolist() == [411, 814, 767, 885]


def test_every_number_of_a_stream_matters():
    numbers = [(0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2), (0, 1), (2, 1, 0)]
    assert len({stream_seed(*of_one) for of_one in numbers}) == len(numbers)
    assert len({tuple(order(20, *of_one)) for of_one in numbers}) == len(numbers)
    assert sorted(order(20, 0, 1, 2)) == list(range(20)) and order(20, 0, 1, 2) == order(20, 0, 1, 2)


def test_prompts_of_a_resumed_run_are_in_the_order_of_the_epoch_that_it_is_in(mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "trainer.rl.completions_per_update=8")
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    sampler = trainer._get_train_sampler()
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    for done in range(3):
        trainer.epochs_done = done
        assert list(trainer._get_train_sampler()) == epochs[done]


def test_an_epoch_of_rollouts_has_more_updates_where_rollouts_are_used_twice():
    once, twice = (
        composed("trainer.rl.completions_per_update=16", "trainer.rl.group_size=4", f"trainer.rl.num_iterations={mu}")
        for mu in (1, 2)
    )
    # Four prompts per rollout: 40 prompts make ten rollouts, and three left over make none.
    assert updates_of_an_epoch(once, 40) == updates_of_an_epoch(once, 43) == 10
    assert updates_of_an_epoch(twice, 40) == updates_of_an_epoch(twice, 43) == 20

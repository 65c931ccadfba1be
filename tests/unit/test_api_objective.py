"""`rlbench.objective` on a user's tensors: the trainer's loss, every method, and errors that name the argument."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

import rlbench
from rlbench.api.objectives import MethodObjective
from rlbench.base.program import CONF
from rlbench.config.schema import POLICY_OPTIMISATION, AlgorithmConfig
from rlbench.objective import Objective
from rlbench.running.cli import methods
from tests.conftest import SMALL, composed
from tests.helpers_parity import HashScorer
from tests.helpers_training import load, make_trainer

B, T, N = 8, 14, 4
EXTRAS = {
    "entropy": (B, T),
    "top_p_entropy": (B, T),
    "mean_logps": (B, T),
    "old_mean_logps": (B, T),
    "old_square_sum": (B, T),
    "divergence": (B, T),
    "hidden_states": (B, T, 6),
    "demonstration_logps": (3, 5),
    "demonstration_ref_logps": (3, 5),
}


@pytest.fixture
def given() -> dict:
    """Arguments of a loss that every method can read."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return -torch.rand(shape, generator=generator)

    hits = (drawn(B, N) > -0.4).float()
    mask = torch.ones(B, T, dtype=torch.long)
    mask[1, 10:] = 0
    return {
        "logps": drawn(B, T).requires_grad_(),
        "old_logps": drawn(B, T),
        "ref_logps": drawn(B, T),
        "hits": hits,
        "groups": 4,
        "ranks": torch.tensor([[-1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, -2]] * B),
        "mask": mask,
        "extras": {name: drawn(*shape).abs() for name, shape in EXTRAS.items()}
        | {name: drawn(3, 5) for name in ("demonstration_logps", "demonstration_ref_logps")}
        | {
            "demonstration_mask": torch.ones(3, 5),
            "n_truth": hits.sum(1).clamp(min=1),
            "prompts": torch.arange(B) // 4,
        },
    }


def method_of(name: str) -> MethodObjective:
    """The method as in its file; a composed config takes longer."""
    content = OmegaConf.load(CONF / "algorithm" / f"{name}.yaml")
    return MethodObjective(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AlgorithmConfig), content)))


@pytest.mark.parametrize("name", methods(POLICY_OPTIMISATION))
def test_every_method_has_a_loss(name, given):
    method = method_of(name)
    found = method.loss(**given)
    found.loss.backward()
    assert torch.isfinite(found.loss) and found.weights.any()
    torch.testing.assert_close(found.weights, -given["logps"].grad)
    for part in (found.advantages, found.ratios, found.weights):
        assert part.shape == (B, T) and not part.requires_grad and torch.isfinite(part).all()
    assert not found.advantages[1, 10:].any() and not found.weights[1, 10:].any()
    assert found.metrics["max_abs_log_ratio"] > 0


@pytest.mark.parametrize("name", methods(POLICY_OPTIMISATION))
def test_what_a_method_asks_for_is_enough(name, given):
    """A call with only what the errors ask for works."""
    method = method_of(name)
    asked = {"hits": given["hits"], "groups": 4, "mask": given["mask"], "extras": {}}
    for _ in range(6):
        try:
            assert torch.isfinite(method.loss(given["logps"], **asked).loss)
            return
        except rlbench.BadInput as error:
            for problem in error.problems:
                argument = problem.split(" ")[0]
                if argument.startswith("extras"):
                    key = argument.split("'")[1]
                    asked["extras"][key] = given["extras"][key]
                else:
                    asked[argument] = given[argument]
    raise AssertionError(asked.keys())


class Watched(Objective):
    """Keeps what the trainer gives to the objective and gets from it."""

    def unit_advantages(self, rollout, group_size):
        self.rewards = rollout.rewards
        return super().unit_advantages(rollout, group_size)

    def token_units(self, tokens):
        self.tokens = tokens
        return super().token_units(tokens)

    def token_advantages(self, spread, units):
        self.advantages = super().token_advantages(spread, units)
        return self.advantages

    def loss(self, inputs, window):
        found = super().loss(inputs, window)
        self.seen = getattr(self, "seen", []) + [(inputs, found[0].detach())]
        return found


@pytest.mark.parametrize("name", ["rank_grpo", "grpo", "gspo", "rlmlr", "dr_grpo"])
def test_it_is_the_loss_of_the_trainer(name, mini, tiny_folder, tmp_path):
    config = composed(
        *SMALL,
        f"algorithm={name}",
        "reward=relevance",
        "trainer.rl.updates=2",
        "trainer.rl.num_iterations=2",
        "trainer.rl.completions_per_update=8",
        "trainer.rl.group_size=4",
        "trainer.rl.micro_batch_size=8",
        "trainer.rl.learning_rate=1e-3",
        "generation.max_new_tokens=24",
    )
    tokenizer, model = load(tiny_folder, ends_early=True)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path, HashScorer)
    watched = trainer.objective = Watched(config.algorithm, config.reward, config.dataset.list_length)
    trainer.train()

    units, tokens, rewards = watched.units, watched.tokens, watched.rewards
    ranks = tokens.unit_ids.masked_fill(tokens.unit_ids == units.other, -1).masked_fill(tokens.is_eos, -2)
    method = MethodObjective(config.algorithm, config.reward.gamma, trainer.max_completion_length)
    credit = method.credit(
        rewards.gains[:, 0],
        rewards.hits,
        groups=4,
        ranks=ranks,
        mask=(tokens.unit_ids != units.padding).long(),
        extras={"n_truth": rewards.n_truth},
    )
    torch.testing.assert_close(credit.advantages, watched.advantages)
    assert credit.advantages.any()
    assert len(watched.seen) == 2
    for inputs, theirs in watched.seen:
        rows = trainer._order
        torch.testing.assert_close(credit[rows].advantages, inputs.advantages)
        ours = method.loss(inputs.logps.detach(), inputs.old_logps, inputs.ref_logps, credit=credit[rows])
        torch.testing.assert_close(ours.loss, theirs)
    assert not torch.equal(watched.seen[1][0].logps, watched.seen[1][0].old_logps)


def test_prompts_may_be_in_any_order(given):
    method = method_of("rank_grpo")
    shuffled = torch.tensor([3, 0, 6, 1, 5, 7, 2, 4])
    mixed = {name: value[shuffled] for name, value in given.items() if isinstance(value, torch.Tensor)}
    prompts = [f"prompt {row // 4}" == "prompt 0" for row in shuffled.tolist()]
    whole = method.loss(**given)
    other = method.loss(**mixed, groups=torch.tensor(prompts).long())
    torch.testing.assert_close(other.advantages, whole.advantages[shuffled])
    torch.testing.assert_close(other.loss, whole.loss)


def test_a_micro_batch_takes_part_of_the_credit(given):
    method = method_of("grpo")
    whole = method.loss(**given)
    half = slice(0, 3)
    part = method.loss(
        given["logps"][half], given["old_logps"][half], given["ref_logps"][half], credit=whole.credit[half]
    )
    torch.testing.assert_close(part.advantages, whole.advantages[half])


def test_a_reward_of_the_list_serves_methods_that_credit_lists(given):
    rewards = torch.arange(float(B))
    found = method_of("grpo").loss(given["logps"].detach(), groups=4, rewards=rewards, ref_logps=given["ref_logps"])
    assert (found.advantages[:, 0].diff()[:3] > 0).all() and not found.loss.requires_grad
    assert (found.ratios == 1).all()  # on-policy, because old_logps is left out


def test_settings_change_the_method():
    plain, wide = rlbench.objective("rank_grpo"), rlbench.objective(
        "rank_grpo", kl={"beta": 0}, options={"clip": {"low": 0.3, "high": 0.4}}, gamma=0.5
    )  # fmt: skip
    assert plain.algorithm.options["clip"] == {"low": 0.06, "high": 0.08} and plain.needs_reference
    assert wide.algorithm.options["clip"] == {"low": 0.3, "high": 0.4} and not wide.needs_reference
    assert replace(wide.algorithm, kl=plain.algorithm.kl, options=plain.algorithm.options) == plain.algorithm


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rlbench.objective("rank_gpro"), "algorithm=rank_gpro: .* Did you mean 'rank_grpo'?"),
        (lambda: rlbench.objective("grpo", kll={"beta": 0}), "no key 'kll'. Did you mean 'kl'?"),
        (lambda: rlbench.objective("grpo", options={"clip": {"lw": 0.1}}), r"options.clip.lw is unknown.*'low'"),
        (lambda: rlbench.objective("grpo", kl={"beta": -1}), "algorithm.kl.beta = -1.0 must be at least 0"),
        (lambda: rlbench.objective("grpo", kl={"beta": object}), "algorithm.kl.beta = .* has the type type"),
        (lambda: rlbench.objective("dpo"), "name = 'dpo' is a method of preference optimisation"),
        (lambda: rlbench.objective("grpo", gamma=2), r"gamma = 2 must lie in \[0, 1\]"),
    ],
)
def test_wrong_settings_are_named(call, said):
    with pytest.raises(rlbench.BadInput, match=said):
        call()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("rank_grpo", {"ref_logps": None}, "ref_logps is missing: rank_grpo"),
        ("rank_grpo", {"ranks": None}, "ranks is missing: rank_grpo"),
        ("rank_grpo", {"groups": None}, "groups is missing"),
        ("rank_grpo", {"groups": 3}, "groups = 3 must divide the number of completions, 8"),
        ("rank_grpo", {"groups": [0] * 5 + [1] * 3}, "equal sizes, but they have from 3 to 5"),
        ("rank_grpo", {"hits": None}, "rewards is missing"),
        ("rank_grpo", {"hits": None, "rewards": torch.ones(B)}, r"rewards is \(B,\), but rank_grpo credits ranks"),
        ("rank_grpo", {"hits": torch.full((B, N), torch.nan)}, "hits holds values that are not finite"),
        ("rank_grpo", {"hits": torch.ones(B)}, r"hits must be \(B, N\), but is \(8\)"),
        ("rank_grpo", {"rewards": torch.ones(B, 3)}, r"rewards is \(8, 3\), but hits is \(8, 4\)"),
        ("rank_grpo", {"mask": torch.ones(B, 3)}, r"must be \(8, 3\), but is \(8, 14\)|logps is"),
        ("rank_grpo", {"logps": [1]}, r"logps must be a tensor \(B, T\)"),
        ("rank_grpo", {"extras": {"entrop": torch.ones(B, T)}}, "extras has an unknown 'entrop'. .*'entropy'"),
        ("swap_rank", {"extras": {}}, r"extras\['n_truth'\] is missing: swap_rank"),
        ("siren", {"extras": {}}, r"extras\['top_p_entropy'\] is missing: siren"),
        ("top_entropy", {"extras": {}}, r"extras\['entropy'\] is missing: top_entropy"),
        ("verl_erank", {"extras": {}}, r"extras\['hidden_states'\] is missing"),
        ("rank_grpo", {"groups": ["a"] * 8}, r"groups = \['a', .* must be G, or the number"),
        ("rank_grpo", {"groups": dict.fromkeys(range(8)).keys()}, "groups = .* is a dict_keys, and its order counts"),
        ("rank_grpo", {"ranks": torch.full((B, T), -7)}, "ranks has -7: ranks are whole numbers from 0, -1 for text"),
        ("rank_grpo", {"ranks": torch.full((B, T), 0.5)}, "ranks has 0.5: ranks are whole numbers"),
        ("rank_grpo", {"hits": torch.full((B, N), 0.5)}, "hits must be 0 or 1, but has 0.5; give graded"),
        ("rank_grpo", {"hits": torch.full((B, N), -1)}, "hits must be 0 or 1, but has -1"),
        *(
            (
                "rank_grpo",
                {name: torch.full((B, T), value)},
                f"{name} has {said} at 108 of 108 tokens that are no",
            )
            for name in ("logps", "old_logps", "ref_logps")
            for value, said in ((0.002, "0.002"), (torch.nan, "nan"), (-torch.inf, "-inf"))
        ),
        ("grpo", {"extras": {"n_truth": torch.zeros(B)}}, r"extras\['n_truth'\] has 0: give how many"),
        (
            "unlikely",
            {"extras": {"demonstration_logps": torch.ones(3, 5)}},
            r"extras\['demonstration_logps'\] has 1 at 15 of 15",
        ),
    ],
)
def test_wrong_tensors_are_named(name, changes, said, given):
    with pytest.raises(rlbench.BadInput, match=said):
        method_of(name).loss(**(given | changes))


def test_padding_may_hold_anything_and_rounding_is_no_error(given):
    method, padding = method_of("rank_grpo"), given["mask"] == 0
    usual = method.loss(**given).loss
    for name, value in (("logps", 3.0), ("old_logps", 3.0), ("ref_logps", 3.0), ("ranks", -100)):
        assert method.loss(**given | {name: given[name].detach().masked_fill(padding, value)}).loss == usual
    method.loss(**given | {"logps": torch.full((B, T), 5e-4)})


def test_the_room_is_still_a_room():
    import rlbench.objective as room
    from rlbench.objective.pieces import credits

    assert room is rlbench.objective and "rank" in credits

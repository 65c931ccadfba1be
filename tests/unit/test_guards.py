"""Guards: what triggers each, that its message names key, value and remedy, and that the remedy works."""

import functools
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from rlbench.config.schema import POLICY_OPTIMISATION, AlgorithmConfig, Config, RewardConfig
from rlbench.lists.reader import UnitLayout
from rlbench.objective import Objective, guards
from rlbench.objective.guards import CAVEATS, REFUSALS, caveats, ratios_on_policy, refusals
from rlbench.objective.objective import Rollout
from rlbench.objective.pieces import ratios, surrogates
from rlbench.rewards.batch import FEATURES, RewardBatch
from rlbench.rewards.terms import TERMS
from rlbench.running.checks import check_config
from rlbench.running.cli import CONF, groups, methods
from tests.conftest import composed
from tests.helpers_losses import loss_inputs, on_policy

CLIP = ["algorithm.surrogate=clip", "algorithm.options.clip.low=0.2", "algorithm.options.clip.high=0.2"]
ALP = ["algorithm=grpo", "reward=alp"]
MANY = ["algorithm=grpo", "reward=guarded"]
MAX_RL = ["algorithm=max_rl"]
COLOCATE = "generation.engine=vllm_colocate"
BONUS = ["algorithm=verl_erank", "reward=guarded_gdpo"]

HELD = "generation.constraint=catalogue"
STOP = "generation.stop_after_list=true"
RANKS_ONLY = [f"algorithm.length_shaping.{key}" for key in ("rule=none", "early_stop=0", "overflow=0")]

composed_once = functools.cache(composed)


def command(*overrides: str) -> Config:
    """Faster `composed`, for overrides of algorithm, reward, generation keys and num_iterations."""
    plain, files = composed_once(), {"algorithm": "rank_grpo", "reward": "relevance"}
    files |= dict(override.split("=") for override in overrides if override.split("=")[0] in files)
    parts = {group: OmegaConf.load(CONF / group / f"{name}.yaml") for group, name in files.items()}
    changes = [override for override in overrides if override.split("=")[0] not in files]
    limit = {"generation": {"max_new_tokens": plain.generation.max_new_tokens}}
    merged = OmegaConf.merge(limit, parts, OmegaConf.from_dotlist(changes))
    iterations = OmegaConf.select(merged, "trainer.rl.num_iterations", default=plain.trainer.rl.num_iterations)
    chosen = OmegaConf.to_container(merged, resolve=True)
    return replace(
        plain,
        algorithm=OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AlgorithmConfig), chosen["algorithm"])),
        reward=OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RewardConfig), chosen["reward"])),
        trainer=replace(plain.trainer, rl=replace(plain.trainer.rl, num_iterations=iterations)),
        generation=OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(plain.generation), chosen["generation"])),
    )


REFUSED = {
    "ratio_without_effect": [
        (["algorithm=reinforce", "algorithm.ratio=sequence"], ["algorithm.ratio = 'sequence'", "'reinforce'"]),
        (["algorithm=vespo", "algorithm.ratio=rank"], ["algorithm.ratio = 'rank'", "'vespo'"]),
        (["algorithm=rover", "algorithm.ratio=segment"], ["algorithm.ratio = 'segment'", "'rover'"]),
    ],
    "sum_without_sequence_ratio": [
        (["algorithm=luspo", "algorithm.ratio=token"], ["aggregation = 'sequence_sum'", "algorithm.ratio = 'token'"]),
        (["algorithm=luspo", "algorithm.ratio=rank"], ["aggregation = 'sequence_sum'", "algorithm.ratio = 'rank'"]),
    ],
    "scale_that_cancels": [
        ([*ALP, "reward.terms.relevance.weight=0"], ["reward.terms.tokens.scaled_by = 'solve_rate'", "'group_std'"]),
        ([*ALP, "reward.combine=normalise_then_sum"], ["reward.terms.tokens.scaled_by", "'group_std'"]),
        (
            ["algorithm=gopo", "reward=power_mean", "reward.power=0", "reward.terms.ndcg.scaled_by=solve_rate"],
            ["reward.terms.ndcg.scaled_by", "'ordinal'"],
        ),
    ],
    "regression_with_kl": [
        (["algorithm=rover", "algorithm.kl.beta=0.01"], ["kl.beta = 0.01", "'rover'"]),
        (["algorithm=dro", "algorithm.kl.beta=0.01"], ["kl.beta = 0.01", "'dro'"]),
    ],
    "kl_without_gradient": [
        (["algorithm=grpo", "algorithm.kl.estimator=k1"], ["kl.estimator = 'k1'", "beta = 0.001", "k2 or k3"]),
    ],
    "kl_scale_without_kl": [
        (["algorithm=clpo_kl", "algorithm.kl.beta=0"], ["kl.scale = 'by_difficulty'", "algorithm.kl.beta = 0"]),
    ],
    "sync_without_reference": [
        (["algorithm=dapo", "algorithm.reference.sync_every=4"], ["reference.sync_every = 4", "no effect"]),
    ],
    "credit_that_reads_hits": [
        (["algorithm=shapley_rank", "reward=dcg"], ["algorithm.credit = 'shapley'", "reward.terms are dcg"]),
        (["algorithm=shapley_rank", "reward=exp_decay"], ["reward.terms are relevance", "reward.gamma is 0.5"]),
        (["algorithm=swap_rank", "reward=guarded"], ["algorithm.credit = 'swap'", "relevance, duplicate"]),
        (["algorithm=f_grpo", "reward.terms.length.weight=1"], ["algorithm.credit = 'two_phase'", "relevance, length"]),
    ],
    "negative_returns": [
        ([*MAX_RL, "reward=guarded"], ["baseline = 'max_rl'", "reward.terms.duplicate can be negative"]),
        ([*MAX_RL, "reward=asymmetric"], ["baseline = 'max_rl'", "reward.terms.verdict_cost can be negative"]),
        (
            ["algorithm=swap_rank", "algorithm.baseline=max_rl"],
            ["baseline = 'max_rl'", "algorithm.credit = 'swap' gives negative returns"],
        ),
    ],
    "left_out_tokens": [
        (["algorithm=grpo", "algorithm.regularisers.ntp=0.1"], ["regularisers.ntp", "entropy_quantile = 1"]),
    ],
    "bonus_for_each_term": [
        (BONUS, ["baseline = 'effective_rank'", "combine = 'normalise_then_sum'"]),
        (["algorithm=spo", "reward=guarded_gdpo"], ["baseline = 'value_tracker'", "combine = 'normalise_then_sum'"]),
    ],
    "baseline_of_a_credit": [
        (["algorithm=hipo", "algorithm.credit=rank"], ["baseline = 'by_mode'", "credit = 'rank'"])
    ],
    "correction_of_lists": [
        (["algorithm=vespo", COLOCATE], ["generation.vllm.correction = 'sequence_mask'", "surrogate = 'vespo'"]),
    ],
    "stop_before_what_counts": [
        (
            [STOP, "algorithm=rank_grpo"],
            ["generation.stop_after_list = true", "algorithm.length_shaping.rule = 'paper'"],
        ),
        ([STOP, "algorithm=grpo"], ["algorithm.credit = 'sequence'", "EOS"]),
        ([STOP, *RANKS_ONLY, "reward.terms.length.weight=1"], ["reward term 'length'", "entry N"]),
    ],
    "scalars_of_held_rollouts": [
        ([HELD, "algorithm=siren"], ["generation.constraint = 'catalogue'", "top_p_entropy"]),
        ([HELD, "algorithm=rover"], ["generation.constraint = 'catalogue'", "mean_logps"]),
    ],
}
"""For each guard: overrides that it refuses, and the words its message must contain."""

ADVISED = {
    "ratio_without_effect": [["algorithm.ratio=token"], CLIP],
    "sum_without_sequence_ratio": [["algorithm.ratio=sequence"], ["algorithm.aggregation=constant"]],
    "scale_that_cancels": [["algorithm.baseline=group_mean"], ["algorithm.baseline=batch_std"], ["scaled_by"]],
    "regression_with_kl": [["algorithm.kl.beta=0"]],
    "kl_without_gradient": [
        ["algorithm.kl.importance_weighted=true"],
        ["algorithm.kl.estimator=k2"],
        ["algorithm.kl.estimator=k3"],
    ],
    "kl_scale_without_kl": [["algorithm.kl.scale=constant"]],
    "sync_without_reference": [["algorithm.kl.beta=0.001"], ["algorithm.reference.sync_every=0"]],
    "credit_that_reads_hits": [["reward=relevance"], ["algorithm.credit=rank"]],
    "negative_returns": [["algorithm.baseline=group_mean"]],
    "left_out_tokens": [["algorithm.entropy_quantile=0.2"]],
    "bonus_for_each_term": [["reward.combine=sum_then_normalise"]],
    "baseline_of_a_credit": [["algorithm.credit=mode_and_answer"], ["algorithm.baseline=group_std"]],
    "correction_of_lists": [["generation.vllm.correction=token_truncate"], ["generation.vllm.correction=token_mask"]],
    "stop_before_what_counts": [["generation.stop_after_list=false"]],
    "scalars_of_held_rollouts": [["generation.constraint=none"]],
}
"""For each guard: the overrides it advises. The message contains the last part of each key."""

CAUTIONED = {
    "reference_that_stays": (
        ["algorithm=humanline", "algorithm.reference.sync_every=0"],
        ["algorithm.surrogate = 'humanline'", "algorithm.reference.sync_every = 0"],
        ["algorithm.reference.sync_every=1"],
    ),
    "divided_centred_returns": (
        ["algorithm=rover", "algorithm.baseline=group_std"],
        ["algorithm.surrogate = 'rover'", "algorithm.baseline = 'group_std'"],
        ["algorithm.baseline=group_mean"],
    ),
    "corrected_truncation": (
        ["algorithm=grpo", COLOCATE, "generation.top_p=0.9"],
        ["generation.vllm.correction = 'sequence_mask'", "generation.top_p = 0.9"],
        ["generation.top_p=1"],
    ),
    "other_than_sampled": (
        ["algorithm=grpo", "generation.min_p=0.1", "generation.repetition_penalty=1.1"],
        ["generation.min_p = 0.1 and repetition_penalty = 1.1"],
        ["generation.min_p=0", "generation.repetition_penalty=1"],
    ),
}
"""For each caveat: overrides, words of the message, and advised overrides."""

CASES = [(name, overrides, named) for name, cases in REFUSED.items() for overrides, named in cases]
FOLLOWED = [
    (name, overrides, advice) for name, overrides, _ in CASES for advice in ADVISED[name] if advice != ["scaled_by"]
]


def without(overrides: list[str], advice: list[str]) -> list[str]:
    """Replace the overrides that an advice contradicts."""
    keys = {override.split("=")[0] for override in advice}
    if "reward" in keys:  # settings of the old reward do not apply to another one
        overrides = [override for override in overrides if not override.startswith("reward")]
    return [override for override in overrides if override.split("=")[0] not in keys] + advice


def test_a_command_line_is_composed():
    for guard in ("kl_without_gradient", "scale_that_cancels"):
        overrides = REFUSED[guard][0][0]
        assert composed(*overrides).reward == command(*overrides).reward
        assert replace(composed(*overrides), trainer=composed_once().trainer) == command(*overrides)
        assert check_config(composed(*overrides)) == [getattr(guards, guard)(command(*overrides))]


def test_rollouts_may_end_after_their_last_rank_if_nothing_reads_on():
    assert not refusals(command(STOP, *RANKS_ONLY)) and not refusals(command(STOP, *RANKS_ONLY, "reward=dcg"))
    assert "trains on whole lists" in refusals(composed("algorithm=dpo", STOP))[0]


def test_every_guard_has_a_case():
    assert [guard.__name__ for guard in REFUSALS] == list(REFUSED) == list(ADVISED)
    assert [guard.__name__ for guard in CAVEATS] == list(CAUTIONED)
    of_module = {
        name
        for name, value in vars(guards).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") in ("str", str)
    }
    assert {guard.__name__ for guard in (*REFUSALS, *CAVEATS)} == of_module  # the tuples contain every guard


@pytest.mark.parametrize(("name", "overrides", "named"), CASES)
def test_refused_with_key_value_and_advice(name, overrides, named):
    config = command(*overrides)
    (sentence,) = refusals(config)
    assert sentence == getattr(guards, name)(config)
    assert sentence in check_config(config)
    for words in named:
        assert words in sentence
    for advice in ADVISED[name]:
        last = advice[0].rsplit(".", 1)[-1]
        assert last.split("=")[-1] in sentence and last.split("=")[0] in sentence, last
    assert sentence[0].islower() and not sentence.endswith(".")


@pytest.mark.parametrize(("name", "overrides", "advice"), FOLLOWED)
def test_the_advice_leads_out(name, overrides, advice):
    assert not check_config(command(*without(overrides, advice)))


def test_without_the_scale_nothing_cancels():
    for overrides, _ in REFUSED["scale_that_cancels"]:
        config = command(*overrides)
        for term in config.reward.terms.values():
            term.pop("scaled_by", None)
        assert not refusals(config)


ALLOWED = {
    "ratio_without_effect": [
        ["algorithm=reinforce", "algorithm.ratio=none"],
        [
            "algorithm=reinforce",
            "algorithm.ratio=sequence",
            "algorithm.kl.beta=0.1",
            "algorithm.kl.importance_weighted=true",
        ],
    ],
    "sum_without_sequence_ratio": [
        ["algorithm=luspo", "algorithm.ratio=sequence_token"],
        ["algorithm=luspo", "algorithm.ratio=product"],
        ["algorithm=reinforce", "algorithm.aggregation=sequence_sum"],
    ],
    "scale_that_cancels": [
        ALP,
        ["algorithm=grpo", "reward=power_mean", "reward.terms.ndcg.scaled_by=solve_rate"],
        [*ALP, "reward.terms.relevance.weight=0", "reward.terms.tokens.weight=0"],
    ],
    "regression_with_kl": [["algorithm=rover"]],
    "kl_without_gradient": [["algorithm=dapo", "algorithm.kl.estimator=k1"]],
    "kl_scale_without_kl": [["algorithm=clpo_kl"]],
    "sync_without_reference": [
        ["algorithm=humanline", "algorithm.kl.beta=0"],
        ["algorithm=grpo", "algorithm.reference.sync_every=4"],
        ["algorithm=cmdp", "algorithm.reference.sync_every=4"],
    ],
    "credit_that_reads_hits": [["algorithm=shapley_rank", "reward.terms.relevance.weight=2"]],
    "negative_returns": [
        [*MAX_RL, "reward=dcg"],
        [*MAX_RL, "reward=guarded_gdpo"],  # each term is divided by its own mean, then weighted
        MANY,
    ],
    "left_out_tokens": [["algorithm=top_entropy", "algorithm.regularisers.ntp=0.1"]],
    "bonus_for_each_term": [["algorithm=grpo", "reward=guarded_gdpo"], ["algorithm=verl_erank", "reward=guarded"]],
    "baseline_of_a_credit": [["algorithm=hipo"], ["algorithm=grpo", "algorithm.credit=mode_and_answer"]],
    "correction_of_lists": [["algorithm=vespo"], ["algorithm=gspo", COLOCATE]],
    "stop_before_what_counts": [[STOP, *RANKS_ONLY], [STOP, *RANKS_ONLY, "reward=dcg"]],
    "scalars_of_held_rollouts": [[HELD, "algorithm=grpo"], ["algorithm=siren"]],
}
"""For each guard: valid settings close to those it refuses."""


@pytest.mark.parametrize(("name", "overrides"), [(name, case) for name, cases in ALLOWED.items() for case in cases])
def test_what_makes_sense_is_let_through(name, overrides):
    assert not getattr(guards, name)(command(*overrides))


def test_every_refusal_has_something_near_that_is_let_through():
    assert list(ALLOWED) == list(REFUSED)


@pytest.mark.parametrize("name", CAUTIONED)
def test_a_caveat_warns_and_refuses_nothing(name):
    overrides, named, advice = CAUTIONED[name]
    config = command(*overrides)
    assert not check_config(config)
    assert caveats([config, config]) == [getattr(guards, name)(config)]
    for words in (*named, *advice):
        assert words in caveats([config])[0]
    assert not caveats([command(*without(overrides, advice))])


@pytest.mark.parametrize("name", methods(POLICY_OPTIMISATION))
def test_no_method_with_its_defaults_is_refused_or_warned_of(name):
    config = command(f"algorithm={name}")
    assert refusals(config) == [] and caveats([config]) == []


@pytest.mark.parametrize("name", [name for name in groups()["reward"] if name != "spell"])
def test_no_reward_is_refused_with_the_usual_methods(name):
    for algorithm in ("grpo", "rank_grpo"):
        assert refusals(command(f"algorithm={algorithm}", f"reward={name}")) == []


def test_a_factor_of_the_whole_group_needs_a_method_that_does_not_divide_by_its_scale():
    (said,) = refusals(command("algorithm=grpo", "reward=spell"))
    assert "so it cancels; use algorithm.baseline=group_mean" in said
    assert refusals(command("algorithm=dr_grpo", "reward=spell")) == []


# What a sweep over ratio levels compares.


def swept(iterations: int, *levels: str, algorithm: str = "grpo") -> list:
    fixed = [f"algorithm={algorithm}", f"trainer.rl.num_iterations={iterations}"]
    return [command(*fixed, f"algorithm.ratio={level}") for level in levels]


def test_levels_of_ratio_on_policy():
    (sentence,) = caveats(swept(1, "token", "rank", "sequence", "rank"))
    assert "algorithm.ratio = token, rank, sequence" in sentence
    assert "trainer.rl.num_iterations = 1" in sentence and "trainer.rl.num_iterations=2" in sentence
    assert caveats(swept(2, "token", "rank", "sequence")) == []


def test_levels_that_are_not_compared():
    assert ratios_on_policy(swept(1, "token", "token")) == []
    assert ratios_on_policy(swept(1, "token") + swept(2, "rank", "sequence")) == []
    assert ratios_on_policy(swept(1, "token", "none", algorithm="reinforce")) == []
    methods = [command(f"algorithm={name}", "trainer.rl.num_iterations=1") for name in ("grpo", "rank_grpo")]
    assert "algorithm.ratio = token, rank" in ratios_on_policy(methods)[0]


@pytest.mark.parametrize("level", ratios)
def test_on_policy_every_ratio_is_one_and_no_bound_acts(level):
    """What the caveat says about on-policy ratios is true."""
    inputs = on_policy(loss_inputs())
    log_ratio = ratios[level].function(inputs)
    clipped = surrogates["clip"].function(inputs, log_ratio, low=1e-9, high=1e-9)
    assert not log_ratio.any() and not clipped.at_low.any() and not clipped.at_high.any()


# The refusals' statements about baselines are true.

N, G, P = 4, 3, 2


def advantages(config: Config, score: float = 0.0) -> torch.Tensor:
    """Return the advantages of random lists under the config's terms, with `score` to 1.5 `score` as list scores."""
    generator = torch.Generator().manual_seed(2)
    b, terms = G * P, config.reward.terms

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(b, *shape, generator=generator, dtype=torch.float64)

    low = torch.tensor([-1.0 if TERMS[name].signed else 0.0 for name in terms])[:, None]
    rewards = RewardBatch(
        gains=low + (1 - low) * drawn(len(terms), N) if not score else torch.zeros(b, len(terms), N),
        scores=score * (1 + drawn(len(terms)) / 2),
        hits=drawn(N).round(),
        n_truth=torch.full((b,), 3),
        present=torch.ones(b, N, dtype=torch.bool),
        totals=torch.zeros(b),
        success=torch.tensor([True, False, False, True, True, False]),
        features=torch.zeros(b, len(FEATURES)),
    )
    count = UnitLayout(N).count
    rollout = Rollout(rewards, torch.ones(b, count), torch.zeros(b, count), torch.zeros(b), 0.0)
    return Objective(config.algorithm, config.reward, N).unit_advantages(rollout, G)


def unscaled(config: Config) -> Config:
    terms = {name: {**term, "scaled_by": None} for name, term in config.reward.terms.items()}
    return replace(config, reward=replace(config.reward, terms=terms))


SCALED = [(overrides, True) for overrides, _ in REFUSED["scale_that_cancels"]]
SCALED += [(overrides, False) for overrides in ALLOWED["scale_that_cancels"][:2]]


@pytest.mark.parametrize(("overrides", "cancels"), SCALED)
def test_a_scale_is_refused_where_it_cancels(overrides, cancels):
    config = command(*overrides)
    assert bool(guards.scale_that_cancels(config)) == cancels
    scaled = advantages(config, score=4000.0)  # far above the constant in the denominators
    assert torch.allclose(scaled, advantages(unscaled(config), score=4000.0), atol=1e-4) == cancels
    assert scaled.abs().max() > 0.1


NEGATIVE = [(overrides, True) for overrides, _ in REFUSED["negative_returns"]]
NEGATIVE += [(overrides, False) for overrides in ALLOWED["negative_returns"]]


@pytest.mark.parametrize(("overrides", "negative"), NEGATIVE)
def test_returns_are_refused_where_they_may_be_negative(overrides, negative):
    config = command(*overrides)
    assert bool(guards.negative_returns(config)) == negative
    if negative:
        with pytest.raises(ValueError, match="needs non-negative returns"):
            advantages(config)
    else:
        assert advantages(config).abs().max() > 0.1

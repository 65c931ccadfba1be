"""Checks for combinations of settings that make no sense: the reason, and the nearest sensible setting.

A guard is a function of a configuration. It returns a sentence, or "" if it finds no problem. `REFUSALS` stop a run.
`CAVEATS` are printed and the run goes on, since such a combination may be what the user wants to measure. Guards use
facts of pieces, never names of methods, so they also hold for pieces from plugins.
"""

from collections.abc import Callable, Sequence

from rlbench.config import decoding
from rlbench.config import engines as rollouts
from rlbench.config.schema import AlgorithmConfig, Config
from rlbench.objective.pieces import OF_REFERENCE, Piece, baselines, choices, credits, regularisers, scalars, surrogates
from rlbench.rewards.terms import TERMS

Guard = Callable[[Config], str]


def _surrogate(config: Config) -> Piece:
    return surrogates[config.policy_optimisation.surrogate]


def _uses_ratio(config: Config) -> bool:
    kl = config.policy_optimisation.kl
    return _surrogate(config).facts["uses_ratio"] or (kl.beta > 0 and kl.importance_weighted)


def ratio_without_effect(config: Config) -> str:
    """A ratio that nothing uses."""
    algorithm = config.policy_optimisation
    if _uses_ratio(config) or algorithm.ratio in ("token", "none"):
        return ""
    return (
        f"algorithm.ratio = '{algorithm.ratio}' has no effect, because algorithm.surrogate = '{algorithm.surrogate}' "
        "does not use it; use algorithm.ratio=token, or a surrogate that uses the ratio (algorithm.surrogate=clip)"
    )


def sum_without_sequence_ratio(config: Config) -> str:
    """LUSPO's sum over tokens with a ratio over only part of the sequence."""
    algorithm = config.policy_optimisation
    if algorithm.aggregation != "sequence_sum" or not _uses_ratio(config):
        return ""
    if algorithm.ratio in ("sequence", "sequence_token", "product", "none"):
        return ""
    return (
        f"algorithm.aggregation = 'sequence_sum' with algorithm.ratio = '{algorithm.ratio}': the sum over tokens "
        "cancels the 1/length in a sequence ratio (LUSPO), but a token or rank ratio has no such factor, so long "
        "lists would weigh more; use algorithm.ratio=sequence, or algorithm.aggregation=constant for a sum without "
        "that weight"
    )


def scale_that_cancels(config: Config) -> str:
    """A factor shared by a prompt's whole group, under a baseline that divides by the group's scale."""
    baseline, reward = config.policy_optimisation.baseline, config.reward
    weighed = {name: term for name, term in reward.terms.items() if term["weight"]}
    scaled = [name for name, term in weighed.items() if term.get("scaled_by")]
    if baselines[baseline].facts["scale"] != "invariant" or not scaled:
        return ""
    one_by_one = reward.combine == "normalise_then_sum" or (reward.combine == "power_mean" and reward.power == 0)
    if not one_by_one and len(scaled) < len(weighed):
        return ""  # next to an unscaled term, the factor changes the balance between the two
    return (
        f"reward.terms.{scaled[0]}.scaled_by = '{weighed[scaled[0]]['scaled_by']}' is one number for the whole group "
        f"of a prompt, and algorithm.baseline = '{baseline}' divides by the scale of the group, so it cancels; use "
        "algorithm.baseline=group_mean or batch_std, or remove scaled_by"
    )


def regression_with_kl(config: Config) -> str:
    """ROVER with a KL term."""
    algorithm = config.policy_optimisation
    if not _surrogate(config).facts.get("regression") or algorithm.kl.beta == 0:
        return ""
    return (
        f"algorithm.kl.beta = {algorithm.kl.beta} with algorithm.surrogate = '{algorithm.surrogate}': this surrogate "
        "fits log-ratios to a target, and a KL term would shift its solution; use algorithm.kl.beta=0"
    )


def kl_without_gradient(config: Config) -> str:
    """k1 as a loss."""
    kl = config.policy_optimisation.kl
    if kl.beta == 0 or kl.estimator != "k1" or kl.importance_weighted:
        return ""
    return (
        f"algorithm.kl.estimator = 'k1' with beta = {kl.beta}: its expected gradient is zero, so it only adds noise; "
        "use algorithm.kl.importance_weighted=true, or algorithm.kl.estimator=k2 or k3"
    )


def kl_scale_without_kl(config: Config) -> str:
    """A factor on a KL term with coefficient 0."""
    kl = config.policy_optimisation.kl
    if kl.beta > 0 or kl.scale == "constant":
        return ""
    return (
        f"algorithm.kl.scale = '{kl.scale}' has no effect with algorithm.kl.beta = 0; use algorithm.kl.scale=constant"
    )


def sync_without_reference(config: Config) -> str:
    """A reference that follows the policy but is never used."""
    algorithm = config.policy_optimisation
    needs = {need for place, name in choices(algorithm) for need in place[name].needs}
    compares = _surrogate(config).facts["needs_reference"] or OF_REFERENCE & needs
    if not algorithm.reference.sync_every or algorithm.kl.beta > 0 or compares:
        return ""
    return (
        f"algorithm.reference.sync_every = {algorithm.reference.sync_every} has no effect, because nothing uses the "
        "reference; use algorithm.kl.beta=0.001, or sync_every=0"
    )


def credit_that_reads_hits(config: Config) -> str:
    """Credit based on relevance alone, under a reward with other terms."""
    credit, terms = config.policy_optimisation.credit, config.reward.terms
    plain = list(terms) == ["relevance"] and config.reward.gamma == 0
    if credits[credit].facts["reads"] == "gains" or plain:
        return ""
    return (
        f"algorithm.credit = '{credit}' depends only on which ranks are relevant, not on gains, so it needs the term "
        f"relevance alone and reward.gamma = 0; here reward.terms are {', '.join(terms)} and reward.gamma is "
        f"{config.reward.gamma}; use reward=relevance, or algorithm.credit=rank"
    )


def negative_returns(config: Config) -> str:
    """Division by a mean return that may be negative."""
    baseline, credit, reward = config.policy_optimisation.baseline, config.policy_optimisation.credit, config.reward
    if not baselines[baseline].facts.get("needs_positive"):
        return ""
    weighted = reward.combine != "normalise_then_sum"  # else the baseline sees each term before its weight
    negative = [n for n, term in reward.terms.items() if TERMS[n].signed or (weighted and term["weight"] < 0)]
    if negative:
        source = f"reward.terms.{negative[0]} can be negative"
    elif credits[credit].facts.get("signed"):
        source = f"algorithm.credit = '{credit}' gives negative returns"
    else:
        return ""
    return (
        f"algorithm.baseline = '{baseline}' divides by the mean return, and {source}; use algorithm.baseline=group_mean"
    )


def left_out_tokens(config: Config) -> str:
    """A regulariser on the tokens that the surrogate leaves out, when it leaves out none."""
    algorithm = config.policy_optimisation
    about = [n for n, weight in algorithm.regularisers.items() if weight and regularisers[n].facts.get("leaves_out")]
    if not about or algorithm.entropy_quantile < 1:
        return ""
    return (
        f"algorithm.regularisers.{about[0]} acts on the tokens that entropy_quantile leaves out, but "
        "algorithm.entropy_quantile = 1 leaves out none; use algorithm.entropy_quantile=0.2"
    )


def bonus_for_each_term(config: Config) -> str:
    """A baseline with a bonus or a memory, which would act once for each normalised term."""
    baseline = config.policy_optimisation.baseline
    if config.reward.combine != "normalise_then_sum" or not baselines[baseline].facts.get("once"):
        return ""
    return (
        f"algorithm.baseline = '{baseline}' adds a bonus to the returns or remembers them, but reward.combine = "
        "'normalise_then_sum' normalises each term, so it would do so once per term; use "
        "reward.combine=sum_then_normalise"
    )


def baseline_of_a_credit(config: Config) -> str:
    """A baseline that reads the columns of one credit, with another."""
    algorithm = config.policy_optimisation
    wanted = baselines[algorithm.baseline].facts.get("credit")
    if wanted in (None, algorithm.credit):
        return ""
    return (
        f"algorithm.baseline = '{algorithm.baseline}' reads the columns of algorithm.credit = '{wanted}', but "
        f"algorithm.credit = '{algorithm.credit}'; use algorithm.credit={wanted}, or algorithm.baseline=group_std"
    )


def reference_that_stays(config: Config) -> str:
    """Humanline's clamp around a fixed SFT policy."""
    algorithm = config.policy_optimisation
    if not _surrogate(config).facts["needs_reference"] or algorithm.reference.sync_every:
        return ""
    return (
        f"algorithm.surrogate = '{algorithm.surrogate}' is designed for a reference that follows the policy; "
        "algorithm.reference.sync_every = 0 keeps the policy near the SFT policy; use "
        "algorithm.reference.sync_every=1"
    )


def divided_centred_returns(config: Config) -> str:
    """ROVER's target, divided by a standard deviation."""
    algorithm = config.policy_optimisation
    if not _surrogate(config).facts.get("regression") or baselines[algorithm.baseline].facts["scale"] != "invariant":
        return ""
    return (
        f"algorithm.surrogate = '{algorithm.surrogate}' is designed for centred returns, but algorithm.baseline = "
        f"'{algorithm.baseline}' also divides them by their scale; use algorithm.baseline=group_mean"
    )


def correction_of_lists(config: Config) -> str:
    """VESPO's list weight, corrected list by list."""
    correction = rollouts.correction_of(config.generation)
    if not correction.startswith("sequence") or not _surrogate(config).facts.get("corrects_sampling"):
        return ""
    return (
        f"generation.vllm.correction = '{correction}' with algorithm.surrogate = "
        f"'{config.policy_optimisation.surrogate}', whose weights are corrected token by token; use "
        "generation.vllm.correction=token_truncate or token_mask"
    )


def corrected_truncation(config: Config) -> str:
    """Truncated sampling, corrected with probabilities of the full vocabulary."""
    generation = config.generation
    if rollouts.correction_of(generation) == "none" or not decoding.changed(generation):
        return ""
    return (
        f"generation.vllm.correction = '{generation.vllm.correction}' with generation."
        f"{decoding.changed(generation)}: the engine's probabilities cover only the remaining tokens and the "
        "policy's cover all, so the ratio of every token is below 1 and that of a list far below 1; use "
        "generation.top_p=1, generation.top_k=0, generation.min_p=0 and generation.repetition_penalty=1"
    )


def other_than_sampled(config: Config) -> str:
    """Lists sampled from a distribution other than the one whose log-probabilities enter the loss."""
    generation = config.generation
    if not decoding.changed(generation) or rollouts.correction_of(generation) != "none":
        return ""
    return (
        f"generation.{decoding.changed(generation)} changes the distribution from which lists are sampled, but the "
        "loss uses the log-probabilities of the unchanged policy, so training is off-policy by the difference "
        "(docs/generation.md); use generation.top_p=1, generation.top_k=0, generation.min_p=0, "
        "generation.repetition_penalty=1 and generation.no_repeat_ngram_size=0"
    )


def stop_before_what_counts(config: Config) -> str:
    """Rollouts that end after entry N, where something reads what follows it."""
    if not config.generation.stop_after_list:
        return ""
    advice = "; use generation.stop_after_list=false"
    if not isinstance(config.algorithm, AlgorithmConfig):
        return (
            f"generation.stop_after_list = true with algorithm = '{config.algorithm.name}', which trains on whole "
            f"lists, EOS included{advice}"
        )
    reading = [name for name, term in config.reward.terms.items() if term["weight"] and TERMS[name].reads_on]
    if reading:
        return (
            f"generation.stop_after_list = true with the reward term '{reading[0]}', which may depend on what follows "
            f"entry N{advice}, or a reward without this term"
        )
    algorithm = config.algorithm
    if set(credits[algorithm.credit].facts["columns"]) != {"rank"}:
        return (
            f"generation.stop_after_list = true with algorithm.credit = '{algorithm.credit}', which gives the list's "
            f"advantage to EOS, too{advice}, or a credit of ranks"
        )
    if algorithm.length_shaping.rule != "none":
        return (
            f"generation.stop_after_list = true with algorithm.length_shaping.rule = "
            f"'{algorithm.length_shaping.rule}', which gives EOS and entries past rank N an advantage{advice}, or "
            "algorithm.length_shaping.rule=none algorithm.length_shaping.early_stop=0 "
            "algorithm.length_shaping.overflow=0"
        )
    return ""


def scalars_of_held_rollouts(config: Config) -> str:
    """Rollouts that are held to the catalogue, with a piece or a method that knows only the free policy."""
    if config.generation.constraint == "none":
        return ""
    held = f"generation.constraint = '{config.generation.constraint}'"
    if not isinstance(config.algorithm, AlgorithmConfig):
        return (
            f"{held} with algorithm = '{config.algorithm.name}', which compares lists under the free policy; use "
            "generation.constraint=none"
        )
    algorithm = config.algorithm
    chosen = [
        (place, name) for place, name in choices(algorithm) if place is not regularisers or algorithm.regularisers[name]
    ]
    for place, name in chosen:
        start = place[name].facts.get("start")
        needed = [need.removeprefix("old_") for need in place[name].needs] + list(start.scalars if start else ())
        if found := [need for need in needed if need in scalars]:
            return (
                f"{held} with algorithm.{place.name} = '{name}', which uses {found[0]}, a number of the whole "
                "vocabulary; use generation.constraint=none, or an algorithm without this piece"
            )
    return ""


REFUSALS: tuple[Guard, ...] = (
    ratio_without_effect,
    sum_without_sequence_ratio,
    scale_that_cancels,
    regression_with_kl,
    kl_without_gradient,
    kl_scale_without_kl,
    sync_without_reference,
    credit_that_reads_hits,
    negative_returns,
    left_out_tokens,
    bonus_for_each_term,
    baseline_of_a_credit,
    correction_of_lists,
    stop_before_what_counts,
    scalars_of_held_rollouts,
)
OF_PREFERENCE: tuple[Guard, ...] = (stop_before_what_counts, scalars_of_held_rollouts)
CAVEATS: tuple[Guard, ...] = (reference_that_stays, divided_centred_returns, corrected_truncation, other_than_sampled)


def refusals(config: Config) -> list[str]:
    """Refusals for a configuration whose pieces and options are known to exist."""
    if not isinstance(config.algorithm, AlgorithmConfig):
        return [sentence for guard in OF_PREFERENCE if (sentence := guard(config))]
    return [sentence for guard in REFUSALS if (sentence := guard(config))]


def caveats(configs: Sequence[Config]) -> list[str]:
    """Caveats for the cells of a sweep or for one run, each sentence once."""
    configs = [config for config in configs if isinstance(config.algorithm, AlgorithmConfig)]
    found = [sentence for config in configs for guard in CAVEATS if (sentence := guard(config))]
    return list(dict.fromkeys(found + ratios_on_policy(configs)))


def ratios_on_policy(configs: Sequence[Config]) -> list[str]:
    """A sweep over ratios in which the policy is never stale."""
    fresh = [config for config in configs if config.trainer.rl.num_iterations == 1 and _uses_ratio(config)]
    levels = list(dict.fromkeys(config.policy_optimisation.ratio for config in fresh))
    if len(levels) < 2:
        return []
    return [
        f"the sweep compares algorithm.ratio = {', '.join(levels)} with trainer.rl.num_iterations = 1: training is "
        "on-policy, so every ratio is 1 and no clipping bound acts; the ratios differ only in how they weight the "
        "gradients of tokens; use trainer.rl.num_iterations=2"
    ]

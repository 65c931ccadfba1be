"""Methods marked "code" as their authors or a framework run them: the whole loss in plain numbers.

Each is written from the code that it names, with that code's default settings. `tests.golden.methods` holds our YAMLs.
If a YAML departs from its source, `overrides` turn it into the source.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from tests.golden.methods import (
    METHODS,
    Batch,
    Loss,
    N,
    centred,
    dcg,
    dual_ppo,
    erank_advantages,
    in_groups,
    k3,
    line_units,
    log_decay,
    mean,
    of_ranks,
    over_lists,
    over_tokens,
    ppo,
    rewards,
    s,
    w,
    z_score,
)


@dataclass(frozen=True)
class Source:
    """The computation of a method's source.

    Attributes:
        loss: of lists, as in `tests.golden.methods.METHODS`.
        overrides: changes to the YAML that give the source; empty if the YAML is the source.
        lists: lists to compare on, in groups of G; an adaptation to lists has no effect on these.
        shown: the test, as file::name, of a difference that neither of the above covers.
    """

    loss: Callable[[Batch], Loss]
    overrides: tuple[str, ...] = ()
    lists: tuple[int, ...] = ()
    shown: str = ""


VERL = ("surrogate=dual_clip", "options.dual_clip={low: 0.2, high: 0.2}", "aggregation=token_mean", "kl.beta=0.0")
"""verl's defaults: clip .2, 3 if A < 0, a mean over tokens, no KL."""


def verl_loss(b: Batch, a: list[float]) -> Loss:
    return over_tokens(b, lambda pi, i, t: dual_ppo(w(b, pi, i, t), a[i], 0.2, 0.2))


def bnpo(b: Batch) -> Loss:
    """TRL's defaults."""
    a = in_groups(rewards(b), z_score)
    return over_tokens(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.2))


def c2gspg(b: Batch) -> Loss:
    """The target of the calibration term is the reward itself."""
    c_old = [mean(row) for row in b.old]
    a = [x / (1 - math.exp(c) + 1e-6) for x, c in zip(in_groups(rewards(b), centred), c_old, strict=True)]

    def of_list(pi, i):
        log_c, y = mean(pi.lp[i]), dcg(b, i)
        return a[i] * log_c + 0.01 * (y * log_c + (1 - y) * math.log(1 - math.exp(log_c)))

    return lambda pi: -mean(of_list(pi, i) for i in b.lists)


def gopo(b: Batch) -> Loss:
    """2 - 4 (rho - 1) / (G - 1), with equal rewards ordered by position; our loss."""

    def ordinal(r):
        order = sorted(range(len(r)), key=lambda j: -r[j])
        return [2 - 4 * order.index(j) / (len(r) - 1) for j in range(len(r))]

    a = in_groups(rewards(b), ordinal)
    return over_lists(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.26) - 0.001 * k3(b, pi, i, t))


def grpo_passk(b: Batch) -> Loss:
    """verl's estimator and defaults."""

    def lead(r):
        best, second = sorted(r, reverse=True)[:2]
        scale = z_score(r, 1e-6)  # divides a difference of two values by std + eps
        top = r.index(best)
        return [scale[top] - scale[r.index(second)] if j == top else 0.0 for j in range(len(r))]

    return verl_loss(b, in_groups(rewards(b), lead))


def luspo(b: Batch) -> Loss:
    """TRL's default clip."""
    a = in_groups(rewards(b), z_score)
    return lambda pi: -mean(len(b.tokens(i)) * ppo(s(b, pi, i), a[i], 0.2, 0.2) for i in b.lists)


def rlmlr(b: Batch) -> Loss:
    """A token outside any state has only the outcome's advantage."""
    of_list, of_rank = in_groups(rewards(b), centred), of_ranks(b, lambda i, k: log_decay(b, i, k), centred)
    unit = [line_units(b, i) for i in b.lists]

    def a(i, t):
        return 0.8 * of_list[i] + 0.2 * (of_rank[i][unit[i][t]] if unit[i][t] in range(1, N + 1) else 0.0)

    return over_tokens(b, lambda pi, i, t: dual_ppo(w(b, pi, i, t), a(i, t), 0.2, 0.2) - 0.001 * k3(b, pi, i, t))


def rloo(b: Batch) -> Loss:
    """TRL's loss on the given rewards, from which TRL has subtracted the KL."""
    a = in_groups(rewards(b), lambda r: [x - (sum(r) - x) / (len(r) - 1) for x in r])
    return lambda pi: -mean(ppo(math.prod(w(b, pi, i, t) for t in b.tokens(i)), a[i], 0.2, 0.2) for i in b.lists)


def rover(b: Batch) -> Loss:
    """The script for mathematics."""
    a = in_groups(rewards(b), lambda r: z_score(r, 1e-6))

    def of_token(pi, i, t):
        value = 0.0 if t + 1 == len(b.tokens(i)) else b.mean_lp[i][t + 1] - b.old_mean_lp[i][t + 1]
        return -((pi.lp[i][t] - b.old[i][t] - (a[i] + value)) ** 2)

    return over_tokens(b, of_token)


def unlikely(b: Batch) -> Loss:
    """Without the KL term, which the source averages differently from its loss."""
    order = in_groups([mean(row) for row in b.old], lambda group: [sorted(group).index(x) for x in group])
    r = [x * (1 - 0.25 * place / 4) for x, place in zip(rewards(b), order, strict=True)]
    a = in_groups(r, lambda group: z_score(group, 1e-6))
    return over_lists(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.2))


def verl_erank(b: Batch, last_alone: bool = False) -> Loss:
    """The script's loss. The bonus goes to every token, as ours, or only to the last, as in the source."""
    a, bonus = erank_advantages(b)

    def of_token(pi, i, t):
        last = t + 1 == len(b.tokens(i))
        x = a[i] + bonus[i] * (last or not last_alone)
        return ppo(w(b, pi, i, t), x, 0.2, 0.2) - 0.001 * k3(b, pi, i, t) + 0.001 * pi.entropy[i][t]

    return over_tokens(b, of_token)


ERANK = ("options.clip.high=0.2", "aggregation=token_mean", "regularisers.entropy_bonus=0.001")
SHAPING = "length_shaping={{rule: {}, early_stop: {}, overflow: {}, exact: {}}}".format
SOURCES = {
    "bnpo": Source(bnpo, ("options.clip.high=0.2", "kl.beta=0.0")),
    "c2gspg": Source(c2gspg, lists=(2, 3, 5, 7, 8, 9, 10, 11)),
    "canon": Source(METHODS["canon"], shown="tests/golden/test_sources.py::test_canon_shares_places_among_ties"),
    "clip_cov": Source(METHODS["clip_cov"], shown="tests/golden/test_sources.py::test_clip_cov_is_one_of_its_draws"),
    "dppo_kl": Source(METHODS["dppo_kl"]),
    "dppo_tv": Source(METHODS["dppo_tv"]),
    "gopo": Source(gopo, lists=(0, 2, 4, 5)),
    "grpo_passk": Source(grpo_passk, VERL),
    "humanline": Source(METHODS["humanline"]),
    "kl_cov": Source(METHODS["kl_cov"]),
    "luspo": Source(luspo, ("options.clip={low: 0.2, high: 0.2}",)),
    "max_rl": Source(
        METHODS["max_rl"], shown="tests/golden/test_methods.py::test_loss_and_gradient_are_those_of_the_row"
    ),
    "rank_grpo": Source(
        METHODS["rank_grpo_published"],
        ("layout=published", "aggregation=token_mean", SHAPING("published", -0.1, -0.1, 0.1)),
    ),
    "rank_grpo_published": Source(METHODS["rank_grpo_published"]),
    "rlmlr": Source(rlmlr, (SHAPING("none", 0.0, 0.0, 0.0),)),
    "rloo": Source(rloo, ("kl.beta=0.0",)),
    "rover": Source(rover, ("baseline=group_std", "options.group_std.epsilon=1e-6")),
    "rs_grpo": Source(
        METHODS["rs_grpo"], shown="tests/golden/test_methods.py::test_loss_and_gradient_are_those_of_the_row"
    ),
    "siren": Source(
        METHODS["siren"],
        shown="tests/unit/test_regularisers.py::"
        "test_siren_takes_tokens_above_the_quantile_alone_and_none_where_all_are_equal",
    ),
    "topr": Source(METHODS["topr"], shown="tests/golden/test_methods.py::test_loss_and_gradient_are_those_of_the_row"),
    "unlikely": Source(unlikely, ("options.clip.high=0.2", "kl.beta=0.0")),
    "verl_erank": Source(verl_erank, ERANK),
}
ELSEWHERE = {
    "cispo": "tests/contract/test_trl_parity.py::test_reproduces_trl",
    "gmpo": "tests/contract/test_trl_parity.py::test_reproduces_trl",
    "sapo": "tests/contract/test_trl_parity.py::test_reproduces_trl",
    "vespo": "tests/contract/test_trl_parity.py::test_reproduces_trl",
    **dict.fromkeys(
        ("dro", "farl", "gpg", "optimal_token_baseline", "spo"),
        "tests/golden/test_methods.py::test_loss_and_gradient_are_those_of_the_row",
    ),
    "meta_apo": "tests/unit/test_preference_losses.py::test_meta_by_a_loop",
    "mnpo": "tests/unit/test_preference_losses.py::test_nash_by_a_loop",
    "s_dpo": "tests/contract/test_preference.py::test_s_dpo_by_its_formula",
    "sprec": "tests/contract/test_preference.py::test_sprec_trains_on_demonstrations_and_then_against_its_own_lists",
}
"""Methods that other tests compare with the code itself."""

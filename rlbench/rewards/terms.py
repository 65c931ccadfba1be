"""Reward terms: values of a list's ranks, or of the whole list, before weights. Loads no torch.

A term is one function of judged lists and of facts about items. `rank_term` and `list_term` register it in `TERMS`
under its name. Its keyword-only parameters are its options in `conf/reward/`; their annotations say which values are
valid. A term that asks for more than lists and facts declares it in `needs`, and gets a third argument,
`rlbench.rewards.answers.Answers`.

Shapes: B lists, N ranks, C items in the catalogue. rel_k is 1 if rank k is relevant and no repeat, else 0 (Rank-GRPO,
arXiv 2510.20150, section 2.1). With graded truths, the terms of DCG and NDCG use the gain of rank k instead. Ranks that
a short list lacks have value 0 in every rank term. All values are finite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlbench.base.errors import nearest
from rlbench.base.records import is_finite
from rlbench.config.options import (
    NonNegative,
    Option,
    Positive,
    PositiveInt,
    Share,
    check_options,
    options_of,
)
from rlbench.config.plugins import HINT
from rlbench.lists import metrics
from rlbench.lists.item_facts import Floats, ItemFacts
from rlbench.rewards.success import TOLERANCE

if TYPE_CHECKING:  # the configuration's schema loads this module and needs no judging
    from rlbench.lists.relevance import JudgedLists
    from rlbench.rewards.answers import Answers

Ints = NDArray[np.int64]

COMMON_KEYS = ("weight", "scaled_by")
"""Keys of a term in a reward's configuration that are not options of its function."""
SCALES = ("solve_rate", "moderate")
"""Possible factors on a list term's score, applied to whole groups: the names of `rlbench.rewards.combine.FACTORS`."""


NEEDS = ("policy", "reward_model")
"""What a term may need: answers of the policy that trains, or of a reward model that is trained with it."""


@dataclass(frozen=True)
class Term:
    """A reward term.

    Attributes:
        function: (lists, facts, **options) -> values; (lists, facts, answers, **options) if it needs anything.
        scope: "rank" if it gives (B, N), "list" if it gives (B,).
        options: by name, in the order of the function's parameters.
        signed: whether a value may be negative. A power mean does not accept such terms.
        reads_on: whether a value depends on anything behind entry N: further text, the end of the list, its tokens.
        needs: names in `NEEDS`.
    """

    function: Callable[..., Floats]
    scope: Literal["rank", "list"]
    options: dict[str, Option]
    signed: bool
    reads_on: bool
    needs: tuple[str, ...] = ()


TERMS: dict[str, Term] = {}

Function = TypeVar("Function", bound=Callable[..., Floats])


def rank_term(*, signed: bool = False, needs: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Register a function that gives (B, N) in `TERMS`; `signed` if a value may be negative."""
    return _entering("rank", signed, False, needs)


def list_term(
    *, signed: bool = False, reads_on: bool = True, needs: Sequence[str] = ()
) -> Callable[[Function], Function]:
    """Register a function that gives (B,) in `TERMS`.

    Args:
        signed: whether a value may be negative.
        reads_on: false if no value depends on anything behind entry N (`Term.reads_on`).
        needs: what it needs besides lists and facts (`NEEDS`).
    """
    return _entering("list", signed, reads_on, needs)


def _entering(
    scope: Literal["rank", "list"], signed: bool, reads_on: bool, needs: Sequence[str]
) -> Callable[[Function], Function]:
    def enter(function: Function) -> Function:
        name = function.__name__
        if name in TERMS:
            raise ValueError(f"two terms are called '{name}'; terms of ranks and terms of lists need different names")
        if unknown := [need for need in needs if need not in NEEDS]:
            raise ValueError(f"term '{name}' needs {unknown[0]!r}, which is unknown; known: {', '.join(NEEDS)}")
        TERMS[name] = Term(function, scope, options_of(function), signed, reads_on, tuple(needs))
        return function

    return enter


def _of_items(values: Floats, items: Ints) -> Floats:
    """(B, N) the value of the item at each rank; 0 if there is none, which has index -1 (`NO_ITEM`)."""
    return np.append(values, 0.0)[items]


@rank_term()
def relevance(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """rel_k (Rank-GRPO's exp_inf)."""
    return lists.hits


@rank_term()
def dcg(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """rel_k / log2(k + 1). A list's sum is DCG@N; a tail sum is Rank-GRPO's log-decay (Eq. 8)."""
    return lists.gains * metrics.discounts(lists.verdicts.shape[1])


@rank_term()
def ndcg_share(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """rel_k / log2(k + 1) over the DCG of an ideal list, so a list's sum is NDCG@N."""
    n = lists.verdicts.shape[1]
    return lists.gains * metrics.discounts(n) / metrics.ideal_dcg(lists.n_truth, n, lists.graded)[:, None]


@rank_term()
def recall_share(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """rel_k / n_truth, so a list's sum is Recall@N."""
    return lists.hits / lists.n_truth[:, None]


@rank_term()
def in_catalog(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """1 for an entry that names an item of the catalogue, including repeats and seen items."""
    return (lists.present & ~lists.of_verdict("out_of_catalog")).astype(np.float64)


@rank_term()
def out_of_catalog(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """1 for an entry outside the catalogue; intended for a negative weight."""
    return lists.of_verdict("out_of_catalog").astype(np.float64)


@rank_term()
def duplicate(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """1 for an entry that repeats an earlier one; intended for a negative weight."""
    return lists.of_verdict("duplicate").astype(np.float64)


@rank_term()
def seen(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """1 for an entry whose title the dialogue has named (`seen_titles`); intended for a negative weight."""
    return lists.of_verdict("seen").astype(np.float64)


@rank_term(signed=True)
def verdict_cost(
    lists: "JudgedLists",
    facts: ItemFacts,
    *,
    hit: float = 1.0,
    miss: float = 0.0,
    out_of_catalog: float = -1.25,
    seen: float = -1.0,
    duplicate: float = -1.0,
) -> Floats:
    """The value of an entry's verdict. SemanticShield (arXiv 2509.24961) gives +1 for a right answer, -1 for a wrong
    one and -1.25 for the more costly kind of wrong answer. Adapted to lists: verdicts replace answers, and a miss has
    value 0, since most ranks of a good list are misses.
    """
    values = {"hit": hit, "miss": miss, "out_of_catalog": out_of_catalog, "seen": seen, "duplicate": duplicate}
    table = np.zeros(lists.verdicts.shape)
    for verdict, value in values.items():
        table[lists.of_verdict(verdict)] = value
    return table


@rank_term()
def popularity(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """Popularity percentile of an entry's item; intended for a negative weight, against popularity bias."""
    return _of_items(facts.popularity_percentile, lists.items)


@rank_term()
def novelty(
    lists: "JudgedLists", facts: ItemFacts, *, among: Literal["recommendable", "hits"] = "recommendable"
) -> Floats:
    """1 - popularity percentile of a hit or a miss, or only of a hit.

    A repeat or a seen item is never novel. Otherwise a list that names one rare item N times would be best.
    """
    counted = lists.of_verdict("hit")
    if among == "recommendable":
        counted = counted | lists.of_verdict("miss")
    return counted * _of_items(1 - facts.popularity_percentile, lists.items)


@rank_term()
def value(
    lists: "JudgedLists",
    facts: ItemFacts,
    *,
    alpha: NonNegative = 1.0,
    of: Literal["rarity", "recency"] = "rarity",
) -> Floats:
    """rel_k * (1 + min(alpha * v, 1)), v in [0, 1] the value of rank k's item (RLEV, arXiv 2510.20187).

    RLEV values prompts. That is one factor for a whole group, which cancels when dividing by the group's standard
    deviation. Adapted to lists: items have values, which do not cancel: 1 - popularity percentile, or recency
    percentile.
    """
    of_item = 1 - facts.popularity_percentile if of == "rarity" else facts.recency_percentile
    return lists.hits * (1 + np.minimum(alpha * _of_items(of_item, lists.items), 1))


LEAST_CONFIDENCE = 1e-3
"""The logarithmic score of `calibration` takes a lower probability for this one, where it is 0."""


@rank_term(needs=["policy"])
def calibration(
    lists: "JudgedLists", facts: ItemFacts, answers: "Answers", *, form: Literal["brier", "log"] = "brier"
) -> Floats:
    """How well the policy's confidence in an entry predicts whether it is a hit, in [0, 1].

    The confidence c is the exponential of the mean log-probability of the entry's tokens. `brier` is 1 - (c - rel)^2,
    as in RLCR (arXiv 2507.16806, recalled), where the model states its confidence in words. `log` is
    1 - log(p) / log(.001), p the probability c or 1 - c of what happened, at least .001. Both are proper: a list
    expects the most if c is the chance of a hit.
    """
    confidence = answers.confidence
    if form == "brier":
        return lists.present * (1 - (confidence - lists.hits) ** 2)
    happened = np.where(lists.hits > 0, confidence, 1 - confidence)
    return lists.present * (1 - np.log(np.maximum(happened, LEAST_CONFIDENCE)) / np.log(LEAST_CONFIDENCE))


@rank_term(needs=["reward_model"])
def reward_model(
    lists: "JudgedLists",
    facts: ItemFacts,
    answers: "Answers",
    *,
    against: Literal["policy", "catalogue"] = "policy",
    steps: PositiveInt = 4,
    rate: Positive = 0.01,
) -> Floats:
    """How much a reward model prefers an entry, in (0, 1); 0 for repeats and items that the dialogue has named.

    After each rollout the model (`rlbench.rewards.reward_model`) takes `steps` steps of Adam with the learning rate
    `rate`. `against` says which items it learns to rank below the relevant ones. With `policy` they are the misses of
    the rollout's lists, so that model and policy are trained against each other (RIVAL, arXiv 2506.05070, abstract
    only). With `catalogue` they are N random items, which makes it a plain model of users.
    """
    counted = lists.of_verdict("hit") | lists.of_verdict("miss")
    return counted * answers.preferred(lists.items)


@list_term(reads_on=False, needs=["policy"])
def prompt_to_first(
    lists: "JudgedLists", facts: ItemFacts, answers: "Answers", *, first: PositiveInt = 3, shuffles: PositiveInt = 4
) -> Floats:
    """Sensitivity of the first ranks to the prompt (CE-PO, arXiv 2509.23095: prompt -> rationale).

    Adapted to lists: the rationale is the first ranks, the answer the others. See `rlbench.models.sensitivity`.
    """
    return answers.sensitivities(first, shuffles)[:, 0]


@list_term(reads_on=False, needs=["policy"])
def first_to_rest(
    lists: "JudgedLists", facts: ItemFacts, answers: "Answers", *, first: PositiveInt = 3, shuffles: PositiveInt = 4
) -> Floats:
    """Sensitivity of the other ranks to the first ones (CE-PO: rationale -> answer)."""
    return answers.sensitivities(first, shuffles)[:, 1]


@list_term(reads_on=False, needs=["policy"])
def prompt_to_rest(
    lists: "JudgedLists", facts: ItemFacts, answers: "Answers", *, first: PositiveInt = 3, shuffles: PositiveInt = 4
) -> Floats:
    """Direct sensitivity of the other ranks to the prompt, not through the first ones (CE-PO: prompt -> answer)."""
    return answers.sensitivities(first, shuffles)[:, 2]


@list_term(reads_on=False)
def recall(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """Recall@N, as reported."""
    return metrics.recall(lists.hits, lists.n_truth, lists.verdicts.shape[1])


@list_term(reads_on=False)
def ndcg(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """NDCG@N, as reported."""
    return metrics.ndcg(lists.hits, lists.n_truth, lists.verdicts.shape[1], lists.gains, lists.graded)


@list_term(reads_on=False)
def list_dcg(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """DCG@N (Rank-GRPO's reward of a whole list)."""
    return metrics.dcg(lists.gains, lists.verdicts.shape[1])


@list_term(reads_on=False)
def hit_rate(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """1 if one of the N ranks is a hit, as reported."""
    return metrics.hit_rate(lists.hits, lists.verdicts.shape[1])


@list_term(reads_on=False)
def in_catalog_share(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """Share of the entries among the first N that are in the catalogue, as reported; 0 without entries."""
    return metrics.list_metrics(lists)["in_catalog"]


@list_term(reads_on=False)
def ndcg_steps(
    lists: "JudgedLists", facts: ItemFacts, *, full: Share = 0.5, part: Share = 0.25, part_value: Share = 0.3
) -> Floats:
    """1 for an NDCG@N of at least `full`, `part_value` for one of at least `part`, else 0.

    The quality reward of LM-Mixup (arXiv 2510.20449) has such steps: 1 for a quality of 4 or 5, .3 for 3, else 0.
    """
    reached = ndcg(lists, facts) + TOLERANCE
    return np.where(reached >= full, 1.0, np.where(reached >= part, part_value, 0.0))


@list_term(reads_on=False)
def recommendable_at_least(lists: "JudgedLists", facts: ItemFacts, *, share: Share = 0.8) -> Floats:
    """1 if at least this share of the first N entries are hits or misses; 0 without entries.

    Other entries are repeats, items that the dialogue has named, or outside the catalogue. LM-Mixup's alignment reward
    (arXiv 2510.20449) has the same form: 1 for a cosine of at least .8.
    """
    counted = (lists.of_verdict("hit") | lists.of_verdict("miss")).sum(axis=1)
    entries = lists.present.sum(axis=1)
    return ((entries > 0) & (counted >= share * entries - TOLERANCE)).astype(np.float64)


@list_term()
def format(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """Share of the lines that are entries, ignoring blank lines; 0 without lines."""
    return lists.n_entries / np.maximum(lists.n_lines, 1)


@list_term(signed=True)
def length(lists: "JudgedLists", facts: ItemFacts) -> Floats:
    """1 for exactly N entries, else -|n - N| / N (count reward of SafeCRS, arXiv 2603.03536)."""
    n = lists.verdicts.shape[1]
    off = np.abs(lists.n_entries - n)
    return np.where(off == 0, 1.0, -off / n)


@list_term()
def tokens(lists: "JudgedLists", facts: ItemFacts, *, normaliser: Positive) -> Floats:
    """Tokens of the completion, EOS included, over `normaliser`; intended for a negative weight.

    With weight -beta and scaled by the solve rate, it is the penalty of ALP (arXiv 2506.05256):
    beta * length / normaliser * max(p_solved, 1/K).
    """
    return lists.n_tokens / normaliser


@list_term(signed=True)
def soft_overlong(lists: "JudgedLists", facts: ItemFacts, *, max_tokens: PositiveInt, cache: PositiveInt) -> Floats:
    """DAPO's penalty for long completions (arXiv 2503.14476, Eq. 13), in [-1, 0].

    0 up to max_tokens - cache tokens, then falling linearly to -1 at max_tokens, and -1 beyond.
    """
    return np.clip((max_tokens - cache - lists.n_tokens) / cache, -1.0, 0.0)


def of_lists_alone() -> dict[str, Term]:
    """Return the terms that read only judged lists and facts about items."""
    return {name: term for name, term in TERMS.items() if not term.needs}


def term_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """A term's options: its keys in the reward without weight and scaled_by."""
    return {name: value for name, value in given.items() if name not in COMMON_KEYS}


def check_terms(terms: Mapping[str, Any]) -> list[str]:
    """Every problem of a reward's terms, one sentence each, without its full stop.

    Args:
        terms: by name in `TERMS`, each a mapping with weight, optionally scaled_by, and the term's options.
    """
    if not terms:
        return [f"terms is empty; known: {', '.join(TERMS)}"]
    problems = []
    for name, given in terms.items():
        if name not in TERMS:
            near = nearest(str(name), list(TERMS))
            problems.append(f"terms.{name} is unknown; known: {', '.join(TERMS)}.{HINT}{near and '.' + near}")
        elif not isinstance(given, Mapping):
            problems.append(f"terms.{name} = {given!r} must be a section with a weight and the term's options")
        else:
            problems += [f"terms.{name}.{problem}" for problem in _term_problems(TERMS[name], given)]
    return problems


def _term_problems(term: Term, given: Mapping[str, Any]) -> list[str]:
    """Problems of one term; each sentence begins with the key."""
    problems = []
    if "weight" not in given:
        problems.append("weight is missing")
    elif not is_finite(given["weight"]):
        problems.append(f"weight = {given['weight']!r} must be a finite number")
    scale = given.get("scaled_by")
    if scale is not None and scale not in SCALES:
        problems.append(
            f"scaled_by = {scale!r} is unknown; known: {', '.join(SCALES)}, null.{nearest(str(scale), [*SCALES])}"
        )
    elif scale is not None and term.scope == "rank":
        problems.append(
            f"scaled_by = {scale!r} has no effect on a term of ranks, because only terms of lists are scaled; remove it"
        )
    return problems + check_options(term.options, term_options(given), COMMON_KEYS)

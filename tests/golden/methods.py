"""Every method of `conf/algorithm` as its paper defines it, in plain numbers and loops, from hits to the loss.

`python -m tests.golden.methods` writes `data/methods.json`: the loss of each method on one small batch, and its
gradient by central differences. A method's numbers (clip bounds, weights) are repeated here on purpose.

A method takes the lists and returns its loss as a function of the policy, so advantages are computed once. In formulas
i is a list, t a token, k a rank; pi is the policy that is differentiated, and `b.pi` is the same held fixed (sg).
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

FILE = Path(__file__).parent / "data" / "methods.json"
N, G, L_MAX, TOKENS = 3, 4, 16, 120
"""Ranks of a list, lists of a prompt, the token limit, and tokens per process in the update's whole batch."""
STEP = 1e-5
SEED = 88
"""The first seed under which nearly every bound of every method acts."""

PROMPTS = [
    (2, ["hh|mmm|hh|.", "tt|mm|hhh|m.", "hhh|m.", "mm|m|mm|hh|m."]),
    (5, ["m|hh|mmm.", "mm|m|mm|hh", "hh|t|hh|hhh.", "mmm|mm|m."]),
    (1, ["mm|mm|mm.", "t|m|mm|m|.", "m.", "mm|m|mmm|m"]),
]
"""Number of truths and the G lists of each prompt, one letter per token: h in a line that is a hit, m in a miss, t in a
line that is no entry, "." EOS. "|" ends a line; the newline belongs to the token before it. The first group solves
three of four, with one short list and one too long; the second has two ties; the third has no hits."""

ANCHOR = 0.6
"""SIREN's entropy at the first update."""
USUAL = {"effective_rank": 1.7, "rank_velocity": 0.4, "rank_acceleration": -0.6}
"""VERL's running means before this update."""
DISCRIMINATOR = (0.4, 0.7, -0.3)
"""Weights of UniAPL's discriminator."""
VALUES = {"a": (2.4, 3.0), "b": (1.0, 4.0)}
"""SPO's weighted sum and number of earlier returns of two prompts; the third is new."""

Rows = list[list[float]]


@dataclass(frozen=True)
class Policy:
    """Values of the policy that the loss may be differentiated by.

    Attributes:
        lp: log-probability of every token of every list.
        entropy: over the whole vocabulary, for every token.
        top_p_entropy: over the likeliest part of the vocabulary.
        demonstrations: log-probability of every token of some demonstrations.
    """

    lp: Rows
    entropy: Rows
    top_p_entropy: Rows
    demonstrations: Rows


@dataclass(frozen=True)
class Batch:
    """Lists, with the G of a prompt next to each other, and the policies' values for their tokens.

    Attributes:
        texts: the lists as in `PROMPTS`.
        n_truth: number of relevant films of each list's prompt.
        pi: the policy, held fixed.
        old: log-probabilities under the rollout policy.
        ref: log-probabilities under the reference.
        old_entropy: entropies under the rollout policy.
        mean_lp: mean log-probability of the vocabulary under the policy.
        old_mean_lp: the same under the rollout policy.
        states: hidden states of the rollout policy, two numbers per token.
        square_sums: sums over the vocabulary of squared probabilities under the rollout policy.
        prompt: the prompt of each list.
        demonstration_ref: log-probabilities of the demonstrations' tokens under the reference.
    """

    texts: list[str]
    n_truth: list[int]
    pi: Policy
    old: Rows
    ref: Rows
    old_entropy: Rows
    mean_lp: Rows
    old_mean_lp: Rows
    states: list[list[tuple[float, float]]]
    square_sums: Rows
    prompt: list[str]
    demonstration_ref: Rows

    @property
    def lists(self) -> range:
        return range(len(self.texts))

    def letters(self, i: int) -> str:
        """One letter per token."""
        return self.texts[i].replace("|", "")

    def tokens(self, i: int) -> range:
        return range(len(self.pi.lp[i]))

    def lines(self, i: int) -> list[int]:
        """The line of each token."""
        return [number for number, line in enumerate(self.texts[i].split("|")) for _ in line]

    def entries(self, i: int) -> list[str]:
        """h or m for every entry."""
        return [line[0] for line in self.texts[i].split("|") if line and line[0] in "hm"]

    def entry_lines(self, i: int) -> list[int]:
        return [number for number, line in enumerate(self.texts[i].split("|")) if line and line[0] in "hm"]

    def rel(self, i: int, k: int) -> int:
        """Whether rank k = 1 .. N is a hit. A rank that a short list lacks is no hit."""
        return int(self.entries(i)[k - 1 : k] == ["h"])

    def solved(self, i: int) -> bool:
        return any(self.rel(i, k) for k in ranks())

    def picked(self, order: Sequence[int]) -> "Batch":
        """The lists at these positions, in this order."""

        def rows(of: object, *but: str) -> dict:
            return {name: [values[i] for i in order] for name, values in vars(of).items() if name not in but}

        return replace(
            self, **rows(self, "pi", "demonstration_ref"), pi=replace(self.pi, **rows(self.pi, "demonstrations"))
        )


def drawn(seed: int = SEED) -> Batch:
    """Lists with random numbers, far off policy: many small and some large log-ratios."""
    rng = random.Random(seed)
    texts = [text for _, of_prompt in PROMPTS for text in of_prompt]
    sizes = [len(text.replace("|", "")) for text in texts]

    def rows(number: Callable[[], float]) -> Rows:
        return [[round(number(), 3) for _ in range(size)] for size in sizes]

    def away(values: Rows) -> Rows:
        return [[round(min(x - 2.0 * rng.uniform(-1, 1) ** 3, -0.01), 3) for x in row] for row in values]

    def between(low: float, high: float) -> Rows:
        return rows(lambda: rng.uniform(low, high))

    lp = between(-3.0, -0.05)
    old, ref = away(lp), away(lp)
    return Batch(
        texts=texts,
        n_truth=[n for n, of_prompt in PROMPTS for _ in of_prompt],
        pi=Policy(
            lp=lp,
            entropy=between(0.0, 2.0),
            top_p_entropy=between(0.0, 1.0),
            demonstrations=[[rng.uniform(-3.0, -0.05) for _ in range(size)] for size in (5, 3, 6)],
        ),
        old=old,
        ref=ref,
        old_entropy=between(0.0, 2.0),
        mean_lp=between(-4.0, -2.0),
        old_mean_lp=between(-4.0, -2.0),
        states=[[(rng.uniform(-2, 2), rng.uniform(-3, 3)) for _ in range(size)] for size in sizes],
        square_sums=[[math.exp(2 * x) + rng.uniform(0, 1) * (1 - math.exp(x)) ** 2 for x in row] for row in old],
        prompt=[name for name, (_, of_prompt) in zip("abc", PROMPTS, strict=True) for _ in of_prompt],
        demonstration_ref=[[rng.uniform(-3.0, -0.05) for _ in range(size)] for size in (5, 3, 6)],
    )


Loss = Callable[[Policy], float]
OfToken = Callable[[Policy, int, int], float]
"""The objective of token t of list i, to be maximised."""

METHODS: dict[str, Callable[[Batch], Loss]] = {}


def method(function: Callable[[Batch], Loss]) -> Callable[[Batch], Loss]:
    METHODS[function.__name__] = function
    return function


# Shared by methods: rewards, groups, ratios, penalties.


def ranks() -> range:
    return range(1, N + 1)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def std(values: Sequence[float]) -> float:
    return math.sqrt(sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1))


def population_std(values: Sequence[float]) -> float:
    return math.sqrt(mean((x - mean(values)) ** 2 for x in values))


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest in order."""
    order, place = sorted(values), share * (len(values) - 1)
    below = int(place)
    return order[below] + (place - below) * (order[min(below + 1, len(order) - 1)] - order[below])


def dcg(b: Batch, i: int) -> float:
    """R_i = sum_k rel_k / log2(k + 1)."""
    return sum(b.rel(i, k) / math.log2(k + 1) for k in ranks())


def log_decay(b: Batch, i: int, k: int) -> float:
    """r_ik = sum_{j >= k} rel_j / log2(j + 1) (arXiv 2510.20150, Eq. 8)."""
    return sum(b.rel(i, j) / math.log2(j + 1) for j in range(k, N + 1))


def rewards(b: Batch) -> list[float]:
    return [dcg(b, i) for i in b.lists]


def in_groups(values: Sequence[float], formula: Callable[[Sequence[float]], list[float]]) -> list[float]:
    """Apply a formula of G values to each prompt."""
    return [a for start in range(0, len(values), G) for a in formula(values[start : start + G])]


def centred(r: Sequence[float]) -> list[float]:
    return [x - mean(r) for x in r]


def z_score(r: Sequence[float], eps: float = 1e-4) -> list[float]:
    return [(x - mean(r)) / (std(r) + eps) for x in r]


def ppo(w: float, a: float, low: float, high: float) -> float:
    return min(w * a, clip(w, 1 - low, 1 + high) * a)


def dual_ppo(w: float, a: float, low: float, high: float) -> float:
    """PPO's clip, but at least 3 A if A < 0 (arXiv 1912.09729; verl)."""
    return max(ppo(w, a, low, high), 3 * a) if a < 0 else ppo(w, a, low, high)


def k3(b: Batch, pi: Policy, i: int, t: int) -> float:
    d = b.ref[i][t] - pi.lp[i][t]
    return math.exp(d) - d - 1


def log_w(b: Batch, pi: Policy, i: int, t: int) -> float:
    return pi.lp[i][t] - b.old[i][t]


def w(b: Batch, pi: Policy, i: int, t: int) -> float:
    return math.exp(log_w(b, pi, i, t))


def s(b: Batch, pi: Policy, i: int) -> float:
    """(pi(y) / pi_old(y))^(1 / |y|)."""
    return math.exp(mean(log_w(b, pi, i, t) for t in b.tokens(i)))


def over_lists(b: Batch, of_token: OfToken) -> Loss:
    """-1/B sum_i 1/|y_i| sum_t."""
    return lambda pi: -mean(mean(of_token(pi, i, t) for t in b.tokens(i)) for i in b.lists)


def over_tokens(b: Batch, of_token: OfToken) -> Loss:
    """-1 / sum_i |y_i| sum_i sum_t."""
    return lambda pi: -mean(of_token(pi, i, t) for i in b.lists for t in b.tokens(i))


def over_all_processes(b: Batch, of_token: OfToken) -> Loss:
    """-1 / (tokens of the whole batch) sum_i sum_t, over this process's share."""
    return lambda pi: -sum(of_token(pi, i, t) for i in b.lists for t in b.tokens(i)) / TOKENS


def over_limit(b: Batch, of_token: OfToken) -> Loss:
    """-1 / (B L_max) sum_i sum_t."""
    return lambda pi: -sum(of_token(pi, i, t) for i in b.lists for t in b.tokens(i)) / (len(b.lists) * L_MAX)


def grpo_loss(b: Batch, a: Sequence[float], beta: float = 0.001) -> Loss:
    """-1/B sum_i 1/|y_i| sum_t [min(w A, clip(w, .8, 1.26) A) - beta k3] (arXiv 2510.20150, Eq. 3)."""
    return over_lists(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.26) - beta * k3(b, pi, i, t))


def over_all_tokens(b: Batch, r: Sequence[float]) -> list[float]:
    """(R - mean) / sqrt(var + 1e-8) over the tokens of the batch, each with its list's R (arXiv 2501.03262)."""
    of_tokens = [r[i] for i in b.lists for _ in b.tokens(i)]
    center, scale = mean(of_tokens), math.sqrt(std(of_tokens) ** 2 + 1e-8)
    return [(x - center) / scale for x in r]


# Advantages of the list under GRPO's loss.


@method
def grpo(b: Batch) -> Loss:
    """A = (R - mean) / (std + eps)."""
    return grpo_loss(b, in_groups(rewards(b), z_score))


@method
def max_rl(b: Batch) -> Loss:
    """A = (R - mean) / mean."""
    return grpo_loss(b, in_groups(rewards(b), lambda r: [(x - mean(r)) / (mean(r) or 1.0) for x in r]))


@method
def rs_grpo(b: Batch) -> Loss:
    """A = 1/beta (exp(beta R_i) / mean_j exp(beta R_j) - 1), beta = 2."""
    a = in_groups(rewards(b), lambda r: [(math.exp(2 * x) / mean(math.exp(2 * y) for y in r) - 1) / 2 for x in r])
    return grpo_loss(b, a)


@method
def gopo(b: Batch) -> Loss:
    """A = 2 - 4 (rho - 1) / (G - 1), where rho = 1 is the best; ties share their mean position (ours)."""

    def places(r):
        return [mean(1 + place for place, y in enumerate(sorted(r, reverse=True)) if y == x) for x in r]

    return grpo_loss(b, in_groups(rewards(b), lambda r: [2 - 4 * (rho - 1) / (G - 1) for rho in places(r)]))


@method
def unlikely(b: Batch) -> Loss:
    """R_i <- R_i (1 - .25 rank_i / G), rank_i = 0 .. G - 1 from the least likely list to the likeliest."""
    likelihood = [mean(row) for row in b.old]
    rank = in_groups(likelihood, lambda group: [sorted(group).index(x) for x in group])
    r = [x * (1 - 0.25 * place / G) for x, place in zip(rewards(b), rank, strict=True)]
    return grpo_loss(b, in_groups(r, lambda group: z_score(group, 1e-6)), beta=0.1)


@method
def reinforce_pp(b: Batch) -> Loss:
    """A = (R - mean) / std over all tokens of the batch, each with its list's R."""
    return grpo_loss(b, over_all_tokens(b, rewards(b)))


@method
def rapo_scale(b: Batch) -> Loss:
    """A <- A groups / groups with std > 0."""
    r = rewards(b)
    good = sum(std(r[start : start + G]) > 0 for start in range(0, len(r), G))
    return grpo_loss(b, [x * (len(r) / G) / good for x in in_groups(r, z_score)])


@method
def opo(b: Batch) -> Loss:
    """A_i = R_i - sum_j |y_j| R_j / sum_j |y_j|."""
    r, size = rewards(b), [len(b.tokens(i)) for i in b.lists]

    def formula(group):
        return [r[i] - sum(size[j] * r[j] for j in group) / sum(size[j] for j in group) for i in group]

    return grpo_loss(b, in_groups(b.lists, formula))


@method
def spo(b: Batch) -> Loss:
    """A = R - s / n, the prompt's earlier returns, or RLOO's for a new prompt; then z-scores over the batch."""
    r = rewards(b)

    def value(i):
        if b.prompt[i] in VALUES:
            total, n = VALUES[b.prompt[i]]
            return total / n
        return mean(r[j] for j in b.lists if b.prompt[j] == b.prompt[i] and j != i)

    return grpo_loss(b, z_score([r[i] - value(i) for i in b.lists], 1e-8))


@method
def cmdp(b: Batch) -> Loss:
    """R is -1 for a list with sum_t log pi_old / pi_ref above 1 (after arXiv 2509.22921), and no KL."""
    spent = [sum(b.old[i][t] - b.ref[i][t] for t in b.tokens(i)) for i in b.lists]
    r = [-1.0 if cost > 1.0 else x for x, cost in zip(rewards(b), spent, strict=True)]
    return grpo_loss(b, in_groups(r, z_score), beta=0.0)


@method
def grpo_passk(b: Batch) -> Loss:
    """The best has (R - second best) / (std + 1e-6), all others 0 (verl)."""

    def formula(r):
        best, second = sorted(r, reverse=True)[:2]
        return [(x - second) / (std(r) + 1e-6) if x == best else 0.0 for x in r]

    return grpo_loss(b, in_groups(rewards(b), formula))


@method
def reinforce_pp_baseline(b: Batch) -> Loss:
    """R - mean of the group, then normalised over all tokens as `reinforce_pp`."""
    return grpo_loss(b, over_all_tokens(b, in_groups(rewards(b), centred)))


def soft_window(x: Sequence[float], width: float) -> list[float]:
    """min(1, exp(x - lambda)) over their mean, where lambda makes them sum to the width; found by bisection."""
    if len(x) <= width:
        return [1.0] * len(x)
    low, high = min(x) - 60.0, max(x) + 60.0
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(1.0, math.exp(value - middle)) for value in x) > width:
            low = middle
        else:
            high = middle
    weights = [min(1.0, math.exp(value - low)) for value in x]
    return [weight / mean(weights) for weight in weights]


@method
def tawin(b: Batch) -> Loss:
    """Negative A <- w A, w a soft window of 2 around place 2 in the order of likelihood (after arXiv 2604.22504)."""
    r, likelihood = rewards(b), [mean(row) for row in b.old]

    def formula(group):
        a = dict(zip(group, z_score([r[i] for i in group]), strict=True))
        bad = sorted((i for i in group if a[i] < 0), key=lambda i: -likelihood[i])
        window = soft_window([-abs(place - 2.0) / 1.0 for place in range(1, len(bad) + 1)], 2.0)
        weight = dict(zip(bad, window, strict=True))
        return [weight.get(i, 1.0) * a[i] for i in group]

    return grpo_loss(b, in_groups(b.lists, formula))


@method
def clpo_kl(b: Batch) -> Loss:
    """GRPO with half the KL if at most .3 of the group is solved (arXiv 2509.25004, there on rewritten prompts)."""
    a = in_groups(rewards(b), z_score)
    rate = in_groups([float(b.solved(i)) for i in b.lists], lambda group: [mean(group)] * G)
    beta = [0.001 * (0.5 if x <= 0.3 else 1.0) for x in rate]
    return over_lists(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.26) - beta[i] * k3(b, pi, i, t))


@method
def uniapl(b: Batch) -> Loss:
    """L_GRPO + .1 L_SFT (arXiv 2509.25148; the weight is ours)."""
    rl = grpo(b)
    return lambda pi: rl(pi) - 0.1 * mean(x for demonstration in pi.demonstrations for x in demonstration)


@method
def farl(b: Batch) -> Loss:
    """L_GRPO - .01 mean log sigmoid(log pi_ref - log pi) of the demonstrations' tokens (arXiv 2509.24156)."""
    rl = grpo(b)

    def forgotten(pi):
        pairs = [
            pair
            for rows in zip(pi.demonstrations, b.demonstration_ref, strict=True)
            for pair in zip(*rows, strict=True)
        ]
        return mean(math.log(1 / (1 + math.exp(lp - ref))) for lp, ref in pairs)

    return lambda pi: rl(pi) - 0.01 * forgotten(pi)


@method
def hipo(b: Batch) -> Loss:
    """Text outside entries has (mean of the mode - mean + R - mean) / std, all else (R - mean of the mode) / std of the
    mode; the mode is whether there is such text (after arXiv 2509.23967)."""
    r = rewards(b)
    talks = ["t" in b.texts[i] for i in b.lists]
    unit = [line_units(b, i) for i in b.lists]

    def of_prompt(group):
        found = []
        every, own = [r[i] for i in group], {mode: [r[i] for i in group if talks[i] == mode] for mode in (True, False)}
        means = {mode: mean(values) for mode, values in own.items() if values}
        raised = dict(means)
        if len(means) == 2 and std(every) > 0 and means[False] <= means[True] <= means[False] + 0.01 * abs(means[True]):
            raised[False] += 0.01 * abs(means[True])
        for i in group:
            mine = own[talks[i]]
            judged = (raised[talks[i]] + r[i] - 2 * mean(every)) / (std(every) + 1e-4) if std(every) else 0.0
            answered = (r[i] - means[talks[i]]) / ((std(mine) if len(mine) > 1 else 0.0) + 1e-4)
            found.append((judged, answered))
        return found

    a = in_groups(b.lists, of_prompt)

    def of_token(pi, i, t):
        advantage = a[i][0] if unit[i][t] == "text" else a[i][1]
        return ppo(w(b, pi, i, t), advantage, 0.2, 0.26) - 0.001 * k3(b, pi, i, t)

    return over_lists(b, of_token)


@method
def uniapl_adversarial(b: Batch) -> Loss:
    """L_GRPO + .1 L_SFT - .1 mean sg(log 2 D) mean log pi, D = sigmoid(w (1, mean log pi, log |y|)) (ours)."""
    both = uniapl(b)

    def reward(i):
        x = (1.0, mean(b.pi.lp[i]), math.log(len(b.pi.lp[i])))
        return math.log(2 / (1 + math.exp(-sum(a * c for a, c in zip(DISCRIMINATOR, x, strict=True)))))

    r = [reward(i) for i in b.lists]
    return lambda pi: both(pi) - 0.1 * mean(r[i] * mean(pi.lp[i]) for i in b.lists)


def effective_rank(states: Sequence[tuple[float, float]]) -> float:
    """exp(-sum_j p_j log p_j), p_j = sigma_j / sum sigma, with sigma the singular values of the centred states."""
    x, y = (centred([state[axis] for state in states]) for axis in (0, 1))
    xx, xy, yy = (sum(a * c for a, c in zip(*pair, strict=True)) for pair in ((x, x), (x, y), (y, y)))
    root = math.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    sigma = [math.sqrt(max((xx + yy) / 2 + sign * root, 0.0)) for sign in (1, -1)]
    p = [value / sum(sigma) for value in sigma if value > 1e-9]
    return math.exp(-sum(value * math.log(value) for value in p))


@method
def verl_erank(b: Batch) -> Loss:
    """A + min(relu(Phi), |A| / 2) under GRPO's loss."""
    return grpo_loss(b, [x + y for x, y in zip(*erank_advantages(b), strict=True)])


def erank_advantages(b: Batch) -> tuple[list[float], list[float]]:
    """A with eps 1e-6, and its bonus min(relu(Phi), |A| / 2).

    Phi = g tanh(d_ER) + (1 - g) tanh(d_ERV), g = sigmoid(2 d_ERA), d = (m - usual) / |usual| in [-5, 5]; m is measured
    after each of the first N entries (ours)."""

    def measured(i):
        last = {line: t for t, line in enumerate(b.lines(i)) if b.letters(i)[t] in "hm"}
        return [effective_rank(b.states[i][: last[line] + 1]) for line in b.entry_lines(i)[:N]]

    def bonus(i):
        m = measured(i)
        velocity = [m[j] - mean(m[:j]) for j in range(1, len(m))]
        acceleration = [after - before for before, after in zip([0.0, *velocity], velocity, strict=False)][1:]
        found = {
            "effective_rank": m[-1],
            "rank_velocity": mean(velocity or [0.0]),
            "rank_acceleration": mean(acceleration or [0.0]),
        }
        d = {name: clip((found[name] - usual) / (abs(usual) + 1e-8), -5.0, 5.0) for name, usual in USUAL.items()}
        gate = 1 / (1 + math.exp(-2 * d["rank_acceleration"]))
        return gate * math.tanh(d["effective_rank"]) + (1 - gate) * math.tanh(d["rank_velocity"])

    a = in_groups(rewards(b), lambda r: z_score(r, 1e-6))
    return a, [min(max(bonus(i), 0.0), abs(x) / 2) for i, x in enumerate(a)]


# Other surrogates and aggregations of the list's advantage.


@method
def bnpo(b: Batch) -> Loss:
    """GRPO under a mean over tokens."""
    a = in_groups(rewards(b), z_score)
    return over_tokens(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.26) - 0.001 * k3(b, pi, i, t))


@method
def dapo(b: Batch) -> Loss:
    """A mean over the tokens of the whole batch, clip-higher, no KL (arXiv 2503.14476)."""
    a = in_groups(rewards(b), z_score)
    return over_all_processes(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.28))


@method
def dr_grpo(b: Batch) -> Loss:
    """A = R - mean; -1/(B L_max) sum_i sum_t."""
    a = in_groups(rewards(b), centred)
    return over_limit(b, lambda pi, i, t: ppo(w(b, pi, i, t), a[i], 0.2, 0.26) - 0.001 * k3(b, pi, i, t))


@method
def top_entropy(b: Batch) -> Loss:
    """DAPO on the fifth of tokens with the highest entropy, divided by the number of all (arXiv 2506.01939)."""
    a = in_groups(rewards(b), z_score)
    bound = quantile([x for of_list in b.pi.entropy for x in of_list], 0.8)

    def of_token(pi, i, t):
        return ppo(w(b, pi, i, t), a[i], 0.2, 0.28) if b.pi.entropy[i][t] >= bound else 0.0

    return over_all_processes(b, of_token)


@method
def siren(b: Batch) -> Loss:
    """Dr. GRPO + .005 (H - anchor)^2, H the mean over lists of the mean top-p entropy of the tokens above its .8
    quantile in the list (arXiv 2509.25133)."""
    a = in_groups(rewards(b), centred)

    def peaks(pi, i):
        bound = quantile(b.pi.top_p_entropy[i], 0.8)
        return mean(pi.top_p_entropy[i][t] for t in b.tokens(i) if b.pi.top_p_entropy[i][t] > bound)

    surrogate = over_limit(b, lambda pi, i, t: dual_ppo(w(b, pi, i, t), a[i], 0.2, 0.2))
    return lambda pi: surrogate(pi) + 0.005 * (mean(peaks(pi, i) for i in b.lists) - ANCHOR) ** 2


@method
def canon(b: Batch) -> Loss:
    """A_inter: R - mean of the half of the group with entropies on the other side."""
    r, entropy = rewards(b), [mean(row) for row in b.old_entropy]

    def inter(group):
        order = sorted(group, key=lambda i: entropy[i])
        low, high = order[: G // 2], order[G // 2 :]
        return [r[i] - mean(r[j] for j in (high if i in low else low)) for i in group]

    a = in_groups(b.lists, inter)
    return over_limit(b, lambda pi, i, t: dual_ppo(w(b, pi, i, t), a[i], 0.2, 0.28))


@method
def gspo(b: Batch) -> Loss:
    """min(s A, clip(s) A) with s the geometric mean of the list's ratios (arXiv 2507.18071)."""
    a = in_groups(rewards(b), z_score)
    return lambda pi: (
        -mean(ppo(s(b, pi, i), a[i], 3e-4, 4e-4) - 0.001 * mean(k3(b, pi, i, t) for t in b.tokens(i)) for i in b.lists)
    )


@method
def gspo_token(b: Batch) -> Loss:
    """s_t = sg[s] pi / sg[pi] (arXiv 2507.18071, Eq. 13)."""
    a, held = in_groups(rewards(b), z_score), [s(b, b.pi, i) for i in b.lists]

    def s_t(pi, i, t):
        return held[i] * math.exp(pi.lp[i][t] - b.pi.lp[i][t])

    return over_lists(b, lambda pi, i, t: ppo(s_t(pi, i, t), a[i], 3e-4, 4e-4) - 0.001 * k3(b, pi, i, t))


@method
def rloo(b: Batch) -> Loss:
    """A_i = R_i - mean_{j != i} R_j, and the list is one action: its ratio is prod_t w_t (arXiv 2402.14740, TRL)."""
    a = in_groups(rewards(b), lambda r: [x - (sum(r) - x) / (G - 1) for x in r])

    def of_list(pi, i):
        ratio = math.prod(w(b, pi, i, t) for t in b.tokens(i))
        return ppo(ratio, a[i], 0.2, 0.2) - 0.001 * mean(k3(b, pi, i, t) for t in b.tokens(i))

    return lambda pi: -mean(of_list(pi, i) for i in b.lists)


@method
def luspo(b: Batch) -> Loss:
    """GSPO with a sum over the list's tokens (TRL)."""
    a = in_groups(rewards(b), z_score)
    return lambda pi: -mean(len(b.tokens(i)) * ppo(s(b, pi, i), a[i], 2e-3, 2e-3) for i in b.lists)


@method
def gmpo(b: Batch) -> Loss:
    """A {prod_t min(w^sgn A, clip(w, e^-.4, e^.4)^sgn A)^sgn A}^(1/|y|) (arXiv 2507.20673)."""
    a = in_groups(rewards(b), z_score)

    def clipped(ratio, sign):
        return min(ratio**sign, clip(ratio, math.exp(-0.4), math.exp(0.4)) ** sign) ** sign

    def geometric(pi, i):
        sign = math.copysign(1, a[i])
        return math.prod(clipped(w(b, pi, i, t), sign) for t in b.tokens(i)) ** (1 / len(b.tokens(i)))

    return lambda pi: -mean(a[i] * geometric(pi, i) for i in b.lists)


@method
def cispo(b: Batch) -> Loss:
    """sg(min(w, 5)) A log pi, a mean over the tokens of the whole batch (arXiv 2506.13585)."""
    a = in_groups(rewards(b), z_score)
    return over_all_processes(b, lambda pi, i, t: min(w(b, b.pi, i, t), 5.0) * a[i] * pi.lp[i][t])


@method
def sapo(b: Batch) -> Loss:
    """4 / tau sigmoid(tau (w - 1)) A, tau = 1 where A > 0, else 1.05 (arXiv 2511.20347)."""
    a = in_groups(rewards(b), z_score)

    def gate(ratio, tau):
        return 4 / tau / (1 + math.exp(-tau * (ratio - 1)))

    return over_lists(b, lambda pi, i, t: gate(w(b, pi, i, t), 1.0 if a[i] > 0 else 1.05) * a[i])


@method
def vespo(b: Batch) -> Loss:
    """sg(phi(W)) A log pi, phi(W) = e^lambda W^k e^(-lambda W), W = prod_t w_t, over the whole batch (TRL)."""
    a = in_groups(rewards(b), z_score)

    def phi(i):
        k, rate = (2.0, 3.0) if a[i] >= 0 else (3.0, 2.0)
        product = math.prod(w(b, b.pi, i, t) for t in b.tokens(i))
        return math.exp(rate) * product**k * math.exp(-rate * product)

    weight = [phi(i) for i in b.lists]
    return over_all_processes(b, lambda pi, i, t: weight[i] * a[i] * pi.lp[i][t])


@method
def topr(b: Batch) -> Loss:
    """A log pi where R > 0, sg(min(w, 1)) A log pi elsewhere, a mean over tokens (arXiv 2503.14286, ROLL)."""
    r = rewards(b)
    a = in_groups(r, z_score)
    return over_tokens(b, lambda pi, i, t: (1.0 if r[i] > 0 else min(w(b, b.pi, i, t), 1.0)) * a[i] * pi.lp[i][t])


def dppo_loss(b: Batch, too_far: Callable[[float, float], bool]) -> Loss:
    """sg(min(w, 10000)) A log pi with A = R - mean, summed over tokens and divided by B L_max. Tokens whose p is too
    far from p_old count 0 if A would push them further."""
    a = in_groups(rewards(b), centred)

    def of_token(pi, i, t):
        p, old = math.exp(b.pi.lp[i][t]), math.exp(b.old[i][t])
        left_out = too_far(p, old) and (p - old) * a[i] > 0
        return 0.0 if left_out else min(w(b, b.pi, i, t), 10_000.0) * a[i] * pi.lp[i][t]

    return over_limit(b, of_token)


@method
def dppo_tv(b: Batch) -> Loss:
    """|p - p_old| > .15 (arXiv 2602.04879, verl)."""
    return dppo_loss(b, lambda p, old: abs(p - old) > 0.15)


@method
def dppo_kl(b: Batch) -> Loss:
    """p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p)) > .05 (arXiv 2602.04879, verl)."""

    def divergence(p, old):
        return old * math.log(old / p) + (1 - old) * math.log((1 - old) / (1 - p))

    return dppo_loss(b, lambda p, old: divergence(p, old) > 0.05)


def covariances(b: Batch, a: Sequence[float]) -> dict[tuple[int, int], float]:
    """(A - mean A)(log pi - mean log pi) of every token, with means over all tokens."""
    tokens = [(i, t) for i in b.lists for t in b.tokens(i)]
    mean_a, mean_lp = mean(a[i] for i, _ in tokens), mean(b.pi.lp[i][t] for i, t in tokens)
    return {(i, t): (a[i] - mean_a) * (b.pi.lp[i][t] - mean_lp) for i, t in tokens}


def largest(scores: dict[tuple[int, int], float], share: float, count: int) -> set[tuple[int, int]]:
    """The largest values: a share of the tokens, at least one."""
    return set(sorted(scores, key=lambda token: -scores[token])[: max(int(share * count), 1)])


@method
def clip_cov(b: Batch) -> Loss:
    """PPO's loss as a mean over tokens, but 0 for the 2e-4 of tokens with the largest covariance among Clip-Cov's
    candidates (arXiv 2505.22617 draws them at random)."""
    return clip_cov_loss(b, largest(covered(b), 2e-4, len(covariances(b, in_groups(rewards(b), z_score)))))


def covered(b: Batch) -> dict[tuple[int, int], float]:
    """Clip-Cov's candidates with their covariance: the unclipped tokens whose covariance lies in (1, 5)."""
    a = in_groups(rewards(b), z_score)

    def clipped(i, t):
        return ppo(w(b, b.pi, i, t), a[i], 1.0, 1.0) < w(b, b.pi, i, t) * a[i]

    return {u: c for u, c in covariances(b, a).items() if 1 < c < 5 and not clipped(*u)}


def clip_cov_loss(b: Batch, stopped: set[tuple[int, int]]) -> Loss:
    a = in_groups(rewards(b), z_score)
    return over_tokens(b, lambda pi, i, t: 0.0 if (i, t) in stopped else ppo(w(b, pi, i, t), a[i], 1.0, 1.0))


@method
def kl_cov(b: Batch) -> Loss:
    """w A - |log w| on the .002 of the tokens with the largest covariance, w A elsewhere, a mean over tokens (arXiv
    2505.22617)."""
    a = in_groups(rewards(b), z_score)
    found = covariances(b, a)
    held = largest(found, 0.002, len(found))
    return over_tokens(b, lambda pi, i, t: w(b, pi, i, t) * a[i] - ((i, t) in held) * abs(log_w(b, pi, i, t)))


@method
def rover(b: Batch) -> Loss:
    """-(Q_t - sg(R - mean + V_{t+1}))^2, Q = log pi - log pi_old; V is the vocabulary's mean of log pi - log pi_old at
    the next position, 0 after the last token; a mean over tokens (arXiv 2509.24981)."""
    a = in_groups(rewards(b), centred)

    def of_token(pi, i, t):
        last = t + 1 == len(b.tokens(i))
        value = 0.0 if last else b.mean_lp[i][t + 1] - b.old_mean_lp[i][t + 1]
        return -((log_w(b, pi, i, t) - (a[i] + value)) ** 2)

    return over_tokens(b, of_token)


@method
def humanline(b: Batch) -> Loss:
    """w = exp(clip(log pi - log pi_ref, -1, 1.5)), a mean over tokens; population std with eps 1e-2 (arXiv
    2509.24207)."""
    a = in_groups(rewards(b), lambda r: [(x - mean(r)) / (population_std(r) + 1e-2) for x in r])

    def ratio(pi, i, t):
        return math.exp(clip(pi.lp[i][t] - b.ref[i][t], -1.0, 1.5))

    return over_tokens(b, lambda pi, i, t: ppo(ratio(pi, i, t), a[i], 0.15, 0.15) - 0.01 * k3(b, pi, i, t))


@method
def gpg(b: Batch) -> Loss:
    """B / (B - M) (R - mean) log pi, a mean over tokens; M lists are in groups without differences (arXiv
    2504.02546)."""
    r = rewards(b)
    valid = sum(max(r[start : start + G]) > min(r[start : start + G]) for start in range(0, len(r), G)) * G
    a = [len(r) / valid * x for x in in_groups(r, centred)]
    return over_tokens(b, lambda pi, i, t: a[i] * pi.lp[i][t])


@method
def e2c(b: Batch) -> Loss:
    """GRPO with twice the loss for the plan, "t", and for ranks 1 to 3 (after arXiv 2509.23946)."""
    a, unit = in_groups(rewards(b), z_score), [line_units(b, i) for i in b.lists]

    def of_token(pi, i, t):
        weight = 2.0 if b.letters(i)[t] == "t" or unit[i][t] in (1, 2, 3) else 1.0
        return weight * (ppo(w(b, pi, i, t), a[i], 0.2, 0.26) - 0.001 * k3(b, pi, i, t))

    return over_lists(b, of_token)


@method
def sage(b: Batch) -> Loss:
    """sg(min(s, 1) (1 + .5 (1 - c))) A log pi for good lists, sg(min(s, c / (1 - c)) (1 + .5 exp(-H))) A log pi for bad
    ones, s the geometric mean of the ratios, c that of pi (after arXiv 2601.21452)."""
    a = in_groups(rewards(b), z_score)

    def weight(i):
        c, entropy = math.exp(mean(b.pi.lp[i])), mean(b.pi.entropy[i])
        if a[i] < 0:
            return min(s(b, b.pi, i), c / (1 - c)) * (1 + 0.5 * math.exp(-entropy))
        return min(s(b, b.pi, i), 1.0) * (1 + 0.5 * (1 - c))

    return over_lists(b, lambda pi, i, t: weight(i) * a[i] * pi.lp[i][t] - 0.001 * k3(b, pi, i, t))


@method
def dro(b: Batch) -> Loss:
    """A log pi - .1 / 2 (log w)^2, a mean over tokens, A = R - mean (verl)."""
    a = in_groups(rewards(b), centred)
    return over_tokens(b, lambda pi, i, t: a[i] * pi.lp[i][t] - 0.1 / 2 * log_w(b, pi, i, t) ** 2)


@method
def reinforce(b: Batch) -> Loss:
    """(R - mean) log pi."""
    a = in_groups(rewards(b), centred)
    return over_lists(b, lambda pi, i, t: a[i] * pi.lp[i][t])


@method
def rft(b: Batch) -> Loss:
    """log pi of the lists that succeed."""
    return over_lists(b, lambda pi, i, t: b.solved(i) * pi.lp[i][t])


@method
def best_of_group(b: Batch) -> Loss:
    """log pi of the best list of each group; lists that tie share it, and nothing is the best of equals."""

    def formula(r):
        return [(x == max(r)) / r.count(max(r)) if max(r) > min(r) else 0.0 for x in r]

    a = in_groups(rewards(b), formula)
    return over_lists(b, lambda pi, i, t: a[i] * pi.lp[i][t])


@method
def c2gspg(b: Batch) -> Loss:
    """A log c + .01 (y log c + (1 - y) log(1 - c)), A = (R - mean) / (1 - c_old + 1e-6), c = exp(mean_t log pi)."""
    c_old = [math.exp(mean(row)) for row in b.old]
    a = [x / (1 - c + 1e-6) for x, c in zip(in_groups(rewards(b), centred), c_old, strict=True)]

    def of_list(pi, i):
        log_c, y = mean(pi.lp[i]), b.solved(i)
        return a[i] * log_c + 0.01 * (y * log_c + (1 - y) * math.log(1 - math.exp(log_c)))

    return lambda pi: -mean(of_list(pi, i) for i in b.lists)


# Advantages of ranks.


def line_units(b: Batch, i: int) -> list[int | str]:
    """The unit of every token: the rank 1 .. N of its line, or "overflow", "text", "eos"."""
    rank_of_line = {line: k for k, line in enumerate(b.entry_lines(i), start=1)}

    def unit(letter, line):
        k = rank_of_line.get(line, 0)
        return "eos" if letter == "." else "overflow" if k > N else k or "text"

    return [unit(letter, line) for letter, line in zip(b.letters(i), b.lines(i), strict=True)]


def paper_units(b: Batch, i: int) -> list[int | str]:
    """The same, with the EOS of a list of N in its last rank (arXiv 2510.20150, section 2.1)."""
    return [N if unit == "eos" and len(b.entries(i)) == N else unit for unit in line_units(b, i)]


def paper_shaping(b: Batch, i: int) -> dict[int | str, float]:
    """Advantages of tokens outside ranks (arXiv 2510.20150, section 2.3.3, appendix C)."""
    return {"overflow": -0.1, "text": 0.0, "eos": -0.1 if len(b.entries(i)) < N else 0.0}


def of_ranks(
    b: Batch, r: Callable[[int, int], float], formula: Callable[[Sequence[float]], list[float]] = z_score
) -> list[dict[int | str, float]]:
    """A_ik = (r_ik - mean_i r_ik) / (std_i r_ik + eps) over the group at rank k (Eq. 7), plus `paper_shaping`."""
    columns = {k: in_groups([r(i, k) for i in b.lists], formula) for k in ranks()}
    return [{**paper_shaping(b, i), **{k: columns[k][i] for k in ranks()}} for i in b.lists]


def blocks(units: Sequence[int | str]) -> Iterator[tuple[int | str, list[int]]]:
    """Each unit that has tokens, with its tokens."""
    for unit in dict.fromkeys(units):
        yield unit, [t for t, other in enumerate(units) if other == unit]


def rank_grpo_loss(b: Batch, r: Callable[[int, int], float]) -> Loss:
    """-1/(B N) sum_i sum_k [min(w_ik A_ik, clip(w_ik, .94, 1.08) A_ik) - .001 mean k3], w_ik = exp(mean of log w over
    the tokens of rank k) (Eq. 6). The tokens outside ranks form one block (ours)."""
    a, of_list = of_ranks(b, r), [list(blocks(paper_units(b, i))) for i in b.lists]

    def of_unit(pi, i, unit, tokens):
        ratio = math.exp(mean(log_w(b, pi, i, t) for t in tokens))
        return ppo(ratio, a[i][unit], 0.06, 0.08) - 0.001 * mean(k3(b, pi, i, t) for t in tokens)

    return lambda pi: -sum(of_unit(pi, i, *block) for i in b.lists for block in of_list[i]) / (len(b.lists) * N)


@method
def rank_grpo(b: Batch) -> Loss:
    """Eqs. 6 to 8 of arXiv 2510.20150."""
    return rank_grpo_loss(b, lambda i, k: log_decay(b, i, k))


def ndcg(b: Batch, i: int, kept: Sequence[int]) -> float:
    """NDCG@N of the list with these ranks in this order."""
    ideal = sum(1 / math.log2(k + 1) for k in range(1, min(b.n_truth[i], N) + 1))
    return sum(b.rel(i, k) / math.log2(place + 1) for place, k in enumerate(kept, start=1)) / ideal


@method
def swap_rank(b: Batch) -> Loss:
    """r_ik = mean over j > k of NDCG(all) - NDCG(all, k and j exchanged)."""

    def exchanged(k, j):
        return [{k: j, j: k}.get(place, place) for place in ranks()]

    def value(i, k):
        later = [j for j in ranks() if j > k]
        return mean(ndcg(b, i, ranks()) - ndcg(b, i, exchanged(k, j)) for j in later) if later else 0.0

    return rank_grpo_loss(b, value)


@method
def swap_pool_rank(b: Batch) -> Loss:
    """r_ik = mean over the candidates j behind rank k of NDCG(all) - NDCG(all, k and j exchanged). Behind the list are
    80 candidates, among them all relevant ones that it lacks."""

    def dcg_of(rel):
        return sum(x / math.log2(place + 1) for place, x in enumerate(rel[:N], start=1))

    def value(i, k):
        rel = [b.rel(i, place) for place in ranks()]
        missing = b.n_truth[i] - sum(rel)
        pool = rel + [1] * missing + [0] * (80 - missing)
        ideal = dcg_of([1] * min(b.n_truth[i], N))
        drops = []
        for j in range(k, len(pool)):
            swapped = list(pool)
            swapped[k - 1], swapped[j] = swapped[j], swapped[k - 1]
            drops.append((dcg_of(pool) - dcg_of(swapped)) / ideal)
        return mean(drops)

    return rank_grpo_loss(b, value)


@method
def removal_rank(b: Batch) -> Loss:
    """r_ik = NDCG(all) - NDCG(all but k)."""
    return rank_grpo_loss(b, lambda i, k: ndcg(b, i, ranks()) - ndcg(b, i, [j for j in ranks() if j != k]))


@method
def shapley_rank(b: Batch) -> Loss:
    """r_ik = sum over coalitions S without k of |S|! (N - |S| - 1)! / N! (NDCG(S + k) - NDCG(S))."""

    return rank_grpo_loss(b, lambda i, k: shapley_value(k, lambda coalition: ndcg(b, i, sorted(coalition))))


def shapley_value(k: int, worth: Callable[[Sequence[int]], float]) -> float:
    """Sum over coalitions S without k of |S|! (N - |S| - 1)! / N! (worth(S + k) - worth(S))."""
    others = [j for j in ranks() if j != k]
    return sum(
        math.factorial(size) * math.factorial(N - size - 1) / math.factorial(N)
        * (worth([*coalition, k]) - worth(coalition))
        for size in range(N)
        for coalition in combinations(others, size)
    )  # fmt: skip


@method
def shapley_max_rank(b: Batch) -> Loss:
    """r_ik = sum over coalitions S without k of |S|! (N - |S| - 1)! / N! (max of S + k - max of S), over the ranks'
    gains rel_k / log2(k + 1)."""

    def value(i, k):
        def best(coalition):
            return max((b.rel(i, j) / math.log2(j + 1) for j in coalition), default=0.0)

        return shapley_value(k, best)

    return rank_grpo_loss(b, value)


@method
def optimal_token_baseline(b: Batch) -> Loss:
    """A_ik = r_ik - sum_j W_jk r_jk / sum_j W_jk over the lists with rank k, W_jk the sum of 1 - 2 pi + sum pi^2 over
    the tokens of ranks 1 to k; a token's ratio, a mean over ranks (arXiv 2602.07078 with ranks for tokens)."""
    unit = [paper_units(b, i) for i in b.lists]

    def energy(i, k):
        tokens = [t for t in b.tokens(i) if unit[i][t] in range(1, k + 1)]
        return sum(1 - 2 * math.exp(b.old[i][t]) + b.square_sums[i][t] for t in tokens) if k in unit[i] else 0.0

    def column(group, k):
        w_k = [energy(i, k) for i in group]
        r_k = [log_decay(b, i, k) for i in group]
        if not sum(w_k):
            return [0.0] * len(group)
        baseline = sum(x * y for x, y in zip(w_k, r_k, strict=True)) / sum(w_k)
        return [x - baseline for x in r_k]

    columns = {k: in_groups(b.lists, lambda group, k=k: column(group, k)) for k in ranks()}
    a = [{**paper_shaping(b, i), **{k: columns[k][i] for k in ranks()}} for i in b.lists]

    def of_unit(pi, i, u, tokens):
        return mean(ppo(w(b, pi, i, t), a[i][u], 0.2, 0.26) - 0.001 * k3(b, pi, i, t) for t in tokens)

    blocks_of = [list(blocks(unit[i])) for i in b.lists]
    return lambda pi: -sum(of_unit(pi, i, *block) for i in b.lists for block in blocks_of[i]) / (len(b.lists) * N)


@method
def rank_grpo_published(b: Batch) -> Loss:
    """A token's rank is the number of its line; all lines past N are one block; a mean over tokens. EOS shares the
    ratio of its line, and has +.1 after exactly N lines, else -.1."""
    of_rank = of_ranks(b, lambda i, k: log_decay(b, i, k))
    line = [[min(number, N) for number in b.lines(i)] for i in b.lists]

    def a(i, t):
        if b.letters(i)[t] == ".":
            return 0.1 if b.lines(i)[-1] + 1 == N else -0.1
        return of_rank[i][line[i][t] + 1] if line[i][t] < N else -0.1

    def ratio(pi, i, t):
        return math.exp(mean(log_w(b, pi, i, u) for u in b.tokens(i) if line[i][u] == line[i][t]))

    return over_tokens(b, lambda pi, i, t: ppo(ratio(pi, i, t), a(i, t), 0.06, 0.08) - 0.001 * k3(b, pi, i, t))


@method
def rlmlr(b: Batch) -> Loss:
    """A = .8 A_list + .2 A_rank of the token, both R - mean, under verl's loss (arXiv 2509.23040; ranks are states)."""
    of_list, of_rank = in_groups(rewards(b), centred), of_ranks(b, lambda i, k: log_decay(b, i, k), centred)
    unit = [paper_units(b, i) for i in b.lists]

    def a(i, t):
        return 0.8 * of_list[i] + 0.2 * of_rank[i][unit[i][t]]

    return over_tokens(b, lambda pi, i, t: dual_ppo(w(b, pi, i, t), a(i, t), 0.2, 0.2) - 0.001 * k3(b, pi, i, t))


@method
def f_grpo(b: Batch) -> Loss:
    """Text and ranks 1 and 2 have the advantage of the list's recall, rank 3 that of its NDCG, under GRPO's loss (after
    arXiv 2605.12995; the halves are ours)."""
    recall = in_groups([sum(b.rel(i, k) for k in ranks()) / b.n_truth[i] for i in b.lists], z_score)
    utility = in_groups([ndcg(b, i, ranks()) for i in b.lists], z_score)
    unit = [line_units(b, i) for i in b.lists]

    def a(i, t):
        return {"text": recall[i], 1: recall[i], 2: recall[i], 3: utility[i]}.get(unit[i][t], 0.0)

    return over_lists(b, lambda pi, i, t: ppo(w(b, pi, i, t), a(i, t), 0.2, 0.26) - 0.001 * k3(b, pi, i, t))


# Rows.


def gradient(loss: Loss, pi: Policy, step: float) -> dict[str, Rows]:
    """Central differences with respect to all values of the policy."""
    found: dict[str, Rows] = {}
    for name, rows in vars(pi).items():
        place = [list(row) for row in rows]
        moved = replace(pi, **{name: place})

        def slope(row: list[float], t: int, moved: Policy = moved) -> float:
            x, ends = row[t], []
            for row[t] in (x + step, x - step):
                ends.append(loss(moved))
            row[t] = x
            return (ends[0] - ends[1]) / (2 * step)

        found[name] = [[slope(row, t) for t in range(len(row))] for row in place]
    return found


def row(name: str, b: Batch, step: float = STEP) -> dict:
    """The entry of a method in the file; values without gradient are omitted."""
    loss = METHODS[name](b)
    slopes = {
        key: [[round(x, 12) + 0.0 for x in of_list] for of_list in rows]
        for key, rows in gradient(loss, b.pi, step).items()
    }
    return {
        "loss": round(loss(b.pi), 14),
        "gradient": {key: rows for key, rows in slopes.items() if any(map(any, rows))},
    }


def main() -> None:
    b = drawn()
    lines = [f"{json.dumps(name)}: {json.dumps(row(name, b))}" for name in METHODS]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

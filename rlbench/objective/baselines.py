"""Baselines: from returns to advantages, relative to the group or to the batch.

A piece takes a `Group` (P prompts, G completions per prompt, C columns: 1 under sequence credit, N under rank credit)
and returns advantages (P, G, C). Returns that are not counted get advantage 0 and affect nothing else. Below, n is the
number of counted returns in one column of one prompt. Formulas published for one reward per completion are applied to
each column; this adapts them to lists.

The subtracted baseline is computed per column. Only `batch_std`, `reinforce_pp`, `reinforce_pp_baseline` and
`rapo_scale` take a scale from several prompts; with C > 1 all columns share that scale. With one scale per column, a
rank at which only one of P prompts varies would have its advantages grow by sqrt(P) or more, to the size of ranks that
vary everywhere.

The facts of a piece say how a prompt's advantages react when all returns of that prompt change alike. They hold for the
default options and ignore the guard in a denominator:

shift: "invariant" if adding a number changes nothing, else "other";
scale: under multiplication by a positive number, "invariant" if nothing changes, "equivariant" if the advantages are
multiplied too, else "other";
needs_positive: returns must not be negative; default false;
credit: the credit whose columns it reads in order; default any;
once: it must see the reward of whole lists once per rollout, because it adds a bonus to it or remembers it; default
    false.
"""

import math
from dataclasses import replace
from typing import Literal

import torch

from rlbench.config.options import AtLeastOne, NonNegative, Positive, Share
from rlbench.objective.forward import square_sum
from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines

STD_EPSILON = 1e-4  # TRL's guard against a zero standard deviation; the published Rank-GRPO code keeps it
VERL_EPSILON = 1e-6  # verl's guard, also in Rewarding the Unlikely and the code of C2GSPG, which build on verl
WHITEN_EPSILON = 1e-8  # verl's masked_whiten adds it to the variance
COSINE_WARM_UP, COSINE_CYCLES = 0.2, 3  # CANON's code: 30 of 150 steps, then three cycles

Metric = Literal["tokens", "entries", "entropy", "confidence", "popularity", "in_catalog", "duplicates"]
Schedule = Literal[
    "constant",
    "first_inter_later_intra",
    "first_intra_later_inter",
    "cosine_first_inter_later_intra",
    "cosine_first_intra_later_inter",
]


@baselines.piece(shift="invariant", scale="invariant")
def group_std(
    group: Group, *, epsilon: Positive = STD_EPSILON, deviation: Literal["sample", "population"] = "sample"
) -> torch.Tensor:
    """(R - mean) / (std + epsilon) over the group (GRPO, arXiv 2402.03300; Rank-GRPO, Eq. 7).

    Args:
        epsilon: guard against a zero standard deviation.
        deviation: sample divides the sum of squares by n - 1 (TRL, verl), population by n (Humanline's code).
    """
    std = _std(group.returns, group.counted)
    n = _size(group.counted).to(std)
    if deviation == "population":
        std = std * ((n - 1).clamp(min=0) / n.clamp(min=1)).sqrt()
    return _centred(group.returns, group.counted) / (std + epsilon)


@baselines.piece(shift="invariant", scale="equivariant")
def group_mean(group: Group) -> torch.Tensor:
    """R - mean over the group (Dr. GRPO, arXiv 2503.20783)."""
    return _centred(group.returns, group.counted)


@baselines.piece(shift="invariant", scale="equivariant")
def leave_one_out(group: Group) -> torch.Tensor:
    """R_i - mean of the others, which equals n / (n - 1) times R_i - mean (RLOO, arXiv 2402.14740)."""
    n = _size(group.counted)
    return _centred(group.returns, group.counted) * n / (n - 1).clamp(min=1)


@baselines.piece(shift="other", scale="other")
def batch_std(group: Group) -> torch.Tensor:
    """(R - mean over the group) / (std of all R + 1e-4), std unbiased (TRL's scale_rewards="batch", after arXiv
    2508.08221).

    Adapted to lists: all columns share one std.
    """
    every = group.returns[group.counted]
    std = every.std() if every.numel() > 1 else every.new_zeros(())
    return _centred(group.returns, group.counted) / (std + STD_EPSILON)


@baselines.piece(shift="other", scale="other")
def reinforce_pp(group: Group) -> torch.Tensor:
    """(R - mean) / sqrt(var + 1e-8) over the tokens of the batch, no group (REINFORCE++, arXiv 2501.03262).

    The paper puts a KL penalty inside R; here it is the loss's KL term. Adapted to lists: each column has its own mean.
    """
    return _whitened(group.returns, group)


@baselines.piece(shift="invariant", scale="other")
def reinforce_pp_baseline(group: Group) -> torch.Tensor:
    """R - mean over the group, then normalised as in `reinforce_pp` (REINFORCE++ with baseline, arXiv 2501.03262).

    The mean over tokens differs from the mean over completions, so a group of equal returns keeps a small advantage.
    """
    return _whitened(_centred(group.returns, group.counted), group)


@baselines.piece(shift="invariant", scale="equivariant")
def opo(group: Group) -> torch.Tensor:
    """R - sum(l R) / sum(l), l the tokens of the unit (OPO, arXiv 2505.23585).

    This baseline has the least variance if squared gradients grow with length. Adapted to lists: l of a rank is the
    number of its own tokens.
    """
    weights = _kept(group.unit_tokens.to(group.returns.dtype), group.counted)
    baseline = _weighted_mean(_kept(group.returns, group.counted), weights, dim=(1,))
    # A group without tokens has nothing to train.
    return _kept(group.returns - baseline, group.counted & (weights.sum(dim=1, keepdim=True) > 0))


@baselines.piece(needs=("old_logps", f"old_{square_sum.__name__}"), shift="invariant", scale="equivariant")
def optimal_token(group: Group) -> torch.Tensor:
    """R - sum(W R) / sum(W), W the squared norm of the score by the logits, summed from the list's beginning to the end
    of the unit (Optimal Token Baseline, arXiv 2602.07078, as verl's `optimal_token_baseline`).

    A token's part of W is 1 - 2 pi + sum of pi^2 over the vocabulary. `opo` has the number of the unit's tokens for W.
    Adapted to lists: a unit is a rank, or the whole list, where the paper has one baseline for each token position.
    A rank that only one list of the group has gets 0; verl gives it its return unless `handle_zero_tail` is off.
    """
    there = group.counted & (group.unit_tokens > 0)
    weights = _kept(group.until["score_norm"], there)
    baseline = _weighted_mean(_kept(group.returns, there), weights, dim=(1,))
    # A group without tokens has nothing to train, and one whose every token was certain has no gradient.
    return _kept(group.returns - baseline, group.counted & (weights.sum(dim=1, keepdim=True) > 0))


@baselines.piece(needs=("divergence",), shift="other", scale="other")
def kl_budget(group: Group, *, budget: Positive = 10.0, penalty: NonNegative = 1.0) -> torch.Tensor:
    """`group_std` of R, or of -penalty for a unit at whose end the list has spent its budget of divergence from the
    reference (CMDP distillation, arXiv 2509.22921; inspired by: abstract only).

    The paper maximises the task's reward under a bound on the divergence from a teacher, by a changed reward in place
    of a Lagrange multiplier. The divergence spent is the sum of log pi_old - log pi_ref over the tokens so far. Adapted
    to lists: the teacher is the reference policy. Under credit of ranks a list keeps the rewards of the ranks before
    the one at which its budget ran out.

    Args:
        budget: the most divergence of a list, in nats.
        penalty: minus the return of a unit beyond the budget.
    """
    spent = group.until["divergence"] > budget
    return group_std(replace(group, returns=torch.where(spent, -penalty, group.returns)))


@baselines.piece(shift="invariant", scale="invariant")
def solved(group: Group) -> torch.Tensor:
    """1 for lists that succeed, 0 for others: supervised learning of successes (RFT, arXiv 2308.01825; RAFT).

    "Succeeds" is the reward's success rule, so the size of R has no effect.
    """
    return _kept(group.success.to(group.returns.dtype)[:, :, None].expand_as(group.returns), group.counted)


@baselines.piece(shift="invariant", scale="invariant")
def best(group: Group) -> torch.Tensor:
    """1 for the highest R of a group, 0 for the others: supervised learning of the best of G lists.

    Lists that tie share the 1. Where all R are equal, none is the best, and all get 0.
    """
    highest = group.returns.masked_fill(~group.counted, -math.inf).amax(dim=1, keepdim=True)
    ties = ((group.returns == highest) & group.counted & _differ(group)).to(group.returns.dtype)
    return ties / ties.sum(dim=1, keepdim=True).clamp(min=1)


@baselines.piece(shift="invariant", scale="invariant")
def ordinal(group: Group) -> torch.Tensor:
    """2 - 4 (rho - 1) / (n - 1), rho the rank of R in the group, best first (GOPO, arXiv 2602.03876).

    Adapted to lists: ties share their mean rank. The published code orders ties by position, which gives a group
    without hits advantages between -2 and 2.
    """
    last = _size(group.counted) - 1
    return _kept((4 * _mean_rank(group.returns, group.counted) - 2 * last) / last.clamp(min=1), group.counted)


@baselines.piece(shift="invariant", scale="other")
def risk_seeking(group: Group, *, beta: Positive = 2.0) -> torch.Tensor:
    """(exp(beta R) / mean exp(beta R) - 1) / beta (RS-GRPO, arXiv 2509.24261; beta = 2 is its choice).

    As beta goes to 0 this becomes `group_mean`. A large beta rewards only the best. It is computed as
    (d - mean d) / (beta (1 + mean d)) with d = exp(beta (R - max R)) - 1, which avoids overflow and cancellation.
    """
    best = group.returns.masked_fill(~group.counted, -math.inf).amax(dim=1, keepdim=True)
    d = _kept((beta * (group.returns - best)).expm1(), group.counted)
    return _centred(d, group.counted) / (beta * (1 + _mean(d, group.counted)))


@baselines.piece(needs=("old_logps",), shift="other", scale="invariant")
def unlikeliness(group: Group, *, beta_rank: Share = 0.25) -> torch.Tensor:
    """`group_std`, with epsilon 1e-6, of R_i (1 - beta_rank rank_i / n), where rank_i = 0 .. n - 1 orders the group by
    mean log-probability, the likeliest last (Rewarding the Unlikely, arXiv 2506.02355).

    Adapted to lists: each rank is ordered by the log-probability of its own tokens, units without tokens are left out
    of the order, and ties share their mean rank. The published code orders ties by position.
    """
    ranked = group.counted & (group.unit_tokens > 0)
    rank = _kept(_mean_rank(group.log_confidence, ranked), ranked)
    shaped = group.returns * (1 - beta_rank * rank / _size(ranked).clamp(min=1))
    return _centred(shaped, group.counted) / (_std(shaped, group.counted) + VERL_EPSILON)


@baselines.piece(needs=("old_logps",), shift="invariant", scale="equivariant")
def conditional_split(
    group: Group,
    *,
    metric: Metric = "entropy",
    mu: Share = 1.0,
    schedule: Schedule = "constant",
    alpha: Share = 1.0,
    weighted: Literal["high", "low"] = "high",
) -> torch.Tensor:
    """mu (R - mean of the other half) + (1 - mu) (R - mean of the own half), where a metric of the lists splits the
    group into halves of high and low values (CANON, arXiv 2509.23962, Eq. 5).

    mu = 1 compares the halves (CANON-Inter), mu = 0 compares within them (CANON-Intra), mu = 1/2 is `group_mean`.
    alpha < 1 pushes away from one half (Eq. 9): its R is multiplied by alpha in the comparison of halves. With
    metric=tokens and weighted=high this shortens lists.

    Adapted to lists: the metrics other than tokens and entropy. The halves are always equal, as Theorem 1 of the paper
    requires: a middle member belongs half to each, and members tied across the middle share the remaining places. The
    published code puts the middle member into the high half and orders ties by position.

    Args:
        metric: a name in `Group.features`.
        mu: weight of the comparison of halves if schedule=constant.
        schedule: first_inter_later_intra sets mu = 1 - share of successful lists in the batch, first_intra_later_inter
            sets mu to that share (section 5.2). cosine_* follow `Group.progress`, see `_between_halves`.
        alpha: weight of R in one half.
        weighted: the half that alpha applies to. The published code uses high for length and low for entropy.
    """
    returns = _kept(group.returns, group.counted)
    values = group.features[metric].to(returns.dtype).unsqueeze(-1).expand_as(returns)
    high = _kept(_share_of_high_half(values, group.counted), group.counted)
    low = _kept(1 - high, group.counted)
    mean_high, mean_low = _weighted_mean(returns, high, dim=(1,)), _weighted_mean(returns, low, dim=(1,))
    of_high, of_low = (alpha, 1.0) if weighted == "high" else (1.0, alpha)
    inter = high * (of_high * returns - of_low * mean_low) + low * (of_low * returns - of_high * mean_high)
    intra = high * (returns - mean_high) + low * (returns - mean_low)
    between = mu if schedule == "constant" else _between_halves(schedule, group)
    return between * inter + (1 - between) * intra


@baselines.piece(shift="other", scale="invariant", needs_positive=True)
def max_rl(group: Group) -> torch.Tensor:
    """(R - mean) / mean over the group, 0 where the mean is 0 (MaxRL, arXiv 2602.02710; prime-rl's max_rl).

    Raises:
        ValueError: a return is negative. A negative mean would reverse the signs of the advantages.
    """
    if (group.returns[group.counted] < 0).any():
        raise ValueError(f"max_rl needs non-negative returns, got {group.returns[group.counted].min().item()}")
    mean = _mean(group.returns, group.counted)
    return _centred(group.returns, group.counted) / torch.where(mean > 0, mean, 1.0)


@baselines.piece(shift="invariant", scale="invariant")
def pass_at_k(group: Group, *, by_std: bool = True) -> torch.Tensor:
    """The best of the group gets its distance to the second best, all others 0; if several tie for best, all get 0
    (verl's grpo_passk, after arXiv 2503.19595).

    Args:
        by_std: whether to divide by the group's standard deviation + 1e-6, as verl does by default.
    """
    returns = group.returns.masked_fill(~group.counted, -math.inf)
    best, second = returns.topk(2, dim=1).values.unbind(dim=1)
    # A single return has no second best.
    leads = group.counted & (returns == best.unsqueeze(1)) & (_size(group.counted) > 1)
    margin = _kept((best - second).unsqueeze(1).expand_as(returns), leads)
    return margin / (_std(group.returns, group.counted) + VERL_EPSILON) if by_std else margin


@baselines.piece(shift="invariant", scale="invariant")
def rapo_scale(group: Group) -> torch.Tensor:
    """`group_std` times the number of groups / the number of groups whose returns differ (RAPO, arXiv 2509.24107).

    This keeps the size of an update, however many groups have no signal. Adapted to lists: each column of a prompt is a
    group, and all share one factor.
    """
    groups = group.counted.any(dim=1).sum()
    return group_std(group) * groups / _differ(group).sum().clamp(min=1)


@baselines.piece(shift="invariant", scale="equivariant")
def gpg(group: Group, *, valid: Literal["varied", "nonzero"] = "varied") -> torch.Tensor:
    """alpha (R - mean), alpha the number of returns / the number of valid ones (GPG, arXiv 2504.02546).

    Returns without a gradient no longer make the update smaller. Adapted to lists: all columns share one alpha.

    Args:
        valid: varied counts the returns of groups that differ, as the paper does; nonzero counts those that are not 0,
            as verl's `gpg` does.
    """
    if valid == "varied":
        good = _differ(group).expand_as(group.counted) & group.counted
    else:
        good = group.counted & (_kept(group.returns, group.counted) != 0)
    return _centred(group.returns, group.counted) * group.counted.sum() / good.sum().clamp(min=1)


@baselines.piece(needs=("old_logps",), shift="invariant", scale="invariant")
def windowed(
    group: Group, *, anchor: AtLeastOne = 2.0, width: AtLeastOne = 2.0, temperature: Positive = 1.0
) -> torch.Tensor:
    """`group_std`, where the negative advantages near a place in the order of likelihood weigh most (TAWin, arXiv
    2604.22504, which maximises a windowed partial AUC; after notes).

    The n members with negative advantages are ordered by mean log-probability, the likeliest at place 1; ties share
    their mean place. With x = -|place - anchor|, a weight is min(1, exp((x - lambda) / temperature)), lambda such that
    the weights sum to `width`. They are then divided by their mean, so that they sum to n. With width >= n this is
    `group_std`. Positive advantages keep their weight 1.

    Adapted to lists: the paper orders items that a beam search found, each right or wrong. A list or a rank is wrong
    here if its advantage is negative. Units without tokens are left out of the order and keep their advantage.

    Args:
        anchor: the place at the middle of the window. The paper's best were 2 for Recall@3 and 4 for Recall@5.
        width: number of members in the window. The paper's is not known to us.
        temperature: how softly the window ends; 1 in the paper.
    """
    advantages = group_std(group)
    negative = group.counted & (group.unit_tokens > 0) & (advantages < 0)
    likely = _kept(group.log_confidence, negative)
    distances = (1 + _mean_rank(-likely, negative) - anchor).abs()
    weights = _soft_window(-distances / temperature, negative, width)
    return torch.where(negative, weights * advantages, advantages)


@baselines.piece(needs=("old_logps",), shift="invariant", scale="equivariant")
def c2gspg(group: Group) -> torch.Tensor:
    """(R - mean) / (1 - c + 1e-6), c = exp(mean log-probability) of the unit under the rollout policy (C2GSPG, arXiv
    2509.23129; formula from a descendant's code).

    As c goes to 0 this becomes `group_mean`. Adapted to lists: each rank has its own c. Units without tokens have
    c = 0.
    """
    confidence = _kept(group.log_confidence.exp(), group.unit_tokens > 0)
    return _kept(_centred(group.returns, group.counted) / (1 - confidence + VERL_EPSILON), group.counted)


@baselines.piece(shift="invariant", scale="invariant", credit="mode_and_answer")  # shift: but for draws
def by_mode(group: Group, *, gamma: NonNegative = 1.0, omega: NonNegative = 0.01) -> torch.Tensor:
    """Advantages of a mode and of answers within a mode (HiPO, arXiv 2509.23967; after notes, formulas from memory).

    `rollout=modes` gives half of a group the mode that thinks first. The first column judges the mode: (mean R of the
    mode - mean R + gamma (R - mean R)) / std. All other columns judge the answer: (R - mean R of the mode) / std of the
    mode. If the mean without thoughts is below that with them by at most omega |mean R with thoughts|, it is raised by
    this much in the first column, so that a draw favours the shorter mode. Deviations are unbiased, plus 1e-4. If all
    returns of a group are equal, all advantages are 0.

    With gamma = 1, and lists of one mode alone, both columns are `group_std`.

    Args:
        gamma: weight of a list's own distance from the mean; ours.
        omega: share of the mean by which a draw is decided; ours.
    """
    thinks = (group.features["mode"] > 0).unsqueeze(2).expand_as(group.counted)
    apart, deviation = _centred(group.returns, group.counted), _std(group.returns, group.counted)
    on, off = group.counted & thinks, group.counted & ~thinks
    mean_on, mean_off = _mean(apart, on), _mean(apart, off)
    margin = omega * _mean(group.returns, on).abs()
    is_draw = (mean_off <= mean_on) & (mean_on <= mean_off + margin) & on.any(dim=1, keepdim=True)
    is_draw = is_draw & off.any(dim=1, keepdim=True) & (deviation > 0)
    judged = torch.where(thinks, mean_on, mean_off + margin * is_draw) + gamma * apart
    spread = torch.where(thinks, _std(group.returns, on), _std(group.returns, off))
    answered = torch.where(thinks, _centred(group.returns, on), _centred(group.returns, off)) / (spread + STD_EPSILON)
    advantages = torch.cat([judged[..., :1] / (deviation[..., :1] + STD_EPSILON), answered[..., 1:]], dim=2)
    return _kept(advantages, group.counted)


@baselines.piece(needs=("prompts",), shift="other", scale="other", once=True)
def value_tracker(group: Group, *, forget: Share = 0.9) -> torch.Tensor:
    """R - V, normalised over the batch, V a running mean of the prompt's returns in earlier rollouts (SPO, arXiv
    2509.13232; published code).

    After n weighted returns with sum s, V is s / n. A rollout with m returns of sum r makes them forget n + m and
    forget s + r. For returns of 0 and 1 this is the paper's Beta distribution. Then the advantages of a column lose
    their mean and are divided by one deviation for all columns, plus 1e-8.

    The paper draws one completion per prompt and estimates V from a few others beforehand. Here all returns of a group
    count, and the first group of a prompt takes the place of that estimate: R minus the mean of the group's others.
    Adapted to lists: each column has its own V.

    Args:
        forget: weight of the past. The paper takes it between .875 and .96 by how far the policy has moved since the
            prompt's last rollout; the published code also has a constant.
    """
    first = leave_one_out(group)
    advantages, returns = torch.zeros_like(first), _kept(group.returns, group.counted)
    for p, prompt in enumerate(group.prompts):
        for c in range(returns.size(2)):
            total, weight = (f"value_tracker/{prompt}/{c}/{name}" for name in ("total", "weight"))
            s, n = group.carried.get(total, 0.0), group.carried.get(weight, 0.0)
            advantages[p, :, c] = returns[p, :, c] - s / n if n else first[p, :, c]
            group.carried[total] = forget * s + returns[p, :, c].double().sum().item()
            group.carried[weight] = forget * n + group.counted[p, :, c].sum().item()
    counted = group.counted
    size = counted.sum(dim=(0, 1), keepdim=True).clamp(min=1)
    centred = _kept(advantages - _kept(advantages, counted).sum(dim=(0, 1), keepdim=True) / size, counted)
    deviation = (centred.square().sum() / (counted.sum() - 1).clamp(min=1)).sqrt()
    return centred / (deviation + WHITEN_EPSILON)


@baselines.piece(needs=("hidden_states",), shift="invariant", scale="invariant", once=True)
def effective_rank(group: Group, *, kappa: AtLeastOne = 2.0, ema: Share = 0.3) -> torch.Tensor:
    """A + min(relu(phi), |A| / kappa), A of `group_std` with epsilon 1e-6, phi from hidden states (VERL, arXiv
    2509.23808).

    Effective rank, its velocity and its acceleration are each compared with a running mean:
    d = clamp((m - mean) / (|mean| + 1e-8), -5, 5). With gate = sigmoid(2 d_acceleration),
    phi = gate tanh(d_effective_rank) + (1 - gate) tanh(d_velocity). An accelerating list is rewarded for exploring, any
    other for exploiting.

    The running means follow the published code. They start at 0, and an update's own mean enters them one update later.
    So the first update has no bonus. The second is compared with 0, where d is 5 or -5 unless m is 0. The third is
    compared with ema times the mean of the first.

    Adapted to lists: ranks are measured after each entry, and every token gets the bonus. The published code measures
    every 40 tokens and gives the bonus to the last token.

    Args:
        kappa: the bonus is at most |A| / kappa.
        ema: weight of the newest mean in the running mean.
    """
    advantages = group_std(group, epsilon=VERL_EPSILON)
    distance, carried = {}, group.carried
    begun = "effective_rank/last/effective_rank" in carried
    for name in ("effective_rank", "rank_velocity", "rank_acceleration"):
        values = group.features[name].to(advantages)
        running, last = f"effective_rank/{name}", f"effective_rank/last/{name}"
        usual = carried.setdefault(running, 0.0)
        distance[name] = ((values - usual) / (abs(usual) + 1e-8)).clamp(-5, 5)
        if begun:
            carried[running] = ema * carried[last] + (1 - ema) * usual
        carried[last] = values.mean().item()
    if not begun:
        return advantages
    gate = torch.sigmoid(2 * distance["rank_acceleration"])
    phi = gate * distance["effective_rank"].tanh() + (1 - gate) * distance["rank_velocity"].tanh()
    return advantages + torch.min(phi.relu().unsqueeze(2), advantages.abs() / kappa)


def _kept(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(P, G, C) values, with 0 where not counted."""
    return values.masked_fill(~counted, 0.0)


def _size(counted: torch.Tensor) -> torch.Tensor:
    """(P, 1, C) n, the number of counted returns."""
    return counted.sum(dim=1, keepdim=True)


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(P, 1, C) mean over the counted values of a group; 0 if none is counted."""
    if counted.all():
        return values.mean(dim=1, keepdim=True)
    return _kept(values, counted).sum(dim=1, keepdim=True) / _size(counted).clamp(min=1)


def _centred(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(P, G, C) distance to the mean of the group's counted values; exactly 0 if all of them are equal."""
    # Subtract one member's value first: a rounded mean of equal numbers may differ from that number.
    first = values.gather(1, counted.long().argmax(dim=1, keepdim=True))
    apart = _kept(values - first, counted)
    return _kept(apart - _mean(apart, counted), counted)


def _differ(group: Group) -> torch.Tensor:
    """(P, 1, C) bool: whether the counted returns of a group differ."""
    best = group.returns.masked_fill(~group.counted, -math.inf).amax(dim=1, keepdim=True)
    worst = group.returns.masked_fill(~group.counted, math.inf).amin(dim=1, keepdim=True)
    return best > worst


def _std(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(P, 1, C) unbiased standard deviation of a group's counted values; 0 if fewer than two are counted."""
    if counted.all() and values.size(1) > 1:
        return values.std(dim=1, keepdim=True)
    squares = _centred(values, counted).square().sum(dim=1, keepdim=True)
    return (squares / (_size(counted) - 1).clamp(min=1)).sqrt()


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """sum(w x) / sum(w) over `dim`, with the dimensions kept; 0 where all weights are 0."""
    total = weights.sum(dim=dim, keepdim=True)
    return (values * weights).sum(dim=dim, keepdim=True) / torch.where(total > 0, total, 1.0)


def _whitened(values: torch.Tensor, group: Group) -> torch.Tensor:
    """(P, G, C) values minus their column's mean, divided by one deviation for all columns; each token weighs the same.

    Later ranks have smaller returns. With one mean for all columns, every first rank would be pushed up and every last
    rank down, whatever their entries.
    """
    weights = _kept(group.unit_tokens.to(values.dtype), group.counted)
    has_tokens = weights.sum(dim=(0, 1), keepdim=True) > 0  # a column without tokens has nothing to train
    mean = _weighted_mean(_kept(values, group.counted), weights, dim=(0, 1))
    centred = _kept(values - mean, group.counted & has_tokens)
    variance = (centred.square() * weights).sum() / (weights.sum() - 1).clamp(min=1)
    return centred * (variance + WHITEN_EPSILON).rsqrt()


def _below_and_tied(values: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, G, C) each: number of the group's counted values below this one, and number equal to it."""
    mine, others = values.unsqueeze(2), values.unsqueeze(1)
    below, tied = (others < mine) & counted.unsqueeze(1), (others == mine) & counted.unsqueeze(1)
    return below.sum(dim=2).to(values.dtype), tied.sum(dim=2).to(values.dtype)


def _mean_rank(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(P, G, C) rank among the group's counted values, 0 for the smallest; ties share their mean rank. Meaningless
    where not counted."""
    below, tied = _below_and_tied(values, counted)
    return below + (tied - 1) / 2


def _soft_window(x: torch.Tensor, counted: torch.Tensor, width: float) -> torch.Tensor:
    """(P, G, C) weights min(1, exp(x - lambda)) of the n counted members of a group, divided by their mean; lambda is
    such that the weights sum to `width` before the division. All are 1 if n <= width. Meaningless where not counted.

    Args:
        x: (P, G, C).
        counted: (P, G, C) bool.
        width: at least 1.
    """
    n = _size(counted)
    x = x.masked_fill(~counted, -math.inf)
    order = x.sort(dim=1, descending=True).values
    # If the m largest weights are 1, then lambda = log(sum of exp(x) of the others / (width - m)). Take the smallest m
    # for which no other weight is above 1.
    left = (width - torch.arange(x.size(1), device=x.device, dtype=x.dtype)).clamp(min=0).log()[:, None]
    bound = order.flip(1).logcumsumexp(1).flip(1) - left
    first = (order <= bound).to(x.dtype).argmax(dim=1, keepdim=True)
    weights = torch.where(n > width, (x - bound.gather(1, first)).clamp(max=0.0).exp(), 1.0)
    return weights * n / _kept(weights, counted).sum(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _share_of_high_half(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(P, G, C) in [0, 1]: share of each counted member that belongs to the half with high values.

    Tied members occupy `tied` places from `below` upwards. They share equally the places above n / 2.
    """
    below, tied = _below_and_tied(values, counted)
    return ((below + tied - _size(counted) / 2) / tied.clamp(min=1)).clamp(0, 1)


def _between_halves(schedule: Schedule, group: Group) -> float:
    """mu of a schedule that is not constant (CANON, section 5.2; the cosines' numbers are from its code).

    cosine_first_inter_later_intra falls from 1 to 0.4 in each cycle. cosine_first_intra_later_inter is 1 minus a cosine
    that falls from 0.6 to 0.
    """
    successful = group.success.double().mean().item()
    return {
        "first_inter_later_intra": 1 - successful,
        "first_intra_later_inter": successful,
        "cosine_first_inter_later_intra": _cosine_with_restarts(group.progress, high=1.0, low=0.4),
        "cosine_first_intra_later_inter": 1 - _cosine_with_restarts(group.progress, high=0.6, low=0.0),
    }[schedule]


def _cosine_with_restarts(progress: float, high: float, low: float) -> float:
    """Linear warm-up to `high`, then repeated falls to `low` along half a cosine."""
    if progress < COSINE_WARM_UP:
        return high * progress / COSINE_WARM_UP
    cycles = (progress - COSINE_WARM_UP) / (1 - COSINE_WARM_UP) * COSINE_CYCLES
    phase = round(cycles, 9) % 1  # rounding errors can land just short of the step at which a cycle begins
    return low + (high - low) * (1 + math.cos(math.pi * phase)) / 2

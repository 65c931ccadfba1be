"""Recipes of tuples: which lists of a prompt are chosen, and which are rejected.

A recipe is one pure function of `PromptLists`. It returns tuples, each a chosen list and its `negatives` rejected ones.
A list is one that was drawn, the demonstration, or lines that the recipe has written. A prompt may give no tuple.

Facts:

- pairs: number of pairs in a tuple; each has 1 + `negatives` lists;
- demonstrations: whether it always needs the prompt's demonstration;
- follows: whether `algorithm.chosen` has an effect;
- draws: how many drawn lists a tuple takes: a whole "pair", the "rejected" ones, or "one";
- judge: who scores drawn lists beside the reward: "none", the "policy" that drew them, or a "teacher".

Recipes that write lists use the ground truth of training prompts only. Nothing that they write counts as drawn.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from rlbench.config.options import PositiveInt
from rlbench.objective.pieces import Place
from rlbench.preference.inputs import Listed, PromptLists, Tuple, Written
from rlbench.preference.tuples import below, best_and_worst

recipes = Place("pairs", ("pairs", "demonstrations", "follows", "draws", "judge"))


@recipes.piece(pairs=1, demonstrations=False, follows=True, draws="pair", judge="none")
def ranked(prompt: PromptLists) -> list[Tuple]:
    """The k-th best drawn list by the reward against the k-th worst ones; or, with `chosen: demonstration`, the
    demonstration against drawn lists of a lower reward."""
    rewards = [one.reward for one in prompt.drawn]
    if prompt.chosen == "demonstration":
        assert prompt.demonstration is not None
        worse = below(prompt.demonstration.reward, rewards, prompt.negatives, prompt.most)
        return [[prompt.demonstration, *(prompt.drawn[place] for place in places)] for places in worse]
    return _by(prompt, rewards)


def _by(prompt: PromptLists, scores: Sequence[float]) -> list[Tuple]:
    """Tuples of drawn lists in the order of some scores."""
    pairs = best_and_worst(scores, prompt.negatives, prompt.most)
    return [[prompt.drawn[best], *(prompt.drawn[place] for place in worst)] for best, worst in pairs]


def _best(prompt: PromptLists) -> Listed | None:
    """The demonstration, unless SFT cuts it, or the drawn list of the highest reward; None if it has no entry."""
    if prompt.chosen == "demonstration":
        best = prompt.demonstration
        assert best is not None
    else:
        best = max(prompt.drawn, key=lambda one: one.reward)  # the first of equal ones
    return best if best.lines and best.reward > -math.inf else None


ERRORS = ("outside", "duplicate", "seen")
"""Kinds of errors that `amplified` makes."""


@recipes.piece(pairs=1, demonstrations=False, follows=True, draws="one", judge="none")
def amplified(
    prompt: PromptLists, *, kind: Literal["all", "outside", "duplicate", "seen"] = "all", errors: PositiveInt = 2
) -> list[Tuple]:
    """The best list, or the demonstration, against copies of it with more errors (SeaPO, arXiv 2509.24781).

    The three types of errors for lists: items outside the catalogue, repeats of an earlier rank, and items that the
    dialogue has named. A copy has `errors` of one type, in place of entries drawn at random. Copies take the types in
    turn; a type that is not possible is left out. Inspired by the abstract; the types are ours.

    Args:
        kind: the type of all copies, or all types in turn.
        errors: entries that an error replaces in each copy, at most all.
    """
    best = _best(prompt)
    if best is None:
        return []
    kinds = [
        name
        for name in (ERRORS if kind == "all" else (kind,))
        if not (name == "seen" and not prompt.seen) and not (name == "duplicate" and len(best.lines) < 2)
    ]
    if not kinds:
        return []
    first = int(prompt.random.integers(len(kinds)))
    count = prompt.most * prompt.negatives
    copies = [_with_errors(prompt, best.lines, kinds[(first + n) % len(kinds)], errors) for n in range(count)]
    return [[best, *copies[k * prompt.negatives : (k + 1) * prompt.negatives]] for k in range(prompt.most)]


def _with_errors(prompt: PromptLists, lines: Sequence[str], kind: str, errors: int) -> Written:
    made, random = list(lines), prompt.random
    # The first rank has no earlier one to repeat.
    possible = np.arange(1 if kind == "duplicate" else 0, len(made))
    for place in sorted(random.choice(possible, size=min(errors, len(possible)), replace=False).tolist()):
        if kind == "outside":
            made[place] = _unknown(prompt, made[place])
        elif kind == "seen":
            made[place] = prompt.catalogue[sorted(prompt.seen)[random.integers(len(prompt.seen))]]
        else:
            made[place] = made[random.integers(place)]
    return made


def _unknown(prompt: PromptLists, line: str) -> str:
    """The line with the words of another item between its own: a plausible title that no catalogue has."""
    other = prompt.catalogue[int(prompt.random.integers(len(prompt.catalogue)))]
    title, year = line.rpartition(" (")[::2] if " (" in line else (line, "")
    found = f"{title} and {other.rpartition(' (')[0] or other}"
    return f"{found} ({year}" if year else found


@recipes.piece(pairs=1, demonstrations=False, follows=False, draws="rejected", judge="none")
def corrected(prompt: PromptLists, *, fixes: PositiveInt = 3) -> list[Tuple]:
    """A corrected copy of a drawn list against the list itself (MedCritical, arXiv 2509.23368).

    The first attempts are rejected, in the order drawn. A correction takes up to `fixes` relevant items that the list
    lacks, in place of wrong entries from the last rank on, or behind a short list. Then it moves the hits to the front.
    The paper's model corrects itself with a teacher's hints; here the ground truth corrects, for which the policy draws
    no further list. Inspired by the abstract. With several rejected lists, the next attempts are rejected too.

    Args:
        fixes: largest number of entries that a correction replaces.
    """
    return _improved(_attempts(prompt)[: prompt.most], lambda attempt: _correction(prompt, attempt, fixes))


def _attempts(prompt: PromptLists) -> list[Sequence[Listed]]:
    """The drawn lists in their order, as many together as a tuple rejects."""
    n = prompt.negatives
    return [prompt.drawn[k * n : (k + 1) * n] for k in range(len(prompt.drawn) // n)]


def _improved(attempts: Sequence[Sequence[Listed]], rewrite: Callable[[Listed], Written]) -> list[Tuple]:
    """The first list of each group as it is rewritten, against the group; none where nothing changes or is left."""
    return [[better, *group] for group in attempts if (better := rewrite(group[0])) and better != group[0].lines]


def _correction(prompt: PromptLists, attempt: Listed, fixes: int) -> Written:
    there = {item for item, hit in zip(attempt.items, attempt.hits, strict=True) if hit}
    missing = [item for item in prompt.relevant if item not in there]
    lines, hits = list(attempt.lines), list(attempt.hits)
    wrong = [place for place, hit in enumerate(hits) if not hit][::-1]
    for place, item in zip(wrong[:fixes], missing, strict=False):
        lines[place], hits[place] = prompt.catalogue[item], True
    added = missing[len(wrong) : fixes][: max(prompt.length - len(lines), 0)]
    lines, hits = lines + [prompt.catalogue[item] for item in added], hits + [True] * len(added)
    return [line for line, hit in zip(lines, hits, strict=True) if hit] + [
        line for line, hit in zip(lines, hits, strict=True) if not hit
    ]


@recipes.piece(pairs=1, demonstrations=False, follows=False, draws="rejected", judge="none")
def reactions(prompt: PromptLists) -> list[Tuple]:
    """A drawn list as its user's reaction rewrites it, against the list itself (RLHI, arXiv 2509.25137).

    The paper rewrites an answer by what its user says next. Here the user's reaction to a list comes from the record:
    she takes its relevant items, which move to the front in order of their gain, and objects to items that the dialogue
    has named and to repeats, which go. No item is added, because a reaction names only what was shown. Lists are
    rejected in the order drawn; a list that no reaction changes gives no tuple. Inspired by the abstract.
    """
    return _improved(_attempts(prompt), lambda attempt: _rewritten(prompt, attempt))[: prompt.most]


def _rewritten(prompt: PromptLists, shown: Listed) -> Written:
    taken = [place for place, hit in enumerate(shown.hits) if hit]
    taken.sort(key=lambda place: -prompt.relevant.get(shown.items[place], 1.0))  # stable: ties keep their order
    named = {shown.items[place] for place in taken}
    kept = list(taken)
    for place, item in enumerate(shown.items):
        objected = item in prompt.seen or (item >= 0 and item in named)
        if place in taken or objected:
            continue
        kept.append(place)
        named.add(item)
    return [shown.lines[place] for place in kept]


@recipes.piece(pairs=1, demonstrations=False, follows=False, draws="pair", judge="none")
def implicit(prompt: PromptLists) -> list[Tuple]:
    """The best drawn list against the worst, by agreement with what the user wrote (PUGC, arXiv 2506.04463).

    The paper takes content that users wrote for others as a sign of what they prefer, and scores answers by it. Here a
    user's content is the items that she names as relevant, with their gains, and those that the dialogue has named. A
    list scores Σ_k gain_k / log2(k + 1) minus the same discount for each item already named. The run's reward plays no
    part. Inspired by the abstract.
    """
    return _by(prompt, [_agreement(prompt, one) for one in prompt.drawn])


def _agreement(prompt: PromptLists, one: Listed) -> float:
    total = 0.0
    for rank, (item, hit) in enumerate(zip(one.items, one.hits, strict=True), 1):
        gain = prompt.relevant.get(item, 1.0) if hit else -1.0 if item in prompt.seen else 0.0
        total += gain / math.log2(rank + 1)
    return total


WORDS = ("a great choice", "one of the very best", "you will love it", "a true classic")
"""What `counterfactual` adds to entries."""


@recipes.piece(pairs=1, demonstrations=False, follows=True, draws="pair", judge="none")
def counterfactual(
    prompt: PromptLists, *, bias: Literal["words", "entries", "popular"] = "words", strength: PositiveInt = 3
) -> list[Tuple]:
    """The tuples of `ranked`, and for each the same chosen list against copies with a bias and no better content
    (Flattery, Fluff, Fog, arXiv 2506.05339).

    The paper adds pairs in which the original is preferred to a rewrite that only exaggerates a bias of preference
    models. Biases of lists: words of praise behind entries, entries past rank N, and popular items in place of misses.
    Half of `tuples_per_prompt`, rounded up, are those of `ranked`. Inspired by the abstract; these biases are ours.

    Args:
        bias: which bias the copies have.
        strength: number of entries that it changes or adds.
    """
    pairs = ranked(prompt)[: (prompt.most + 1) // 2]
    found = list(pairs)
    for best in [one[0] for one in pairs][: prompt.most - len(pairs)]:
        assert isinstance(best, Listed)
        copies = [_biased(prompt, best, bias, strength) for _ in range(prompt.negatives)]
        if all(copy != best.lines for copy in copies):
            found.append([best, *copies])
    return found


def _biased(prompt: PromptLists, best: Listed, bias: str, strength: int) -> Written:
    lines, random = list(best.lines), prompt.random
    if bias == "words":
        for place in random.permutation(len(lines))[:strength].tolist():
            lines[place] = f"{lines[place]} - {WORDS[int(random.integers(len(WORDS)))]}"
        return lines
    taken = {*best.items, *prompt.relevant, *prompt.seen}
    popular = [item for item in np.argsort(-prompt.popularity, kind="stable").tolist() if item not in taken]
    popular = popular[: 2 * strength]
    added = [prompt.catalogue[popular[i]] for i in random.permutation(len(popular))[:strength].tolist()]
    if bias == "entries":
        return lines + added
    misses = [place for place, hit in enumerate(best.hits) if not hit]
    for place, line in zip(misses, added, strict=False):
        lines[place] = line
    return lines


@recipes.piece(pairs=1, demonstrations=False, follows=False, draws="pair", judge="none")
def by_term(prompt: PromptLists) -> list[Tuple]:
    """As `ranked` by one term of the reward, in each round the next: one objective after the other (for OrthAlign)."""
    terms = len(prompt.drawn[0].terms)
    return _by(prompt, [one.terms[prompt.round % terms] for one in prompt.drawn])


@recipes.piece(pairs=2, demonstrations=True, follows=False, draws="pair", judge="none")
def offline_online(prompt: PromptLists, *, errors: PositiveInt = 3) -> list[Tuple]:
    """An offline pair and an online pair (for MetaAPO): the demonstration against a copy with errors, which no policy
    has drawn, and then the best drawn list against the worst.

    Args:
        errors: entries of the demonstration that an error replaces, as in `amplified`.
    """
    given = prompt.demonstration
    assert given is not None
    online = best_and_worst([one.reward for one in prompt.drawn], 1, prompt.most)
    if not given.lines or given.reward == -math.inf:
        return []
    return [
        [given, _with_errors(prompt, given.lines, "outside", errors), prompt.drawn[best], prompt.drawn[worst[0]]]
        for best, worst in online
    ]


@recipes.piece(pairs=1, demonstrations=False, follows=False, draws="pair", judge="policy")
def judged(prompt: PromptLists, *, by: Literal["likelihood", "reward"] = "likelihood") -> list[Tuple]:
    """The best drawn list against the worst, by the feedback of a judge that is a model (RLAIF+DPO, arXiv 2510.20059).

    The paper's judge is a large model. Here it is the policy that drew the lists: it prefers the list with the higher
    mean log-probability per token. No ground truth is read. `reward` takes the run's reward as the judge.
    Inspired by the abstract.

    Args:
        by: the judge.
    """
    scores = [one.score if by == "likelihood" else one.reward for one in prompt.drawn]
    return _by(prompt, scores)


@recipes.piece(pairs=1, demonstrations=False, follows=False, draws="pair", judge="teacher")
def feedback(
    prompt: PromptLists, *, endpoint: str = "", model: str = "", local: str = "", key_env: str = "OPENAI_API_KEY"
) -> list[Tuple]:
    """The best drawn list against the worst, in the order of a teacher (RLAIF+DPO, arXiv 2510.20059).

    The teacher reads the conversation and all drawn lists, and orders them. A prompt without an order gives no tuple.
    Inspired by the abstract.

    Args:
        endpoint: URL of an OpenAI-compatible endpoint, with `model`.
        model: the endpoint's model.
        local: a model's folder or hub id instead.
        key_env: environment variable with the endpoint's key; without it no key is sent.
    """
    return _by(prompt, [one.score for one in prompt.drawn])

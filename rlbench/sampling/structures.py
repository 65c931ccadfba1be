"""How the members of a group are drawn. G members per prompt, N ranks.

The facts of a structure:

check: (group size G, list length N, options) -> a sentence that says why this does not fit, or "";
levels: (G, N, options) -> the levels of its tree; empty if all members are drawn one by one;
held: whether its members can be held to the catalogue.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from rlbench.config.options import PositiveInt, Share, with_defaults
from rlbench.config.schema import RolloutConfig
from rlbench.sampling.members import MODE, PLAN, Beginning, Desk, Member, TreeLevel
from rlbench.sampling.places import structures
from rlbench.teacher.endpoint import check_endpoint


def _fits(size: int, length: int, **_: Any) -> str:
    return ""


def _no_levels(size: int, length: int, **_: Any) -> tuple[TreeLevel, ...]:
    return ()


def _check_prefix(size: int, length: int, *, answers: int, ranks: int) -> str:
    if size % answers or size // answers < 2:
        return (
            f"rollout.options.prefix.answers = {answers}: a group of trainer.rl.group_size = {size} must be at least "
            f"two prefixes of {answers} answers each; use a divisor of {size}"
        )
    if ranks >= length:
        return f"rollout.options.prefix.ranks = {ranks} must be less than dataset.list_length = {length}"
    return ""


def _prefix_levels(size: int, length: int, *, answers: int, ranks: int) -> tuple[TreeLevel, ...]:
    return TreeLevel(answers, size // answers, 0), TreeLevel(1, size, ranks)


def _depth(size: int, branch: int) -> int:
    """The depth of a tree with this number of leaves; 0 if there is none."""
    depth, leaves = 0, 1
    while leaves < size:
        depth, leaves = depth + 1, leaves * branch
    return depth if leaves == size else 0


def _check_tree(size: int, length: int, *, branch: int, every: int) -> str:
    if branch < 2 or not _depth(size, branch):
        return (
            f"rollout.options.tree.branch = {branch}: trainer.rl.group_size = {size} must be a power of it, such as "
            f"{max(branch, 2) ** 3}"
        )
    last = (_depth(size, branch) - 1) * every
    if last >= length:
        return (
            f"rollout.options.tree.every = {every}: the last of {_depth(size, branch)} splits would be behind rank "
            f"{last}, but dataset.list_length = {length}; use a smaller number"
        )
    return ""


def _tree_levels(size: int, length: int, *, branch: int, every: int) -> tuple[TreeLevel, ...]:
    depth = _depth(size, branch)
    return tuple(TreeLevel(branch ** (depth - 1 - level), branch, level * every) for level in range(depth))


def _check_edited(size: int, length: int, *, edits: int) -> str:
    if size % 2 or size < 4:
        return f"rollout.structure = edited needs an even trainer.rl.group_size of at least 4, not {size}"
    return ""


@structures.piece(check=_fits, levels=_no_levels, held=True)
def flat(prompts: int, size: int, desk: Desk) -> list[list[Member]]:
    """G independent members."""
    drawn = desk.draw([Beginning(prompt) for prompt in range(prompts) for _ in range(size)], None)
    return _groups(drawn, size)


@structures.piece(check=_check_prefix, levels=_prefix_levels, held=False)
def prefix(
    prompts: int, size: int, desk: Desk, *, answers: PositiveInt = 4, ranks: PositiveInt = 3
) -> list[list[Member]]:
    """G / M beginnings of `ranks` ranks with M = `answers` endings each (GRPO-MA, arXiv 2509.24494; after notes).

    The value of a beginning is the mean over its endings. Beginnings are compared with the prompt's other beginnings,
    endings with all endings of the prompt. The paper's beginning is a chain of thought; here it is the first ranks.

    Args:
        answers: endings per beginning, the paper's M.
        ranks: ranks of a beginning.
    """
    begun = desk.draw([Beginning(prompt) for prompt in range(prompts) for _ in range(size // answers)], ranks)
    return _groups(_continued(_of_prompts(begun, size // answers), desk, answers, None), size)


@structures.piece(check=_check_tree, levels=_tree_levels, held=False)
def tree(prompts: int, size: int, desk: Desk, *, branch: PositiveInt = 2, every: PositiveInt = 3) -> list[list[Member]]:
    """A tree that splits at rank boundaries, with G leaves (TreeRPO, arXiv 2506.05183; after notes).

    A node's value is the mean over its leaves, and it is compared with its siblings only. Mixture-of-Minds (arXiv
    2510.20176) gives its nodes the same values. The paper splits after a number of tokens, and leaves out groups of
    siblings with little spread; here their advantages are 0 only if they are equal.

    Args:
        branch: children of a node. G must be a power of it.
        every: ranks between two splits. The first split is before rank 1.
    """
    depth = _depth(size, branch)
    drawn = [Member([])] * prompts
    for level in range(depth):
        until = (level + 1) * every if level + 1 < depth else None
        drawn = _continued(_of_prompts(drawn, branch**level), desk, branch, until)
    return _groups(drawn, size)


@structures.piece(check=_check_edited, levels=_no_levels, held=False)
def edited(prompts: int, size: int, desk: Desk, *, edits: PositiveInt = 1) -> list[list[Member]]:
    """Half of the members are drawn, and the other half are edited copies of them (EditGRPO, arXiv 2509.22812).

    An edit is one of three, with equal chances among the possible ones: replace a wrong entry by a missing relevant
    item, delete a wrong entry, or add a missing item at the end. Copies that cannot be improved stay as they are. The
    log-probabilities of an edited list are those of its text under the present policy.

    Args:
        edits: edits of each copy.
    """
    drawn = flat(prompts, size // 2, desk)
    return [[*group, *_copies(prompt, group, edits, desk)] for prompt, group in enumerate(drawn)]


def _copies(prompt: int, group: list[Member], edits: int, desk: Desk) -> list[Member]:
    random, found = desk.random(prompt), []
    for member, written in zip(group, desk.read(prompt, group), strict=True):
        lines, hits, missing = list(written.lines), list(written.hits), list(written.missing)
        made = 0
        for _ in range(edits):
            made += _edit(lines, hits, missing, random)
        found.append(replace(desk.write(lines), edited=True) if made else member)
    return found


def _edit(lines: list[str], hits: list[bool], missing: list[str], random: np.random.Generator) -> bool:
    """Make one edit in place. Returns whether there was a possible one."""
    wrong = [place for place, hit in enumerate(hits) if not hit]
    possible = ["replace"] * bool(wrong and missing) + ["delete"] * (len(wrong) > 0 and len(lines) > 1)
    possible += ["add"] * bool(missing)
    if not possible:
        return False
    kind = possible[random.integers(len(possible))]
    if kind == "add":
        lines.append(missing.pop(random.integers(len(missing))))
        hits.append(True)
    else:
        place = wrong[random.integers(len(wrong))]
        if kind == "replace":
            lines[place], hits[place] = missing.pop(random.integers(len(missing))), True
        else:
            del lines[place], hits[place]
    return True


@structures.piece(check=_fits, levels=_no_levels, held=False)
def perturbed(
    prompts: int, size: int, desk: Desk, *, tries: PositiveInt = 3, most: PositiveInt = 2
) -> list[list[Member]]:
    """Members of middling reward give way to their best perturbation, if it scores higher (BoundRL, arXiv 2510.20151;
    after notes).

    A perturbation swaps two entries, moves an entry to the front, or replaces one by a random item of the catalogue. A
    member is middling if its reward is neither the lowest nor the highest of its group. The scores of perturbations
    depend on the ground truth, so chosen ones count as edited.

    Args:
        tries: perturbations of each member.
        most: perturbed members per group, those of the lowest rewards first.
    """
    groups = flat(prompts, size, desk)
    return [_perturbed(prompt, group, tries, most, desk) for prompt, group in enumerate(groups)]


def _perturbed(prompt: int, group: list[Member], tries: int, most: int, desk: Desk) -> list[Member]:
    totals, random = desk.totals(prompt, group), desk.random(prompt)
    middling = sorted((t, i) for i, t in enumerate(totals) if min(totals) < t < max(totals))[:most]
    found = list(group)
    for total, place in middling:
        (written,) = desk.read(prompt, [group[place]])
        if not written.lines:
            continue
        made = [desk.write(_perturbation(written.lines, desk.catalogue(), random)) for _ in range(tries)]
        scores = desk.totals(prompt, made)
        best = max(range(tries), key=lambda n: scores[n])
        if scores[best] > total:
            found[place] = replace(made[best], edited=True)
    return found


def _perturbation(lines: Sequence[str], catalogue: Sequence[str], random: np.random.Generator) -> list[str]:
    changed, kind = list(lines), random.integers(3)
    first, second = random.integers(len(lines), size=2).tolist()
    if kind == 0:
        changed[first], changed[second] = changed[second], changed[first]
    elif kind == 1:
        changed.insert(0, changed.pop(first))
    else:
        changed[first] = catalogue[int(random.integers(len(catalogue)))]
    return changed


def _check_expert(size: int, length: int, *, source: str, url: str, model: str, key_env: str, **_: Any) -> str:
    section, given = "rollout.options.expert", {"url": url, "model": model, "key_env": key_env}
    if source != "endpoint":
        unread = [f"{section}.{name} = {value}" for name, value in given.items() if value]
        what = " and ".join(unread)
        return f"{what}: source = {source} asks no endpoint; remove it, or use source: endpoint" if unread else ""
    problems = [check_endpoint(url, f"{section}.url", f"{section}.key_env")]
    if not model:
        problems.append(f"{section}.model is missing; name the model that the endpoint shall use")
    if key_env and key_env not in os.environ:
        problems.append(f"{section}.key_env = {key_env}: this environment variable is not set; put the key into it")
    return "; ".join(problem for problem in problems if problem)


@structures.piece(check=_check_expert, levels=_no_levels, held=False)
def expert(
    prompts: int,
    size: int,
    desk: Desk,
    *,
    chance: Share = 1.0,
    source: Literal["truth", "demonstration", "oracle", "endpoint"] = "truth",
    url: str = "",
    model: str = "",
    key_env: str = "",
) -> list[list[Member]]:
    """One member of a group is the expert's list, with a chance that a schedule may lower.

    This follows EAPO (arXiv 2509.23730), which is known from notes. In EAPO the policy asks an expert model. Here the
    expert's list replaces the last member. A group stays as it is where the expert does not answer.

    Args:
        chance: probability for each group; EAPO's is 1 / (number of the update).
        source: truth has the relevant items alone; demonstration is that of the prompt's context; oracle is the best
            list by the preference model of `mini`; endpoint asks a model.
        url: of an OpenAI-compatible endpoint.
        model: the model's name there.
        key_env: environment variable with the key, if it needs one.
    """
    groups = flat(prompts, size, desk)
    for prompt, group in enumerate(groups):
        lines = desk.read(prompt, [Member([])])[0].missing if source == "truth" else None
        if lines == [] or desk.random(prompt).random() >= chance:
            continue
        lines = desk.advice(prompt) if lines is None else lines
        if lines:
            group[-1] = replace(desk.write(lines), edited=True)
    return groups


def _check_modes(size: int, length: int, **_: Any) -> str:
    if size % 2 or size < 4:
        return f"rollout.structure = modes needs an even trainer.rl.group_size of at least 4, not {size}"
    return ""


@structures.piece(check=_check_modes, levels=_no_levels, held=False)
def modes(
    prompts: int, size: int, desk: Desk, *, thinks: str = "Thoughts:", answers: str = "List:", most: PositiveInt = 32
) -> list[list[Member]]:
    """Half of a group thinks before its lists, the other half does not (HiPO, arXiv 2509.23967; after notes).

    A member that thinks begins with the words `thinks`, writes the rest of that line, and then its list. The others
    begin with a line of the words `answers`. In HiPO special tokens name the mode; here these words do. The policy does
    not draw the words, and learns from them: they are the segment `MODE`. Evaluation leaves the mode to the policy.

    Args:
        thinks: beginning of members that think.
        answers: first line of the others.
        most: most tokens of the thoughts.
    """
    half = size // 2
    direct = replace(_first(desk, f"{answers}\n", MODE), mode=0)
    thought = _thoughts(prompts, half, replace(_first(desk, thinks, MODE), mode=1), most, desk)
    begun = [[*thought[first : first + half], *[direct] * (size - half)] for first in range(0, prompts * half, half)]
    return _groups(_continued([(p, member) for p, group in enumerate(begun) for member in group], desk, 1, None), size)


@structures.piece(check=_fits, levels=_no_levels, held=False)
def planned(prompts: int, size: int, desk: Desk, *, words: str = "Plan:", most: PositiveInt = 32) -> list[list[Member]]:
    """Each member writes a line that begins with `words`, its plan, and then its list (E2C, arXiv 2509.23946; notes).

    In E2C the policy has learned plans before. Here the words ask for one. Words and plan are the segment `PLAN`.

    Args:
        words: beginning of the plan.
        most: most tokens of the plan.
    """
    plans = _thoughts(prompts, size, _first(desk, words, PLAN), most, desk)
    return _groups(_continued(_of_prompts(plans, size), desk, 1, None), size)


def _first(desk: Desk, words: str, segment: int) -> Member:
    """A beginning with these words, all of one segment."""
    begun = desk.begin(words)
    return replace(begun, segments=(segment,) * len(begun.ids))


def _thoughts(prompts: int, each: int, words: Member, most: int, desk: Desk) -> list[Member]:
    """`each` lines of every prompt that begin with these words. What follows the words is the segment `PLAN`."""
    lines = desk.line([Beginning(prompt, words) for prompt in range(prompts) for _ in range(each)], most)
    return [replace(line, segments=_planned(line)) for line in lines]


def _planned(line: Member) -> tuple[int, ...]:
    return line.segments + (PLAN,) * (len(line.ids) - len(line.segments))


@structures.piece(check=_fits, levels=_no_levels, held=True)
def beams(prompts: int, size: int, desk: Desk) -> list[list[Member]]:
    """The G most likely lists of a beam search (ReRe's beam groups, which it holds to the catalogue).

    With `generation.constraint=catalogue` they are held to it. Beams are not a sample: their importance ratios start at
    1, so the update is that of a policy which would have drawn them.
    """
    return desk.beams(prompts, size)


def _of_prompts(members: list[Member], each: int) -> list[tuple[int, Member]]:
    """Members with the places of their prompts."""
    return [(place // each, member) for place, member in enumerate(members)]


def _continued(begun: list[tuple[int, Member]], desk: Desk, times: int, until: int | None) -> list[Member]:
    """`times` continuations of each beginning."""
    return desk.draw([Beginning(prompt, member) for prompt, member in begun for _ in range(times)], until)


def _groups(members: list[Member], size: int) -> list[list[Member]]:
    return [members[first : first + size] for first in range(0, len(members), size)]


def all_options(rollout: RolloutConfig) -> dict[str, Any]:
    """Every option of a rollout's structure, given or by default."""
    return with_defaults(structures[rollout.structure].options, rollout.options.get(rollout.structure, {}))


def levels_of(rollout: RolloutConfig, size: int, length: int) -> tuple[TreeLevel, ...]:
    """The levels of a rollout's structure, for groups of G members and lists of N ranks."""
    found: tuple[TreeLevel, ...] = structures[rollout.structure].facts["levels"](size, length, **all_options(rollout))
    return found

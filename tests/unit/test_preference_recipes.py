"""Recipes of tuples: what each chooses and rejects, and what is refused."""

import math

import numpy as np
import pytest

from rlbench.preference.inputs import Listed, PromptLists
from rlbench.preference.recipes import (
    amplified,
    by_term,
    corrected,
    counterfactual,
    implicit,
    judged,
    offline_online,
    ranked,
    reactions,
    recipes,
)
from rlbench.running.checks import check_config
from rlbench.running.cli import methods
from rlbench.runs.identity import stage_settings
from tests.conftest import composed

CATALOGUE = [f"Film {n} ({1950 + n})" for n in range(30)]
RELEVANT = {3: 1.0, 7: 2.0, 9: 0.5}
SEEN = frozenset({20, 21})


def listed(*items: int, reward: float = 0.0, **more) -> Listed:
    """A list of items of the catalogue; -1 is outside it."""
    hits = [item in RELEVANT and item not in items[:place] for place, item in enumerate(items)]
    lines = [CATALOGUE[item] if item >= 0 else "Nothing (1900)" for item in items]
    return Listed([*items, 99], lines, list(items), hits, reward, **more)


def prompt(*drawn: Listed, seed: int = 0, **changes) -> PromptLists:
    values = {
        "drawn": drawn,
        "demonstration": listed(7, 3, 9, 11, reward=3.0),
        "relevant": RELEVANT,
        "seen": SEEN,
        "catalogue": CATALOGUE,
        "popularity": np.arange(30),
        "chosen": "sampled",
        "length": 5,
        "negatives": 1,
        "most": 1,
        "round": 0,
        "random": np.random.default_rng(seed),
    }
    return PromptLists(**{**values, **changes})


A, B, C = listed(3, 1, reward=1.0), listed(0, 1, reward=0.0), listed(7, 3, reward=2.0)


def test_ranked_is_as_before():
    assert ranked(prompt(A, B, C)) == [[C, B]]
    given = prompt(A, B, C, chosen="demonstration", negatives=2)
    assert ranked(given) == [[given.demonstration, A, B]]
    assert ranked(prompt(B, B)) == []


@pytest.mark.parametrize("kind", ["outside", "duplicate", "seen"])
def test_a_copy_has_the_errors_that_were_asked_for(kind):
    best = listed(7, 3, 1, 2, 4, reward=3.0)
    for seed in range(20):
        ((chosen, copy),) = amplified(prompt(A, best, seed=seed), kind=kind, errors=2)
        assert chosen is best and len(copy) == 5
        changed = [line for line, before in zip(copy, best.lines, strict=True) if line != before]
        if kind == "outside":
            assert len(changed) == 2 and not set(changed) & set(CATALOGUE)
        elif kind == "seen":
            assert len(changed) == 2 and set(changed) <= {CATALOGUE[item] for item in SEEN}
        else:
            assert len(changed) == 2 and copy[0] == best.lines[0]
            assert all(line in copy[:place] for place, line in enumerate(copy) if line != best.lines[place])


def test_copies_take_all_types_in_turn():
    ((_, *copies),) = amplified(prompt(listed(1, 2, 4, reward=1.0), negatives=3, most=1), errors=1)
    kinds = set()
    for copy in copies:
        (line,) = [line for line, before in zip(copy, [CATALOGUE[n] for n in (1, 2, 4)], strict=True) if line != before]
        kinds.add("outside" if line not in CATALOGUE else "seen" if CATALOGUE.index(line) in SEEN else "duplicate")
    assert kinds == {"outside", "seen", "duplicate"}


def test_impossible_errors_are_left_out():
    assert amplified(prompt(listed(1, 2)), kind="all") and amplified(prompt(listed(1, 2), seen=frozenset())) != []
    assert amplified(prompt(listed(1, 2), seen=frozenset()), kind="seen") == []
    assert amplified(prompt(listed(1)), kind="duplicate") == [] == amplified(prompt(listed()))
    cut = listed(7, reward=-math.inf)
    assert amplified(prompt(A, chosen="demonstration", demonstration=cut)) == []


def test_the_same_numbers_give_the_same_copies():
    first, second, third = (amplified(prompt(listed(7, 3, 1, 2)), errors=2) for _ in range(3))
    assert first == second == third != amplified(prompt(listed(7, 3, 1, 2), seed=1), errors=2)


def test_a_correction_takes_missing_items_for_wrong_ones_from_the_end():
    attempt = listed(0, 3, 1, 2, 4)
    assert corrected(prompt(attempt), fixes=1) == [[[CATALOGUE[n] for n in (3, 7, 0, 1, 2)], attempt]]
    assert corrected(prompt(attempt), fixes=9) == [[[CATALOGUE[n] for n in (3, 9, 7, 0, 1)], attempt]]
    right = listed(3, 7, 9)
    assert corrected(prompt(right)) == []
    assert corrected(prompt(listed()), fixes=2)[0][0] == [CATALOGUE[3], CATALOGUE[7]]
    assert corrected(prompt(listed(), length=1), fixes=2)[0][0] == [CATALOGUE[3]]
    assert len(corrected(prompt(attempt, attempt, attempt, most=2))) == 2
    assert corrected(prompt(attempt, right, negatives=2))[0][1:] == [attempt, right]


def test_a_reaction_names_only_what_was_shown():
    shown = listed(0, 3, 20, 7, -1, 0)
    wanted = [CATALOGUE[7], CATALOGUE[3], CATALOGUE[0], "Nothing (1900)"]  # 20 was named before, 0 is there twice
    assert reactions(prompt(shown)) == [[wanted, shown]]
    assert reactions(prompt(listed(7, 3, 0))) == [] == reactions(prompt(listed(20)))
    assert reactions(prompt(listed(0), shown))[0][1] is shown


def test_agreement_by_hand():
    first, second, third = listed(0, 7), listed(9, 20), listed(3, 9)
    scores = [2 / math.log2(3), 0.5 - 1 / math.log2(3), 1 + 0.5 / math.log2(3)]
    assert scores[2] > scores[0] > scores[1]
    assert implicit(prompt(first, second, third)) == [[third, second]]
    assert implicit(prompt(second, first)) == [[first, second]]


@pytest.mark.parametrize("bias", ["words", "entries", "popular"])
def test_a_counterfactual_changes_nothing_but_the_bias(bias):
    best = listed(0, 7, 1, reward=3.0)
    for seed in range(10):
        pair, (chosen, copy) = counterfactual(prompt(A, best, B, most=2, seed=seed), bias=bias, strength=2)
        assert pair == [best, B] and chosen is best and copy != best.lines
        if bias == "words":
            assert [line.split(" - ")[0] for line in copy] == best.lines and "".join(copy).count(" - ") == 2
        elif bias == "entries":
            assert copy[:3] == best.lines and len(copy) == 5
            assert set(copy[3:]) <= {CATALOGUE[n] for n in (29, 28, 27, 26)}
        else:
            assert copy[1] == CATALOGUE[7] and {copy[0], copy[2]} <= {CATALOGUE[n] for n in (29, 28, 27, 26)}
    assert counterfactual(prompt(A, best, B), bias=bias) == [[best, B]]


def test_popular_items_need_a_miss():
    assert counterfactual(prompt(C, B, most=2), bias="popular") == [[C, B]]


def test_each_round_has_its_term():
    lists = [listed(1, terms=(0.0, 2.0)), listed(2, terms=(1.0, 0.0))]
    assert by_term(prompt(*lists)) == [[lists[1], lists[0]]] == by_term(prompt(*lists, round=2))
    assert by_term(prompt(*lists, round=1)) == [[lists[0], lists[1]]]


def test_an_offline_pair_and_an_online_pair():
    given = prompt(A, B, C, most=2)
    ((offline, copy, best, worst),) = offline_online(given, errors=1)
    assert offline is given.demonstration and (best, worst) == (C, B)
    assert sum(line not in CATALOGUE for line in copy) == 1
    assert offline_online(prompt(A, B, demonstration=listed(7, reward=-math.inf))) == []


def test_the_judge_is_the_policy_or_the_reward():
    sure, unsure = listed(1, reward=0.0, score=-0.1), listed(2, reward=1.0, score=-2.0)
    assert judged(prompt(unsure, sure)) == [[sure, unsure]]
    assert judged(prompt(unsure, sure), by="reward") == [[unsure, sure]]


@pytest.mark.parametrize("name", recipes)
def test_a_recipe_gives_whole_tuples_and_not_too_many(name):
    piece = recipes[name]
    for negatives in (1, 2) if piece.facts["pairs"] == 1 else (1,):
        lists = [
            listed(*row, reward=float(row[0] == 3), terms=(float(row[0]),), score=-row[0])
            for row in [(3, 0, 1), (0, 20, 2), (7, 7, 1), (1, 9, 4)]
        ]
        found = piece.function(prompt(*lists, negatives=negatives, most=2))
        assert 0 < len(found) <= 2
        assert all(len(one) == piece.facts["pairs"] * (1 + negatives) for one in found)


# Configuration.


def problem(*overrides: str) -> str:
    (found,) = check_config(composed(*overrides))
    return found


def test_what_is_refused():
    assert "did you mean 'ranked'" in problem("algorithm=dpo", "algorithm.pairs=rankt").lower()
    assert "algorithm.loss = 'soft' is unknown" in problem("algorithm=dpo", "algorithm.loss=soft")
    assert "algorithm.update = 'all' is unknown" in problem("algorithm=dpo", "algorithm.update=all")
    said = problem("algorithm=rpo", "algorithm.options.posterior.noise=2")
    assert "algorithm.options.posterior.noise = 2 must be a number in [0, 1]" in said
    assert "no piece has this name" in problem("algorithm=rpo", "+algorithm.options.posteriors={noise: 0.2}")
    assert "use algorithm.loss=meta" in problem("algorithm=meta_apo", "algorithm.loss=softmax")
    assert "use algorithm.negatives=1" in problem("algorithm=rpo", "algorithm.negatives=3")
    assert "use algorithm.negatives=1" in problem("algorithm=meta_apo", "algorithm.negatives=3")
    assert "use algorithm.chosen=sampled" in problem("algorithm=pugc", "algorithm.chosen=demonstration")
    (said,) = check_config(composed("algorithm=mnpo", "trainer=fsdp2"), 2)
    assert "use trainer.parallel.strategy=ddp" in said
    assert "use algorithm.sft_share=0" in problem("algorithm=orth_align", "algorithm.sft_share=0.5")
    four = ["trainer.rl.completions_per_update=4", "trainer.rl.micro_batch_size=4", "algorithm.negatives=3"]
    assert "gives too few lists" in problem("algorithm=dpo", "trainer.rl.group_size=2", *four)
    assert check_config(composed("algorithm=seapo", "trainer.rl.group_size=2", *four)) == []


def test_defaults_keep_their_hashes():
    """Keys of before recipes, and no others, are part of the identity of DPO."""
    found = stage_settings(composed("algorithm=dpo"), "rl")["algorithm"]
    assert not {"pairs", "loss", "update", "options"} & set(found)
    changed = stage_settings(composed("algorithm=dpo", "algorithm.pairs=implicit"), "rl")["algorithm"]
    assert changed == found | {"pairs": "implicit"}


def test_each_recipe_and_loss_has_a_method():
    configs = [composed(f"algorithm={name}").algorithm for name in methods("preference")]
    assert {config.pairs for config in configs} == set(recipes) - {"feedback"}  # it needs a teacher

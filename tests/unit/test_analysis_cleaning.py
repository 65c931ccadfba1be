"""Cleaning of preference pairs: judges by hand, methods against loops, and the command on stored pairs."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.cleaning import main
from analysis.studies.cleaning import JUDGES, Pairs, clean, swapped_labels, votes_of
from rlbench.preference.store import Drawn, Preference, Store


def test_judges_by_hand():
    votes = votes_of([-1.0, -3.0, -2.0, -2.0, -2.0, -2.0, -2.0, -2.0], [-1.5, -1.5])
    assert votes == {"likelihood": -0.5, "sequence": -13.0, "opening": -0.5, "short": -6.0}
    assert votes_of([], [])["likelihood"] == 0.0 and tuple(votes) == JUDGES


def test_the_share_of_swapped_labels():
    wrong = swapped_labels(50, 0.3, 1)
    assert wrong.sum() == 15 and (wrong != swapped_labels(50, 0.3, 2)).any()
    assert (wrong == swapped_labels(50, 0.3, 1)).all() and not swapped_labels(5, 0.0, 0).any()


def test_methods_by_a_loop():
    random = np.random.default_rng(0)
    gaps = random.random(40) + 0.1
    pairs = Pairs(gaps, {name: random.normal(size=40) + gaps for name in ("a", "b", "c")})
    wrong = swapped_labels(40, 0.25, 3)
    found = {(one.method, one.treatment): one for one in clean(pairs, wrong, 0.2)}
    assert len(found) == 1 + 2 * 6
    for method in ("a", "vote", "unanimous", "reward"):
        support = {
            name: [(-v if bad else v) for v, bad in zip(values, wrong, strict=True)]
            for name, values in [*pairs.votes.items(), ("reward", gaps)]
        }
        if method in support:
            doubted = sorted(range(40), key=lambda i: support[method][i])[:8]
        else:
            against = [sum(support[name][i] < 0 for name in ("a", "b", "c")) for i in range(40)]
            doubted = [i for i in range(40) if against[i] >= (2 if method == "vote" else 3)]
        bad = sum(wrong[i] for i in doubted)
        drop, flip = found[method, "drop"], found[method, "flip"]
        assert drop.kept == pytest.approx((40 - len(doubted)) / 40) and drop.flipped == 0 == 1 - flip.kept
        assert drop.found == flip.found == pytest.approx(bad / 10)
        assert drop.precise == pytest.approx(bad / len(doubted))
        left = [i for i in range(40) if i not in doubted]
        assert drop.wrong == pytest.approx(sum(wrong[i] for i in left) / len(left))
        assert drop.gap == pytest.approx(sum(gaps[i] * (-1 if wrong[i] else 1) for i in left) / len(left))
        assert flip.wrong == pytest.approx((10 - bad + len(doubted) - bad) / 40)
    assert found["none", ""].wrong == 0.25 and math.isnan(found["none", ""].precise)
    assert found["reward", "flip"].wrong == pytest.approx(0.05)  # all that it doubts are wrong
    assert math.isnan(clean(pairs, np.zeros(40, dtype=bool), 0.2)[1].found)


def stored(run, count=12):
    """A finished run with pairs, of which the reference finds the chosen list more likely."""
    run.mkdir(parents=True)
    (run / "STATUS").write_text("done")
    store = Store(run / "preferences")
    pairs = [Preference(f"c{i}", [1], [2, 3], [[4, 5, 6]], 1.0 + i, [0.0], [True, True]) for i in range(count)]
    store.write(0, 0, pairs, Drawn(count))
    store.write_reference(0, 0, [[[-0.1, -0.2], [-1.0, -1.0, -1.0]] for _ in pairs])
    store.write_earlier(0, 0, [[] for _ in pairs])


def test_the_command_reads_stored_pairs(tmp_path, capsys):
    stored(tmp_path / "runs" / "a")
    stored(tmp_path / "runs" / "b", 8)
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "STATUS").write_text("done")
    out = tmp_path / "cleaning.csv"
    assert main([str(tmp_path / "runs"), "--noise", "0.25", "--share", "0.25", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 pairs of 2 runs" in said and "unanimous" in said
    table = pd.read_csv(out).set_index(["method", "treatment"])
    assert table.loc[("likelihood", "flip"), "wrong"] == 0 and table.loc[("none", np.nan), "wrong"] == 0.25


def test_what_is_refused(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    assert main([str(tmp_path / "runs")]) == 2
    assert "has pairs" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "runs"), "--noise", "1.5"])
    assert "must be a number in [0, 1]" in capsys.readouterr().err

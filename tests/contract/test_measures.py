"""Measurements of models, and their figures."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.figures.measures import DRAWN
from analysis.measures import KINDS
from analysis.measures import main as draw
from rlbench.commands.measuring import (
    FORMS,
    Measured,
    Probe,
    Stage,
    comparisons,
    geometry,
    judge_staleness,
    patterns,
    ranks_under,
    solved,
    token_ranks,
    transfer,
)
from rlbench.evaluation.evaluate import prompt_ids
from rlbench.evaluation.geometry import rank_me
from rlbench.measure import KINDS as WRITTEN
from rlbench.measure import main as measure
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_criteria


@pytest.fixture(scope="module")
def one(mini, start):
    config = composed(*SMALL, "generation.max_new_tokens=40")
    tokenizer, model = load(start)
    records = list({record.context_id: record for record in mini.splits["validation"]}.values())
    probe = Probe(config, records, make_criteria(config, mini), tokenizer)
    return Measured(probe, Stage(7, start), model.eval())


def test_ranks_against_a_loop(one, tiny_folder):
    _, base = load(tiny_folder)
    prompt, ids = prompt_ids(one.probe.tokenizer, one.probe.records[0].prompt), one.own[0][:6]
    found = ranks_under(base.eval(), prompt, ids)
    for place, token in enumerate(ids):
        with torch.no_grad():
            logits = base(input_ids=torch.tensor([prompt + ids[:place]])).logits[0, -1].tolist()
        assert found[place] == 1 + sum(logit > logits[token] for logit in logits)


def test_a_model_ranks_its_own_greedy_tokens_first(one):
    rows = list(token_ranks(one, one.model))
    assert {row["update"] for row in rows} == {7} and rows[0]["place"] == "all"
    assert rows[0]["tokens"] == sum(map(len, one.own))
    assert all(row["mean_rank"] == row["share_to_1"] == 1 and row["share_beyond"] == 0 for row in rows)


def test_geometry_is_of_the_last_states_of_prompts(one):
    (row,) = geometry(one)
    states = []
    for record in one.probe.records:
        ids = torch.tensor([prompt_ids(one.probe.tokenizer, record.prompt)])
        with torch.no_grad():
            states.append(one.model.model(input_ids=ids).last_hidden_state[0, -1])
    assert row["rank_me"] == pytest.approx(rank_me(torch.stack(states)), rel=1e-5)
    assert 1 <= row["effective_rank"] <= len(states) and math.isfinite(row["alpha_req"])


def test_rows_of_lists(one):
    hits = {row["context_id"]: row["hits"] for row in solved(one)}
    assert list(hits) == [record.context_id for record in one.probe.records]
    assert list(hits.values()) == one.judged.hits.sum(axis=1).tolist()
    assert all(0 <= row["share"] <= 1 for row in patterns(one))
    forms = {row["form"]: row["ndcg@10"] for row in transfer(one)}
    assert list(forms) == list(FORMS) and all(0 <= value <= 1 for value in forms.values())


def test_forms_of_a_prompt():
    prompt = [{"role": "system", "content": "Name FILMS."}, {"role": "user", "content": "I like Heat (1995)."}]
    assert FORMS["own"](prompt) == prompt
    assert [m["content"] for m in FORMS["lower case"](prompt)] == ["name films.", "i like heat (1995)."]
    assert [m["content"] for m in FORMS["no years"](prompt)] == ["Name FILMS.", "I like Heat."]
    (message,) = FORMS["one message"](prompt)
    assert message == {"role": "user", "content": "System: Name FILMS.\nUser: I like Heat (1995)."}
    assert prompt[0]["content"] == "Name FILMS."  # nothing is changed in place


def test_a_judge_knows_the_lists_it_has_seen(one):
    rows = list(judge_staleness(one.probe, {0: one.judged, 7: one.judged}, steps=30))
    assert [(row["trained_at"], row["update"]) for row in rows] == [(0, 0), (0, 7), (7, 0), (7, 7)]
    accuracies = [row["accuracy"] for row in rows]
    assert np.isnan(accuracies).all() or len(set(accuracies)) == 1  # the same lists, so the same judge
    made = comparisons(one.probe, one.judged)
    catalog = one.probe.criteria.judge.catalog.items
    for comparison, record in zip(made, one.probe.records, strict=True):
        assert {catalog[item] for item in comparison.better} == set(record.ground_truth)
        assert not {catalog[item] for item in comparison.worse} & set(record.ground_truth)


TABLES = {
    "geometry": {"update": [0, 5], "rank_me": [2.0, 3.0], "effective_rank": [1.5, 1.7], "alpha_req": [1.0, 0.9]},
    "token_ranks": {
        "update": [0, 0, 5, 5],
        "place": ["all", "end"] * 2,
        "tokens": [9, 1] * 2,
        "mean_rank": [1.0, 1.0, 2.0, 1.0],
        "share_to_1": [1.0, 1.0, 0.8, 1.0],
        "share_to_3": [0.0, 0.0, 0.1, 0.0],
        "share_beyond": [0.0, 0.0, 0.1, 0.0],
    },
    "patterns": {"update": [0, 5], "pattern": ["repeats", "repeats"], "share": [0.2, 0.4]},
    "solved": {"update": [0, 0, 5, 5], "context_id": ["a", "b"] * 2, "hits": [0, 2, 1, 0]},
    "judge": {"trained_at": [0, 0, 5, 5], "update": [0, 5] * 2, "accuracy": [0.7, 0.6, 0.65, 0.8]},
    "transfer": {"update": [0, 5], "form": ["own", "own"], "ndcg@10": [0.1, 0.2]},
}


def test_every_file_has_a_figure(tmp_path):
    assert KINDS == WRITTEN == tuple(DRAWN) == tuple(TABLES)
    for kind, columns in TABLES.items():
        figure = DRAWN[kind](pd.DataFrame(columns))
        assert all(ax.has_data() for ax in figure.axes)
    pd.DataFrame(TABLES["judge"]).to_csv(tmp_path / "judge.csv", index=False)
    assert draw([str(tmp_path)]) == 0
    assert (tmp_path / "judge.png").stat().st_size > 5000 and (tmp_path / "judge.svg").is_file()


def test_lines_of_solved_contexts():
    figure = DRAWN["solved"](pd.DataFrame(TABLES["solved"]))
    lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[1].lines}
    assert lines == {"with a hit": [0.5, 0.5], "won since the start": [0, 0.5], "lost since the start": [0, 0.5]}


def test_wrong_folders(tmp_path, capsys):
    assert draw([str(tmp_path)]) == 2
    assert "has none of geometry.csv" in capsys.readouterr().err
    (tmp_path / "judge.csv").write_text("update,accuracy\n0,1\n")
    assert draw([str(tmp_path)]) == 2
    assert "has no column trained_at" in capsys.readouterr().err
    assert measure([str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert measure([str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err

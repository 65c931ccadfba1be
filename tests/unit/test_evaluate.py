"""Evaluation: confidence per rank, lists shared between samples, sampled lists, and the resulting metrics."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from rlbench.data.facts import item_facts
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.evaluate import (
    BatchLimit,
    Completion,
    Sampling,
    eos_ids,
    evaluate,
    generate,
    prompt_ids,
    read_answers,
)
from rlbench.evaluation.judging import Answer, Criteria, choose_contexts, judge_answers, sampled_metrics
from rlbench.lists import published
from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import parse_text
from rlbench.lists.metrics import union_recall
from rlbench.lists.reader import ListReader, UnitLayout
from rlbench.lists.relevance import Judge
from rlbench.models.generation import generation_config
from rlbench.models.loading import load_model, load_tokenizer
from tests.conftest import SMALL, composed
from tests.golden import oracles

N = 3
CATALOG = Catalog([("Alien", 1979), ("Heat", 1995), ("Taken", 2008), ("Jaws", 1975)])


@pytest.fixture(scope="module")
def policy(tiny_folder):
    return load_model(tiny_folder, "float32"), load_tokenizer(tiny_folder)


def record(context, *truth):
    return Record([{"role": "user", "content": "?"}], list(truth), [], context)


def criteria(records):
    """Return criteria whose film popularity comes from these records."""
    return Criteria(Judge(CATALOG, N), item_facts(RankedListDataset("small", CATALOG, {"train": records}), CATALOG))


def answer(text, confidence=(math.nan,) * N, finished=True):
    return Answer(text, parse_text(text), finished, len(text), np.array(confidence))


def test_confidence_of_a_rank_is_the_mean_of_its_tokens(policy):
    _, tokenizer = policy
    reader, judge = ListReader(tokenizer, N), Judge(CATALOG, N)
    text = "Sure:\n\nAlien (1979)\nHeat (1995)"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    logps = np.log(np.linspace(0.05, 0.95, len(ids)))
    got = read_answers([Completion(ids, logps.tolist(), 3), Completion([], [], 3)], reader, judge)
    units = reader.segment(torch.tensor([ids]), torch.ones(1, len(ids)), [judge.parse(text).lines]).unit_ids[0]
    for rank in (0, 1):
        assert got[0].confidence[rank] == pytest.approx(np.exp(logps[units.numpy() == rank].mean()))
    assert math.isnan(got[0].confidence[2]) and np.isnan(got[1].confidence).all()
    assert UnitLayout(N).other in units and (got[0].text, got[0].finished, got[0].n_tokens) == (text, True, len(ids))
    assert (got[1].text, got[1].finished, got[1].n_tokens) == ("", False, 0)


def test_greedy_log_probabilities_are_the_model_s(policy, mini):
    """They equal those of one forward pass over prompt and completion, in padded batches."""
    model, tokenizer = policy
    prompts = [sample.prompt for sample in mini.splits["test"][:5]]
    reader = ListReader(tokenizer, N, eos_ids(model, tokenizer))
    done = generate(model, reader, prompts, composed("generation.max_new_tokens=12").generation, BatchLimit(3))
    for prompt, completion in zip(prompts, done, strict=True):
        start = prompt_ids(tokenizer, prompt)
        with torch.no_grad():
            logits = model(torch.tensor([start + completion.ids])).logits[0].double()
        logps = logits.log_softmax(-1)[len(start) - 1 : -1]
        assert completion.ids == logits[len(start) - 1 : -1].argmax(-1).tolist()
        wanted = logps.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert completion.recorded == pytest.approx(wanted.tolist(), abs=1e-4)


def test_a_batch_of_unequal_prompts_is_one_at_a_time(policy, mini):
    """Results do not depend on order, batching or the model's mode, and the mode is restored."""
    model, tokenizer = policy
    prompts = [
        [{"role": "user", "content": words * count}]
        for words, count in (("Heat (1995) ", 9), ("Alien ", 1), ("Jaws (1975) ", 4), ("Taken ", 2), ("a ", 30))
    ]
    generation = composed("generation.max_new_tokens=9").generation
    reader = ListReader(tokenizer, N, eos_ids(model, tokenizer))
    alone = [generate(model, reader, [prompt], generation, BatchLimit(1))[0].ids for prompt in prompts]
    assert len({tuple(ids) for ids in alone}) > 1
    for training in (True, False):
        model.train(training)
        together = generate(model, reader, prompts, generation, BatchLimit(3))
        assert [completion.ids for completion in together] == alone and model.training == training
    model.eval()


def test_every_eos_of_a_model_ends_a_list(policy):
    _, tokenizer = policy
    generation = composed().generation
    for sampled in (False, True):
        assert generation_config(generation, tokenizer, [3, 7], sampled=sampled).eos_token_id == [3, 7]


def test_a_completion_ends_with_its_first_eos(policy, mini):
    model, tokenizer = policy
    options = composed("generation.max_new_tokens=12").generation, BatchLimit(4)
    prompts = [sample.prompt for sample in mini.splits["test"][:4]]
    free = [c.ids for c in generate(model, ListReader(tokenizer, N), prompts, *options)]
    end = free[0][3]
    done = generate(model, ListReader(tokenizer, N, [end]), prompts, *options)
    wanted = [ids[: ids.index(end) + 1] if end in ids else ids for ids in free]
    assert [completion.ids for completion in done] == wanted and wanted[0][-1] == end and len(wanted[0]) <= 4
    assert [len(completion.recorded) for completion in done] == [len(ids) for ids in wanted]


def test_samples_of_one_context_share_its_list_and_have_their_own_truth():
    records = [record("a", ("Alien", 1979)), record("b", ("Jaws", 1975)), record("a", ("Heat", 1995), ("Gone", 1900))]
    answers = {
        "a": answer("Taken (2008)\nHeat (1995)\nAlien (1979)\nJaws (1975)", (0.5, 0.25, 0.75)),
        "b": answer("My list\n", finished=False),
    }
    table, means = judge_answers(records, answers, criteria(records), [1, N])
    assert table["context_id"].tolist() == ["a", "b", "a"] and table["sample"].tolist() == [0, 1, 2]
    assert table["cluster_id"].tolist() == ["a", "b", "a"]
    assert table["titles"][0] == ["Taken", "Heat", "Alien"] and table["years"][0] == [2008, 1995, 1979]
    assert table["verdicts"][0] == ["miss", "miss", "hit"] and table["verdicts"][2] == ["miss", "hit", "miss"]
    assert table["recall@3"].tolist() == [1.0, 0.0, 0.5]
    assert table["ndcg@3"][0] == pytest.approx(0.5)
    assert [len(of_list) for of_list in table["confidence"]] == [3, 0, 3]
    assert means["recall@3"] == pytest.approx(0.5) and means["overflow"] == pytest.approx(2 / 3)
    assert means["rank_hit_rate@2"] == pytest.approx(1 / 3)
    assert means["coverage"] == 3 / 4  # list a counts once, b recommends nothing, and the fourth entry is beyond N
    # 6 ranks with confidence. Hits are at .75 (first answerer) and .25 (second).
    assert means["brier"] == pytest.approx((2 * 0.5**2 + 0.25**2 + 0.75**2 + 0.75**2 + 0.25**2) / 6)
    assert all(math.isfinite(value) for value in means.values())
    per_query = table.select_dtypes("float").columns
    assert set(per_query) < set(means) and not {"sample", "n_truth", "finished"} & set(means)


def test_a_list_that_several_answerers_share_recommends_once():
    records = [record("a", ("Alien", 1979)), record("a", ("Heat", 1995)), record("b", ("Jaws", 1975))]
    answers = {"a": answer("Alien (1979)"), "b": answer("Heat (1995)\nJaws (1975)")}
    _, means = judge_answers(records, answers, criteria(records), [1])
    assert means["popularity"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert means["gini"] == pytest.approx(1 / 4)  # Alien, Heat and Jaws appear once each, Taken never
    records = [record("a", ("Alien", 1979)), record("a", ("Alien", 1979)), record("b", ("Jaws", 1975))]
    _, means = judge_answers(records, answers, criteria(records), [1])
    # Two of three training truths are Alien, one is Jaws. List a scores 2/3, list b (0 + 1/3) / 2.
    assert means["popularity"] == pytest.approx((2 / 3 + 1 / 6) / 2)


def test_ranks_without_a_known_confidence_do_not_enter_calibration():
    records = [record("a", ("Alien", 1979))]
    judged = {"a": answer("Alien (1979)\nHeat (1995)", (0.5, math.nan, math.nan))}
    _, means = judge_answers(records, judged, criteria(records), [1])
    assert means["brier"] == pytest.approx(0.25)


def test_a_subset_of_contexts_is_spread_over_the_split():
    records = [record(context, ("Alien", 1979)) for context in "aabbbcdefgh"]
    kept = choose_contexts(records, 3)
    assert [row.context_id for row in kept] == ["a", "a", "c", "f"]  # contexts 0, 2 and 5 of 8, with all their samples
    assert choose_contexts(records, None) == choose_contexts(records, 8) == records
    assert len(choose_contexts(records, 7)) < len(records)


def test_each_sample_of_sampled_lists_has_its_own_seen_titles():
    question = [{"role": "user", "content": "?"}]
    records = [
        Record(question, [("Alien", 1979)], ["Alien"], "a"),
        Record(question, [("Alien", 1979)], ["Heat"], "b"),
    ]
    samples = pd.DataFrame([{"context_id": context, "list": 0, "text": "Alien (1979)"} for context in "ab"])
    assert sampled_metrics(records, samples, Judge(CATALOG, N), 1, [1])["pass@1"].tolist() == [0, 1]


def test_the_published_protocols_stand_beside_ours():
    records = [record("a", ("Alien", 1979), ("Heat", 1995))]
    text = "Nowhere (2000)\nGone (2001)\nAlien (1979)"
    table, _ = judge_answers(records, {"a": answer(text)}, criteria(records), [1, N])
    entries, exact = published.parse_list(text), frozenset(CATALOG.items)
    for name, first in (("published", False), ("published_truncate_first", True)):
        for k in (1, N):
            wanted = oracles.recall_ndcg(entries, records[0].ground_truth, [], exact, k, first)
            assert (table[f"{name}_recall@{k}"][0], table[f"{name}_ndcg@{k}"][0]) == wanted
    assert table["published_ndcg@1"][0] == 1.0 and table["published_truncate_first_ndcg@1"][0] == 0.0
    assert table["ndcg@1"][0] == 0.0


def test_sampled_lists_against_all_subsets():
    records = [record("a", ("Alien", 1979)), record("a", ("Heat", 1995), ("Jaws", 1975)), record("b", ("Taken", 2008))]
    texts = {"a": ["Alien (1979)", "Heat (1995)\nJaws (1975)", "Heat (1995)"], "b": ["", "x", "Taken (2008)"]}
    samples = pd.DataFrame(
        [{"context_id": c, "list": i, "text": text} for c in texts for i, text in enumerate(texts[c])]
    )
    got = sampled_metrics(records, samples, Judge(CATALOG, N), 3, [1, 2, 3])
    assert got["pass@1"] == pytest.approx([1 / 3, 2 / 3, 1 / 3])
    assert got["pass@2"] == pytest.approx([2 / 3, 1.0, 2 / 3])
    assert got["pass@3"].tolist() == [1, 1, 1]
    assert got["union_recall@1"] == pytest.approx([1 / 3, (0 + 1 + 0.5) / 3, 1 / 3])
    assert got["union_recall@2"] == pytest.approx([2 / 3, (1 + 0.5 + 1) / 3, 2 / 3])
    assert got["union_recall@3"].tolist() == [1, 1, 1]
    assert union_recall(np.full((1, 2, N), -1), np.array([2]), 1).tolist() == [0]


def test_sampled_lists_have_a_stream_of_their_own(policy, mini):
    model, tokenizer = policy
    config = composed(*SMALL, "generation.max_new_tokens=8", "evaluation.samples=2", "evaluation.pass_at=[1,2]")
    records = mini.splits["test"]
    of_mini = Criteria(Judge(mini.catalog, config.dataset.list_length), item_facts(mini, mini.catalog))

    def run(samples, seed):
        torch.manual_seed(1)
        seen: list[int] = []
        sampling = Sampling(samples, seed) if samples else None
        result = evaluate(model, tokenizer, records, of_mini, config, seen.append, sampling)
        return result, torch.rand(1).item(), seen

    greedy, after_greedy, _ = run(0, 0)
    first, after_first, progress = run(2, 0)
    again, _, _ = run(2, 0)
    other, _, _ = run(2, 5)
    assert after_greedy == after_first, "an evaluation must not move the training's random numbers"
    assert first.samples.equals(again.samples) and not first.samples.equals(other.samples)
    assert first.predictions["text"].equals(greedy.predictions["text"])
    assert set(first.means) - set(greedy.means) == {"pass@1", "pass@2", "union_recall@1", "union_recall@2"}
    contexts = {sample.context_id for sample in records}
    assert len(first.samples) == 2 * len(contexts) and progress[-1] == 3 * len(contexts)
    assert greedy.samples.empty
    # A list has between one and eight tokens.
    drawn = first.generated_tokens - greedy.generated_tokens
    assert len(first.samples) <= drawn <= 8 * len(first.samples)


HELD = ["evaluation.constraint=catalogue", "evaluation.exclude=[repeats,seen]"]


@pytest.mark.parametrize("prefill", ["shared", "repeated"])
def test_lists_that_are_held_to_the_catalogue(policy, prefill):
    """An untrained policy writes no film. Held to the catalogue, each of its lists has N films, none seen or twice."""
    model, tokenizer = policy
    seen = [["Heat"], ["Alien", "Taken"], [], ["Alien", "Heat", "Taken", "Jaws"]]
    records = [Record([{"role": "user", "content": f"{i}?"}], [("Jaws", 1975)], seen[i], f"c{i}") for i in range(4)]
    settings = ["dataset.list_length=3", "evaluation.samples=2", "evaluation.pass_at=[1]", "evaluation.batch_size=2"]
    settings += [f"generation.prefill={prefill}", "dataset.cutoffs=[3]", "evaluation.metric=ndcg@3"]
    settings += ["generation.max_new_tokens=100"]
    free = evaluate(model, tokenizer, records, criteria(records), composed(*settings), sampling=Sampling(2, 5))
    assert free.means["in_catalog"] == 0
    found = evaluate(model, tokenizer, records, criteria(records), composed(*settings, *HELD), sampling=Sampling(2, 5))
    texts = [*found.predictions["text"], *found.samples["text"]]
    lengths, named = [3, 2, 3, 0, 3, 3, 2, 2, 3, 3, 0, 0], [*seen, *(row for row in seen for _ in range(2))]
    for text, length, titles in zip(texts, lengths, named, strict=True):
        films = parse_text(text).items
        assert text.split("\n") == [f"{title} ({year})" for title, year in films] or not length
        assert len(films) == len(set(films)) == length and set(films) <= set(CATALOG.items)
        assert not {title for title, _ in films} & set(titles)
    assert found.predictions["finished"].all()
    # Of the allowed tokens the most likely one is drawn. They are few, so its probability is high.
    confidence = np.concatenate([row for row in found.predictions["confidence"] if len(row)])
    assert (confidence > 0.1).all()
    again = evaluate(model, tokenizer, records, criteria(records), composed(*settings, *HELD), sampling=Sampling(2, 5))
    assert again.samples.equals(found.samples)

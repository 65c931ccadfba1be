"""Experts in the trainer: whose list a group gets, what it costs, and what happens without an answer."""

import pytest

from rlbench.base.errors import Unavailable
from rlbench.data import mini as mini_data
from rlbench.lists.items import line_of
from rlbench.running.checks import check_config
from rlbench.sampling.checks import check_prompts
from rlbench.training import experts
from rlbench.training.rl import make_collector, prompt_dataset
from tests.contract.test_sampling_runs import config_of
from tests.helpers_teacher import DROP, Reply, teacher
from tests.helpers_training import load, make_trainer

WORDS = ["rollout=expert", "trainer.rl.updates=2", "trainer.rl.num_iterations=1", "generation.max_new_tokens=400"]


def trained(config, start, mini, output):
    """The trainer, what it collected, and the texts of the experts' lists by context."""
    trainer = make_trainer(config, mini, *load(start), output)
    dataset = prompt_dataset(mini.splits["train"], numbered=True)
    trainer.train_dataset = dataset
    trainer.collector = make_collector(config, dataset, demonstrations=mini.splits["sft"])
    found, collect = [], trainer.collector.collect
    trainer.collector.collect = lambda *given: found.append(collect(*given)) or found[-1]
    trainer.train()
    texts = {}
    for one in found:
        for prompt, group in zip(one.prompts, one.groups, strict=True):
            if group[-1].edited:
                texts[dataset[prompt]["context_id"]] = trainer.scorer.reader.decode([group[-1].ids])[0]
    return trainer, found, texts


def options(text: str) -> str:
    return f"+rollout.options.expert={{{text}}}"


@pytest.mark.slow
def test_the_oracle_of_mini(mini, start, tmp_path):
    config = config_of(*WORDS, options("source:oracle"))
    assert not check_config(config)
    _, found, texts = trained(config, start, mini, tmp_path)
    best = mini_data.train_oracle(config.dataset)
    assert len(texts) == len({mini.splits["train"][prompt].context_id for one in found for prompt in one.prompts})
    assert texts == {context: "\n".join(line_of(*film) for film in best[context]) for context in texts}
    # The oracle is no part of the data: their digests are those of the lists of validation and test.
    assert not set(best) & set(mini.oracle)


def test_demonstrations(mini, start, tmp_path):
    config = config_of(*WORDS, options("source:demonstration"))
    assert check_prompts(config, mini.splits["train"], mini.splits["sft"]) == []
    (problem,) = check_prompts(config, mini.splits["train"], [])
    assert "has a demonstration" in problem
    _, _, texts = trained(config, start, mini, tmp_path)
    shown = {record.context_id: record.completion[-1]["content"] for record in mini.splits["sft"]}
    assert texts and texts == {context: shown[context] for context in texts}


@pytest.mark.parametrize("sampler", ["critique", "candidates", "hint"])
def test_a_demonstration_is_no_answer_to_another_question(sampler, mini, start, tmp_path):
    """Groups whose prompt a maker has given another question stay as they are, and count as silent."""
    share = ["sampler.options.hint.hard=1"] if sampler == "hint" else [f"sampler.options.{sampler}.share=0.5"]
    words = [f"sampler={sampler}", *share, options("source:demonstration"), "trainer.rl.updates=1"]
    words.append("trainer.rl.completions_per_update=32")
    _, found, _ = trained(config_of(*WORDS, *words), start, mini, tmp_path)
    (one,) = found
    made = [row is not None for row in one.rows]
    edited = [group[-1].edited for group in one.groups]
    assert any(made) and not all(made)
    assert edited == ([True] * len(made) if sampler == "hint" else [not yes for yes in made])
    assert one.spent.asked == len(made) and one.spent.silent == edited.count(False)


def test_the_truth_of_a_made_prompt_is_its_own(mini, start, tmp_path):
    words = ["sampler=critique", "sampler.options.critique.share=1", "trainer.rl.updates=1"]
    config = config_of(*WORDS, *words)
    trainer, (one,), _ = trained(config, start, mini, tmp_path)
    smaller = 0
    for prompt, group, row in zip(one.prompts, one.groups, one.rows, strict=True):
        (text,) = trainer.scorer.reader.decode([group[-1].ids])
        assert text.split("\n") == [line_of(item["title"], item["year"]) for item in row["ground_truth"]]
        smaller += len(row["ground_truth"]) < len(trainer.train_dataset[prompt]["ground_truth"])
    assert smaller


def asked_words(url: str, folder) -> list[str]:
    return [*WORDS, options(f"source:endpoint,url:'{url}',model:m"), f"cache_dir={folder}"]


def test_an_endpoint_is_asked_once_and_its_tokens_count(mini, start, tmp_path):
    answer = "\n".join(line_of(*film) for film in mini.catalog.items[:2])

    def replies(request, before):
        silent = len(request["messages"][-1]["content"]) % 2
        return Reply("I do not know.") if silent else Reply(answer)

    with teacher(replies) as server:
        config = config_of(*asked_words(server.url, tmp_path / "cache"))
        trainer, found, texts = trained(config, start, mini, tmp_path / "first")
        asked = len(server.requests)
        assert len(texts) > 0 and set(texts.values()) == {answer} and asked <= 8
        groups = sum(one.spent.groups for one in found)
        silent = sum(one.spent.silent for one in found)
        assert groups == sum(one.spent.asked for one in found) and 0 < silent < groups
        shares = [row["experts_silent"] for row in trainer.state.log_history if "experts_silent" in row]
        assert sum(shares) == pytest.approx(silent / found[0].spent.groups)
        drawn = sum(len(member.ids) for one in found for member in one.members if not member.edited)
        assert trainer.ledger.counts["generated_tokens"] >= drawn + 10 * groups
        again, _, same = trained(config, start, mini, tmp_path / "again")
        assert len(server.requests) == asked and same == texts  # from the file of answers
        assert again.ledger.counts == trainer.ledger.counts


HTML = "<html>Bad gateway</html>"
ROWS = [{"context_id": f"c{n}", "prompt": [{"role": "user", "content": f"Film {n}?"}]} for n in range(8)]


def expert(url, folder, monkeypatch) -> experts.AskedExpert:
    monkeypatch.setattr(experts, "BACKOFF", 0.001)
    return experts.AskedExpert(url, "m", "", folder)


@pytest.mark.parametrize(
    ("reply", "said", "tries"),
    [
        (Reply(status=500), "500", 4),
        (Reply(status=DROP), "(4 tries)", 4),
        (Reply(raw=HTML), HTML, 4),
        (Reply(None), "empty answer", 1),
        (Reply(status=400), "400", 1),
    ],
)
def test_an_endpoint_without_answers_ends_the_run(reply, said, tries, tmp_path, monkeypatch, caplog):
    with teacher(lambda request, before: reply) as server:
        advice = expert(server.url, tmp_path, monkeypatch)
        assert [advice(row) for row in ROWS[:4]] == [None] * 4
        with pytest.raises(Unavailable) as caught:
            advice(ROWS[4])
    assert len(server.requests) == 5 * tries and advice.cache.count() == 0
    assert "rollout.options.expert.url" in str(caught.value) and "5 prompts in a row" in str(caught.value)
    assert said in str(caught.value)
    assert len(caplog.records) == 1 and server.url in caplog.text and "experts_silent" in caplog.text


def test_nothing_listens_at_an_endpoint(tmp_path, monkeypatch):
    advice = expert("http://127.0.0.1:9/v1", tmp_path, monkeypatch)
    with pytest.raises(Unavailable, match="5 prompts in a row"):
        [advice(row) for row in ROWS]


def test_an_endpoint_that_fails_now_and_then(tmp_path, monkeypatch):
    with teacher(lambda request, before: Reply("Alien (1979)") if before == 2 else Reply(status=503)) as server:
        advice = expert(server.url, tmp_path, monkeypatch)
        assert [advice(row) for row in ROWS] == [("Alien (1979)", 10)] * len(ROWS)
    silent = {"Film 1?", "Film 3?", "Film 5?"}  # never several in a row

    def replies(request, before):
        return Reply(status=503) if request["messages"][-1]["content"] in silent else Reply("Heat (1995)")

    with teacher(replies) as server:
        advice = expert(server.url, tmp_path, monkeypatch)
        assert [advice(row) is None for row in ROWS] == [n in (1, 3, 5) for n in range(len(ROWS))]


def test_a_refusal_is_an_answer(tmp_path, monkeypatch):
    with teacher(lambda request, before: Reply(None, refusal="No.")) as server:
        advice = expert(server.url, tmp_path, monkeypatch)
        assert [advice(row) for row in ROWS] == [("", 10)] * len(ROWS)


@pytest.mark.slow
def test_an_endpoint_that_accepts_nothing_ends_the_run(mini, start, tmp_path):
    with teacher(lambda request, before: Reply(status=401)) as server:
        config = config_of(*asked_words(server.url, tmp_path / "cache"))
        with pytest.raises(Unavailable) as caught:
            trained(config, start, mini, tmp_path)
    assert "rollout.options.expert.url" in str(caught.value)
    assert "rollout.options.expert.key_env names" in str(caught.value) and "--key-env" not in str(caught.value)

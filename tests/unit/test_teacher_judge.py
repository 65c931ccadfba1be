"""A teacher as the judge of preference pairs, behind an endpoint on a loopback port."""

import signal
from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.data.record import Record
from rlbench.running.checks import check_config
from rlbench.training.teacher_judge import ask_for_scores
from tests.conftest import composed
from tests.helpers_teacher import Reply, teacher

RECORDS = [Record([{"role": "user", "content": f"Film {n}?"}], [("Alien", 1979)], [], f"c{n}") for n in range(3)]
LISTS = [["one", "two", "three"]] * 3


def options(url: str) -> dict[str, str]:
    return {"endpoint": url, "model": "judge", "local": "", "key_env": "NO_SUCH_KEY"}


def test_scores_are_places_and_a_bad_answer_is_asked_again(tmp_path: Path):
    def reply(body, times):
        asked = body["messages"][0]["content"]
        assert "Answer 3:\nthree" in asked and asked.startswith("Film ")
        if "Film 0" in asked:
            return Reply("3, 1, 2")
        if "Film 1" in asked:
            return Reply("2,3,1" if len(body["messages"]) > 1 else "all are fine")
        return Reply("1, 1, 2")

    before = signal.getsignal(signal.SIGTERM)
    with teacher(reply) as server:
        cache = tmp_path / "answers.sqlite"
        found = ask_for_scores(RECORDS, LISTS, options(server.url), cache, "cpu")
        assert found == [[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [0.0, 0.0, 0.0]]
        asked = len(server.requests)
        assert ask_for_scores(RECORDS, LISTS, options(server.url), cache, "cpu") == found
        assert len(server.requests) == asked  # from the cache
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_judge_that_does_not_answer_is_named(tmp_path: Path):
    with teacher(lambda body, times: Reply(status=401)) as server, pytest.raises(BadInput, match="pairs = feedback"):
        ask_for_scores(RECORDS, LISTS, options(server.url), tmp_path / "answers.sqlite", "cpu")


def test_one_judge_must_be_named():
    base = ["algorithm=rlaif", "algorithm.pairs=feedback"]
    (said,) = check_config(composed(*base))
    assert "algorithm.options.feedback" in said and "endpoint and model, or local" in said
    assert check_config(composed(*base, "+algorithm.options.feedback={local:FOLDER}")) == []
    (said,) = check_config(composed(*base, "+algorithm.options.feedback={endpoint:'http://localhost:1/v1'}"))
    assert "endpoint and model, or local" in said

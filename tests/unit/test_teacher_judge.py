"""A teacher as the judge of preference pairs, behind an endpoint on a loopback port."""

import os
import signal
from pathlib import Path

import pytest

from rlbench import run as command
from rlbench.base import preemption
from rlbench.base.errors import Unavailable
from rlbench.data.record import Record
from rlbench.running.checks import check_config
from rlbench.training import teacher_judge
from rlbench.training.teacher_judge import ask_for_scores
from tests.conftest import composed
from tests.helpers_teacher import Reply, teacher

RECORDS = [Record([{"role": "user", "content": f"Film {n}?"}], [("Alien", 1979)], [], f"c{n}") for n in range(3)]
LISTS = [["one", "two", "three"]] * 3


def options(url: str) -> dict[str, str]:
    return {"endpoint": url, "model": "judge", "local": "", "key_env": "NO_SUCH_KEY"}


def test_scores_are_places_and_a_bad_answer_is_asked_again(tmp_path: Path, caplog):
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
        assert "no order for 1 of 3 prompts" in caplog.text
        asked = len(server.requests)
        assert ask_for_scores(RECORDS, LISTS, options(server.url), cache, "cpu") == found
        assert len(server.requests) == asked  # from the cache
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_judge_that_does_not_answer_is_named(tmp_path: Path):
    with teacher(lambda body, times: Reply(status=401)) as server, pytest.raises(Unavailable) as caught:
        ask_for_scores(RECORDS, LISTS, options(server.url), tmp_path / "answers.sqlite", "cpu")
    assert "pairs = feedback" in str(caught.value)
    assert "algorithm.options.feedback.key_env names" in str(caught.value) and "--key-env" not in str(caught.value)


@pytest.mark.parametrize("first", [True, False])
def test_a_judge_that_is_gone_ends_the_run(first, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(teacher_judge, "RETRIES", 0)
    with teacher(lambda body, times: Reply(status=500)) as server, pytest.raises(Unavailable) as caught:
        ask_for_scores(RECORDS, LISTS, options(server.url), tmp_path / "answers.sqlite", "cpu", first=first)
    assert server.url in str(caught.value) and "none of 3 prompts" in str(caught.value) and "500" in str(caught.value)


def test_a_judge_that_gives_no_order_is_refused_at_first_and_named_later(tmp_path: Path, caplog):
    with teacher(lambda body, times: Reply("all are fine")) as server:
        given = RECORDS, LISTS, options(server.url), tmp_path / "answers.sqlite", "cpu"
        with pytest.raises(Unavailable, match="none of 3 prompts.*'all are fine'. Use another judge"):
            ask_for_scores(*given)
        assert ask_for_scores(*given, first=False) == [[0.0] * 3] * 3
    assert "no order for 3 of 3 prompts" in caplog.text


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, preemption.Preempted), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_while_a_judge_is_asked_is_no_failure_of_the_judge(number, raised, tmp_path: Path):
    def reply(body, times):
        if "Film 0" in body["messages"][0]["content"]:  # once
            os.kill(os.getpid(), number)
        return Reply("1, 2, 3", delay=0.2)

    with teacher(reply) as server, pytest.raises(raised):
        ask_for_scores(RECORDS, LISTS, options(server.url), tmp_path / "answers.sqlite", "cpu")


def test_one_judge_must_be_named():
    base = ["algorithm=rlaif", "algorithm.pairs=feedback"]
    (said,) = check_config(composed(*base))
    assert "algorithm.options.feedback" in said and "endpoint and model, or local" in said
    assert check_config(composed(*base, "+algorithm.options.feedback={local:FOLDER}")) == []
    both = "+algorithm.options.feedback={local:FOLDER,endpoint:'http://a/v1',model:m}"
    assert "endpoint and model, or local" in check_config(composed(*base, both))[0]
    for given, wanted in (
        ("endpoint:'http://localhost:1/v1'", ["feedback.model is missing"]),
        ("model:m", ["feedback.endpoint is missing"]),
        ("endpoint:x", ["feedback.endpoint = x must be a URL", "feedback.model is missing"]),
    ):
        found = check_config(composed(*base, f"+algorithm.options.feedback={{{given}}}"))
        assert len(found) == len(wanted) and all(part in said for part, said in zip(wanted, found, strict=True))


def test_a_model_that_is_gone_is_no_invalid_input(monkeypatch, capsys):
    """A run that has begun ends with code 1, and does not say that nothing was run."""

    def gone():
        raise Unavailable("the judge is gone")

    monkeypatch.setattr(command, "install", lambda: None)  # signals of this process stay as they are
    with pytest.raises(SystemExit) as ended:
        command.execute(gone)
    assert ended.value.code == 1 and capsys.readouterr().err == "rlbench: the judge is gone\n"

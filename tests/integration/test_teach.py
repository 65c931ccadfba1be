"""`rlbench teach` against a teacher on a loopback port: failures, repairs, limits, and interruptions."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlbench import teach
from rlbench.teacher.answers import AnswerCache
from tests.conftest import slow
from tests.helpers import ROOT
from tests.helpers_teacher import DROP, FILMS, Reply, TeacherServer, plain_teacher, redial_folder, teacher

KEY = "sk-a-very-secret-key"
QUICK = ["--backoff", "0.001", "--timeout", "5"]
GOOD = "\n".join(FILMS[:5])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return redial_folder(tmp_path_factory.mktemp("data") / "redial")


class Job:
    """Starts `rlbench teach` in a folder of its own; `said` is what it has written to the terminal."""

    def __init__(self, folder: Path, data: Path, capsys):
        self.folder, self.capsys = folder, capsys
        self.dataset = ["dataset=redial", f"dataset.path={data}", "dataset.list_length=5", "dataset.cutoffs=[5]"]
        self.dataset.append(f"cache_dir={folder / 'cache'}")
        self.said = ""

    def words(self, server: TeacherServer, task: str, *more: str, out: str | None = "out.jsonl") -> list[str]:
        where = [] if out is None else ["--out", str(self.folder / out)]
        return [task, "--endpoint", server.url, "--model", "gpt", *QUICK, *where, *more, *self.dataset]

    def __call__(self, server: TeacherServer, task: str, *more: str, out: str | None = "out.jsonl") -> int:
        code = teach.main(self.words(server, task, *more, out=out))
        shown = self.capsys.readouterr()
        self.said = shown.err + shown.out
        return code

    def rows(self, name: str = "out.jsonl") -> list[dict]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def manifest(self) -> dict:
        return json.loads((self.folder / "out.manifest.json").read_text())


@pytest.fixture
def job(tmp_path, data, capsys, monkeypatch) -> Job:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Job(tmp_path, data, capsys)


def test_lists_of_all_contexts_and_their_manifest(job):
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--price-in", "1000", "--price-out", "10000") == 0
        assert len(server.requests) == 14 and server.most <= 8
        body, headers = server.requests[0]
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt", 0.0, 1024)
    rows = job.rows()
    assert len(rows) == 14 and all(len(row["response"].split("\n")) == 5 for row in rows)
    manifest = job.manifest()
    assert manifest["counts"]["asked"] == 14 and manifest["counts"]["models"] == {"gpt-2026": 14}
    assert manifest["counts"]["repairs"] == {"past the last rank": 14 * 7}
    assert manifest["cost"]["this_run"] == pytest.approx(14 * (0.1 + 0.1))
    assert manifest["job"]["teacher"]["model"] == "gpt" and "cost 2.80" in job.said
    assert not (job.folder / "out.failed.jsonl").exists()


def test_the_same_command_asks_nothing_again(job):
    with teacher(plain_teacher) as server:
        assert job(server, "lists") == 0
        before = job.rows()
        assert job(server, "lists") == 0
        assert len(server.requests) == 14 and job.rows() == before
        assert job.manifest()["counts"]["cached"] == 14
        assert job(server, "lists", "--temperature", "0.5", out="other.jsonl") == 0
        assert len(server.requests) == 28


def test_a_larger_number_of_contexts_adds_to_a_smaller_one(job):
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--train", "3", "--validation", "0", out="few.jsonl") == 0
        assert job(server, "lists", "--train", "6", "--validation", "1", out="more.jsonl") == 0
        assert len(server.requests) == 7
    few, more = ({row["context_id"] for row in job.rows(name)} for name in ("few.jsonl", "more.jsonl"))
    assert few < more


def test_a_dry_run_sends_nothing_and_writes_nothing(job):
    before = set(job.folder.rglob("*"))
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--dry-run", "--price-in", "1", "--tokens-per-minute", "100", out=None) == 0
        assert server.requests == []
    assert "to ask: 14 requests" in job.said and "in cost" in job.said and "minutes" in job.said
    assert '"messages"' in job.said and KEY not in job.said
    assert set(job.folder.rglob("*")) == before, "not even the file that keeps answers"


def test_a_dry_run_refuses_a_file_that_is_no_cache(job):
    (job.folder / "mine.sqlite").write_text("not SQLite")
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--dry-run", "--cache", str(job.folder / "mine.sqlite"), out=None) == 2
    assert "mine.sqlite cannot be used as a cache of answers" in job.said


def test_failures_that_pass_are_tried_again(job):
    replies = [
        Reply(status=429, headers={"Retry-After": "0.3"}),
        Reply(status=500),
        Reply(status=503, headers={"Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}),
        Reply(status=DROP),
        Reply(raw="{not json"),
        Reply(raw='{"choices": []}'),
        Reply(raw='{"error": {"message": "overloaded"}}'),
    ]

    def answer(request, before):
        return replies[before] if before < len(replies) else Reply(GOOD)

    with teacher(answer) as server:
        words = ("--train", "1", "--validation", "0", "--retries", "7")
        assert job(server, "lists", *words) == 0
        assert len(server.requests) == 8 and server.times[1] - server.times[0] >= 0.3
    assert job.manifest()["counts"]["retries"] == {
        "HTTP 429": 1,
        "HTTP 500": 1,
        "HTTP 503": 1,
        "connection": 1,
        "malformed answer": 3,
    }


def test_a_timeout_is_tried_again_and_then_a_counted_failure(job):
    with teacher(lambda request, before: Reply(GOOD, delay=3 if "number 0." in str(request) else 0.0)) as server:
        assert job(server, "lists", "--timeout", "1", "--retries", "1") == 0
    (failure,) = job.rows("out.failed.jsonl")
    assert failure["kind"] == "timeout" and "2 tries" in failure["problem"] and failure["texts"] == []
    assert job.manifest()["counts"]["failed"] == {"timeout": 1} and len(job.rows()) == 13


def test_an_unusable_answer_is_asked_again_once_and_then_listed(job):
    texts = {
        0: [Reply("Heat (1995)\nAl", finish="length"), Reply(GOOD)],
        1: [Reply("I'm sorry, I can't help with that.")],
        2: [Reply(None, refusal="I will not.")],
        3: [Reply(""), Reply(GOOD)],
        4: [Reply("no list \ud800"), Reply("Heat (1995)\nUp (2009)")],
        6: [Reply("Heat (1995)", usage=False), Reply("Heat (1995)", finish="length")],
    }

    def answer(request, before):
        place = next((i for i in texts if f"number {i}." in request["messages"][0]["content"]), None)
        if place is None:
            return Reply(GOOD)
        again = len(request["messages"]) > 1 or "Your answer was empty" in request["messages"][0]["content"]
        return texts[place][again]

    with teacher(answer) as server:
        assert job(server, "lists") == 0
        asked = len(server.requests)
        again = [body["messages"] for body, _ in server.requests if len(body["messages"]) > 1]
        assert asked == 18 and len(again) == 3
        assert all(messages[2]["content"].startswith("Your answer ") for messages in again)
        assert job(server, "lists") == 0 and len(server.requests) == asked  # failures are paid for too
    counts = job.manifest()["counts"]
    assert counts["failed"] == {"refusal": 2, "too short": 1, "truncated": 1} and counts["results"] == 10
    assert sum(counts["reasked"].values()) == 4
    failures = {row["kind"]: row["texts"] for row in job.rows("out.failed.jsonl")}
    assert failures["too short"] == ["no list \ud800", "Heat (1995)\nUp (2009)"]
    assert "4 failed questions are listed" in job.said


def test_ratings_are_asked_for_again_where_they_lack(job):
    context = None
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--train", "2", "--validation", "0", out="lists.jsonl") == 0
    context = job.rows("lists.jsonl")[0]["context_id"]
    candidates = job.folder / "candidates.jsonl"
    candidates.write_text(json.dumps({"context_id": context, "candidates": FILMS[:3]}) + "\n")

    def answer(request, before):
        if len(request["messages"]) == 1:
            return Reply(f"{FILMS[0]}####2\n{FILMS[1]}####9")
        return Reply(f"{FILMS[1]}####-2\n{FILMS[2]}####0")

    with teacher(answer) as server:
        assert job(server, "ratings", "--candidates", str(candidates)) == 0
        first, second = (body["messages"] for body, _ in server.requests)
        assert f"{context.partition('-')[0]}. What" in first[0]["content"] and "film expert" not in first[0]["content"]
        assert second[-1]["content"].endswith(f"{FILMS[1]}\n{FILMS[2]}")
    assert job.rows() == [{"context_id": context, "response": f"{FILMS[0]}####2\n{FILMS[1]}####-2\n{FILMS[2]}####0"}]


def test_descriptions_of_the_catalogue_and_of_the_items_of_lists(job):
    lists = job.folder / "lists.jsonl"
    lists.write_text(json.dumps({"context_id": "x", "response": "Heat (1995)\nHeat 2 (2031)"}) + "\n")

    def answer(request, before):
        return Reply("UNKNOWN" if "2031" in str(request) else "Keywords: a, b\nPlot: c")

    with teacher(answer) as server:
        assert job(server, "metadata", "--lists", str(lists)) == 0
        assert len(server.requests) == 13
    assert {"title": "Heat", "year": 1995, "text": "Keywords: a, b\nPlot: c"} in job.rows()
    assert [(row["name"], row["kind"]) for row in job.rows("out.failed.jsonl")] == [("Heat 2 (2031)", "unknown")]


def test_concurrency_and_requests_per_minute_are_bounded(job):
    with teacher(lambda request, before: Reply(GOOD, delay=0.05)) as server:
        assert job(server, "lists", "--concurrency", "3") == 0
        assert server.most == 3
    with teacher(lambda request, before: Reply(GOOD)) as server:
        assert job(server, "lists", "--requests-per-minute", "1200", out="paced.jsonl") == 0
        assert server.times[-1] - server.times[0] > 12 * 0.05  # the first needs time to connect


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=401, raw=f'{{"error": "Incorrect API key provided: {KEY}"}}'), "--key-env"),
        (Reply(status=404, raw='{"error": "no such model"}'), "no such model"),
        (Reply(status=429, raw='{"error": {"code": "insufficient_quota"}}'), "insufficient_quota"),
        (Reply(status=429, headers={"Retry-After": "86400"}), "86,400 s"),
    ],
)
def test_what_no_further_request_can_mend_ends_the_job(job, reply, words):
    with teacher(lambda request, before: reply) as server:
        assert job(server, "lists", "--concurrency", "2") == 1
        assert len(server.requests) <= 2
    assert words in job.said and "the same command continues" in job.said and KEY not in job.said
    assert not (job.folder / "out.jsonl").exists()


def test_a_server_that_dies_in_the_middle_costs_nothing_twice(job):
    repaired = threading.Event()

    def answer(request, before):
        alive = len(server.answered) < 6 or repaired.is_set()
        return plain_teacher(request, before) if alive else Reply(status=DROP)

    with teacher(answer) as server:
        assert job(server, "lists", "--concurrency", "1", "--retries", "0") == 0
        assert len(job.rows()) == 6 and job.manifest()["counts"]["failed"] == {"connection": 8}
        paid = set(server.answered)
        repaired.set()
        server.requests.clear()
        assert job(server, "lists") == 0
        assert len(job.rows()) == 14 and not paid & set(server.asked())


def test_many_failures_in_a_row_end_the_job(job, monkeypatch):
    monkeypatch.setattr("rlbench.teacher.asking.FAILURES_IN_A_ROW", 3)
    with teacher(lambda request, before: Reply(status=400, raw="temperature is not supported")) as server:
        assert job(server, "lists", "--concurrency", "1") == 1
        assert len(server.requests) == 3
    assert "3 requests in a row got no answer" in job.said and "temperature is not supported" in job.said


def test_the_job_ends_at_its_largest_cost(job):
    with teacher(plain_teacher) as server:
        words = ("--price-in", "10000", "--price-out", "0", "--max-cost", "3", "--concurrency", "1")
        assert job(server, "lists", *words) == 1  # each request costs 1
        assert len(server.requests) == 3 and "--max-cost is 3" in job.said


@pytest.mark.parametrize("number", [signal.SIGKILL, *slow(signal.SIGINT, signal.SIGTERM)])
def test_a_stopped_job_goes_on_and_asks_nothing_twice(job, number):
    held = threading.Event()
    released = threading.Event()

    def answer(request, before):
        if len(server.answered) >= 5 and not released.is_set():
            held.set()
            released.wait(200)
        return plain_teacher(request, before)

    with teacher(answer) as server:
        command = [sys.executable, "-m", "rlbench", "teach", *job.words(server, "lists", "--concurrency", "2")]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ})
        assert held.wait(120)
        cache = AnswerCache(job.folder / "cache" / "teacher.sqlite", "")
        until = time.monotonic() + 60
        while (server.open < 2 or cache.count() < len(server.answered)) and time.monotonic() < until:
            time.sleep(0.02)  # until both open requests are held, and the answers before are on disk
        cache.close()
        paid = list(server.answered)
        assert not (job.folder / "out.jsonl").exists()
        process.send_signal(number)
        if number != signal.SIGKILL:
            time.sleep(0.5)
            released.set()  # open requests may end
        _, errors = process.communicate(timeout=120)
        released.set()
        if number == signal.SIGKILL:
            assert process.returncode == -9
        else:
            assert process.returncode == 1 and "All answers are kept" in errors
            assert len(server.answered) == len(paid) + 2  # those that were open
            paid = list(server.answered)
        server.requests.clear()
        assert job(server, "lists") == 0
        assert len(server.requests) == 14 - len(paid) and not set(paid) & set(server.asked())
    assert len(job.rows()) == 14 and job.manifest()["counts"]["cached"] == len(paid)


def test_the_key_is_in_no_file_and_in_no_message(job):
    def answer(request, before):
        if before == 0 and "number 1." in str(request):
            return Reply(status=500, raw=f"your key {KEY} is overloaded")
        return Reply(f"Your key is {KEY}\n{GOOD}" if "number 2." in str(request) else f"{KEY}")

    with teacher(answer) as server:
        assert job(server, "lists", "--price-in", "1") == 0
        assert job(server, "lists", "--model", KEY, out="b.jsonl") == 2 and "contains the key" in job.said
    written = b"".join(path.read_bytes() for path in job.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in written and KEY not in job.said and b"Your key is ***" in written


def test_other_files_are_not_overwritten(job):
    out = job.folder / "out.jsonl"
    out.write_text("mine\n")
    with teacher(plain_teacher) as server:
        assert job(server, "lists") == 2 and "already exists" in job.said and server.requests == []
        out.unlink()
        assert job(server, "lists") == 0
        assert job(server, "lists", "--train", "2") == 2 and "already exists" in job.said  # of another job
        out.write_text(out.read_text() + "edited\n")
        assert job(server, "lists") == 2 and out.read_text().endswith("edited\n")


def test_existing_answers_are_read_as_strictly(job):
    with teacher(plain_teacher) as server:
        assert job(server, "lists", out="first.jsonl") == 0
    contexts = [row["context_id"] for row in job.rows("first.jsonl")]
    raw = job.folder / "raw.jsonl"
    texts = [f"1. {FILMS[0]}\n" + "\n".join(FILMS[1:6]), "I cannot.", FILMS[0]]
    rows = zip(contexts[:3], texts, strict=True)
    raw.write_text("".join(json.dumps({"context_id": c, "response": t}) + "\n" for c, t in rows))
    words = ["lists", "--answers", str(raw), "--out", str(job.folder / "out.jsonl"), *job.dataset]
    assert teach.main(words) == 0
    assert [row["context_id"] for row in job.rows()] == contexts[:1]
    assert job.manifest()["counts"]["failed"] == {"no line": 11, "refusal": 1, "too short": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lists", "dataset=mini"], "give one teacher"),
        (["lists", "--endpoint", "http://x", "--out", "o", "dataset=mini"], "--endpoint and --model belong together"),
        (["lists", "--endpoint", "x", "--model", "m", "--out", "o", "dataset=mini"], "must be a URL"),
        (
            ["lists", "--endpoint", "http://me:pw@x", "--model", "m", "--out", "o", "dataset=mini"],
            "user name or password",
        ),
        (["ratings", "--answers", "f", "--out", "o", "dataset=mini"], "need --candidates"),
        (["metadata", "--answers", "f", "--out", "o", "--train", "1", "dataset=mini"], "--train belongs to lists"),
        (["lists", "--answers", "f", "dataset=mini"], "nothing to write"),
        (["lists", "--answers", "f", "--out", "o"], "give the dataset"),
        (["lists", "--answers", "f", "--out", "o", "--max-cost", "1", "dataset=mini"], "needs the prices"),
        (["lists", "--answers", "nowhere.jsonl", "--out", "o", "dataset=mini"], "there is no such file"),
        (["lists", "--answers", "f", "--prompt", "nowhere", "--out", "o", "dataset=mini"], "there is no such file"),
    ],
)
def test_wrong_options(words, said, capsys):
    assert teach.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_prompt_of_ones_own_must_show_the_conversation(job):
    prompt = job.folder / "prompt.txt"
    prompt.write_text("Name {n} {items}, please.")
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--prompt", str(prompt)) == 2 and "lacks {conversation}" in job.said
        prompt.write_text("Name {n} {items} for {conversation}, {please}.")
        assert job(server, "lists", "--prompt", str(prompt)) == 0
        assert server.asked()[0].startswith("Name 5 films for ") and server.asked()[0].endswith(", {please}.")
    assert job.manifest()["job"]["prompt"]["text"].startswith("Name {n}")


def test_a_damaged_cache_is_reported(job):
    cache = job.folder / "cache.sqlite"
    cache.write_text("no database, but long enough to be looked at as one" * 50)
    with teacher(plain_teacher) as server:
        assert job(server, "lists", "--cache", str(cache)) == 2
        assert "cannot be used as a cache of answers" in job.said and server.requests == []


def test_a_local_model_answers_in_batches_and_is_cached(job, tmp_path_factory):
    """A model with random weights writes no list, so all questions fail; the same command asks it nothing again."""
    from rlbench.data import load_dataset
    from rlbench.models import tiny
    from tests.conftest import composed

    config = composed(*job.dataset[:4], "model.hidden_size=32", "model.intermediate_size=64", "model.layers=1")
    made = tiny.build(config.model, load_dataset(config.dataset), job.folder / "models")
    words = ["lists", "--local", str(made), "--train", "3", "--validation", "1", "--max-tokens", "8", "--reasks", "0"]
    words += ["--out", str(job.folder / "out.jsonl"), "--concurrency", "3", *job.dataset]
    assert teach.main(words) == 1
    assert "no answer is usable" in job.capsys.readouterr().err
    counts = job.manifest()["counts"]
    assert counts["asked"] == 4 and counts["prompt_tokens"] > 0 and sum(counts["failed"].values()) == 4
    texts = [row["texts"] for row in job.rows("out.failed.jsonl")]
    assert teach.main(words) == 1
    assert job.manifest()["counts"]["cached"] == 4 and [row["texts"] for row in job.rows("out.failed.jsonl")] == texts
    assert teach.main([*words, "--body", '{"seed": 1}']) == 2


def test_failures_can_be_asked_about_with_other_settings(job):
    def answer(request, before):
        cut = "number 1." in str(request) and request["max_tokens"] < 2000
        return Reply("Heat (1995)", finish="length") if cut else Reply(GOOD)

    with teacher(answer) as server:
        assert job(server, "lists") == 0
        (failure,) = job.rows("out.failed.jsonl")
        server.requests.clear()
        words = ("--only", str(job.folder / "out.failed.jsonl"), "--max-tokens", "2000")
        assert job(server, "lists", *words, out="more.jsonl") == 0
        assert len(server.requests) == 1
    assert [row["context_id"] for row in job.rows("more.jsonl")] == [failure["name"]]


def test_equal_requests_are_sent_once(job):
    from rlbench.teacher import questions

    same = [questions.AskedConversation(str(i), [{"role": "user", "content": "hello"}], "hello") for i in range(5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlbench.commands.teaching.conversations", lambda dataset: {"train": same, "validation": []})
        with teacher(lambda request, before: Reply(GOOD, delay=0.1)) as server:
            assert job(server, "lists", "--dry-run", out=None) == 0 and "to ask: 1 requests" in job.said
            assert job(server, "lists") == 0
            assert len(server.requests) == 1 and len(job.rows()) == 5


def test_urls_of_endpoints():
    from rlbench.teacher.endpoint import Endpoint, check_endpoint

    urls = {
        "http://x/v1": "http://x/v1/chat/completions",
        "http://x/v1/": "http://x/v1/chat/completions",
        "http://x/v1/chat/completions": "http://x/v1/chat/completions",
        "https://x/d/chat/completions?api-version=1": "https://x/d/chat/completions?api-version=1",
        "https://x/d?api-version=1": "https://x/d/chat/completions?api-version=1",
    }
    assert {url: Endpoint(url, None, 1, 1).url for url in urls} == urls
    assert all(check_endpoint(url) is None for url in urls)
    assert all(check_endpoint(url) for url in ("x", "ftp://x", "http://", "http://x:y/", "http://x?api_key=1"))

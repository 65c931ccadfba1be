"""Makers of prompts: what a prompt says, and its truth. `run.py` uses them in tests/contract/test_sampling_runs.py."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rlbench.data.record import Record
from rlbench.running.checks import check_config
from rlbench.sampling.checks import check_prompts
from rlbench.sampling.making import AskedPrompt, conversation_of
from rlbench.sampling.places import makers
from tests.conftest import composed

FILMS = [f"Film {letter} (19{number})" for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 50)]


class Policy:
    """A desk whose policy gives fixed answers."""

    def __init__(self, *answers: str):
        self.answers, self.requests = list(answers), []

    def say(self, requests: Sequence[str]) -> list[str]:
        self.requests += requests
        return self.answers[: len(requests)]

    def catalogue(self) -> Sequence[str]:
        return FILMS


def a_prompt(number: int = 0, solved: float = 0.0, truths: str = "ABCD") -> AskedPrompt:
    truth = [{"title": f"Film {letter}", "year": 1950 + ord(letter) - 65} for letter in truths]
    text = "I liked Film Y (1974) and Film Z. What else?"
    return AskedPrompt(
        text, truth, list(range(len(truth))), ["Film Y", "Film Z"], solved, np.random.default_rng(number)
    )


def make(name: str, asked: list[AskedPrompt], desk: Policy | None = None, **options: object) -> list:
    return makers.chosen(name, {name: options})(asked, desk or Policy())


def wants(name: str, solved: list[float], **options: object) -> list[bool]:
    found = {key: option.default for key, option in makers[name].options.items()} | options
    return makers[name].facts["wants"](np.array(solved), **found).tolist()


def test_which_prompts_are_asked_again() -> None:
    solved = [0.0, 0.3, 0.5, 0.7, 1.0]
    assert wants("hint", solved) == [True, False, False, False, False]
    assert wants("rewritten", solved) == [True, True, True, True, False]
    assert wants("generated", solved) == [True, False, False, False, True]
    assert wants("generated", solved, within=0.1) == [True, True, False, True, True]


@pytest.mark.parametrize("shown", [0.25, 0.4, 1.0])
def test_a_hint_names_a_share_of_the_answers(shown: float) -> None:
    asked = [a_prompt(number) for number in range(300)]
    counts = []
    for one, new in zip(asked, make("hint", asked, shown=shown), strict=True):
        named = [place for place in range(4) if new and one.line(place) in new.conversation]
        assert new is None or (new.conversation.startswith(one.conversation) and new.truth is None)
        counts.append(len(named))
    assert set(counts) <= {int(4 * shown), int(4 * shown) + 1}
    assert np.mean(counts) == pytest.approx(4 * shown, abs=0.1)


def test_a_hint_that_has_faded_changes_nothing() -> None:
    assert make("hint", [a_prompt()], shown=0.0) == [None]


def test_the_policy_rewrites_hard_and_medium_prompts() -> None:
    desk = Policy(" Something like Film Y? ", "Old ones please", "", "film a of course")
    made = make("rewritten", [a_prompt(0, 0.3), a_prompt(1, 0.5), a_prompt(2), a_prompt(3)], desk)
    assert [new and new.conversation for new in made] == ["Something like Film Y?", "Old ones please", None, None]
    assert ["simply" in request for request in desk.requests] == [True, False, True, True]
    assert all(request.endswith(a_prompt().conversation) for request in desk.requests)


def test_an_easy_conversation_loses_evidence() -> None:
    texts = set()
    for number in range(20):
        (new,) = make("generated", [a_prompt(number, 1.0)])
        texts.add((new.conversation, *new.seen))
        assert new.truth is None
    assert texts == {
        ("I liked something and Film Z. What else?", "Film Z"),
        ("I liked Film Y (1974) and something. What else?", "Film Y"),
    }
    assert make("generated", [replace(a_prompt(0, 1.0), seen=[])]) == [None]


def test_a_hard_conversation_gets_evidence_from_its_answers() -> None:
    named = set()
    for number in range(30):
        one = a_prompt(number, 0.0)
        (new,) = make("generated", [one])
        title = new.seen[-1]
        named.add(title)
        assert new.conversation == f"{one.conversation}\n\nI also like {title} (19{50 + ord(title[-1]) - 65})."
        assert [item["title"] for item in new.truth] == [f"Film {c}" for c in "ABCD" if f"Film {c}" != title]
    assert len(named) == 4
    assert make("generated", [a_prompt(truths="A")]) == [None]


def test_a_critique_asks_about_a_list() -> None:
    asked = [a_prompt(number) for number in range(400)]
    made, counts = make("critique", asked, size=6), []
    for one, new in zip(asked, made, strict=True):
        if new is None:
            continue
        shown = [line[2:] for line in new.conversation.splitlines() if line.startswith("- ")]
        relevant = {one.line(place) for place in range(4)}
        fit = {f"{item['title']} ({item['year']})" for item in new.truth}
        assert len(shown) == len(set(shown)) == 6 and set(shown) & relevant == fit and new.seen is None
        counts.append(len(fit))
    assert set(counts) == {1, 2, 3} and 50 < len(counts) < 110  # a fifth, with half of the list at most
    assert make("critique", [replace(a_prompt(), possible=[])], share=1.0) == [None]


def test_candidates_hold_the_answers_among_others() -> None:
    asked = [a_prompt(number) for number in range(200)]
    for one, new in zip(asked, make("candidates", asked, size=12), strict=True):
        shown = [line[2:] for line in new.conversation.splitlines() if line.startswith("- ")]
        assert len(shown) == len(set(shown)) == 12 and {one.line(place) for place in range(4)} <= set(shown)
        assert new.truth is None
    known = [
        sum(f"- {one.line(place)}\n" in f"{new.conversation}\n" for place in range(4))
        for one, new in zip(asked, make("candidates", asked, size=12, known=0.5), strict=True)
    ]
    assert np.mean(known) == pytest.approx(2, abs=0.25)
    shares = [new is not None for new in make("candidates", asked, share=0.25)]
    assert 0.15 < np.mean(shares) < 0.35


def test_the_same_random_numbers_make_the_same_prompts() -> None:
    for name in ("hint", "generated", "critique", "candidates"):
        first, again = (make(name, [a_prompt(number) for number in range(9)]) for _ in range(2))
        assert first == again


@pytest.mark.parametrize(
    ("content", "template", "parts"),
    [
        ("ask", None, ("", "ask", "")),
        ("Say 10 films.\n\nHi (you)?\n\nList:", "Say {n} films.\n\n{conversation}\n\nList:", (17, "Hi (you)?")),
        ("something else", "Say {n} films: {conversation}", ("", "something else", "")),
        ("ask", "{conversation}", ("", "ask", "")),
    ],
)
def test_the_conversation_inside_a_template(content: str, template: str | None, parts: tuple) -> None:
    before, text, after = conversation_of(content, template)
    assert before + text + after == content and text == parts[1]


def records(count: int, name: str = "train") -> list[Record]:
    return [Record([], [], [], f"{name}-{number}") for number in range(count)]


REFUSED = {
    "sampler=dots_replay": "sampler.capacity = 512: the buffer has at most one entry per prompt, and the train",
    "sampler=rapo": "sampler.successes = 512: the buffer has at most one entry per prompt, and the train split has 20",
    "sampler=dots_attention sampler.capacity=9": "references = 32: the train split has only 20 prompts",
    "sampler=mix +sampler.options.mix.shares={a*:1}": "parts without prompts: a*",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_sampler_that_does_not_fit_the_data(words: str) -> None:
    config = composed(*words.split())
    assert check_config(config) == []
    (problem,) = check_prompts(config, records(20))
    assert REFUSED[words] in problem
    assert check_prompts(config, records(600, "a")) == []


def test_no_sampler_asks_for_no_data() -> None:
    assert check_prompts(composed(), []) == check_prompts(composed("sampler=rapo", "stage=sft"), []) == []

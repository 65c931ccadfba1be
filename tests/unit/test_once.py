"""Values that an evaluation or an update must compute only once. Calls of the real functions are counted."""

from collections import Counter
from collections.abc import Callable

import pytest

from rlbench.evaluation.evaluate import Sampling, evaluate
from rlbench.lists import exact, published
from rlbench.objective import Objective
from tests.conftest import SMALL, composed
from tests.helpers_training import load, make_criteria, make_trainer

PARSERS = ((exact, "parse_text"), (published, "parse_list"))


@pytest.fixture
def parsed(monkeypatch) -> dict[str, Counter]:
    """How often each parser reads each text."""
    counts = {name: Counter() for _, name in PARSERS}
    for module, name in PARSERS:
        monkeypatch.setattr(module, name, counting(getattr(module, name), counts[name], lambda text: text))
    return counts


def counting(real: Callable, counts: Counter, key: Callable) -> Callable:
    """Return the function with its calls counted by a key of their arguments."""

    def counted(*arguments):
        counts[key(*arguments)] += 1
        return real(*arguments)

    return counted


@pytest.mark.parametrize("matching", ["exact", "published"])
def test_an_evaluation_parses_each_text_once(matching, mini, tiny_folder, parsed):
    """Once per rule: our rule for the verdicts, and the published one for the published metrics."""
    config = composed(*SMALL, f"matching={matching}", "generation.max_new_tokens=8")
    tokenizer, model = load(tiny_folder)
    found = evaluate(model, tokenizer, mini.splits["test"], make_criteria(config, mini), config)
    once = Counter(dict.fromkeys(found.predictions["text"], 1))
    assert len(once) < len(found.predictions), "several samples share a list"
    assert parsed == {"parse_text": Counter() if matching == "published" else once, "parse_list": once}


def test_sampled_lists_are_parsed_once(mini, tiny_folder, parsed):
    config = composed(*SMALL, "generation.max_new_tokens=8", "evaluation.samples=2", "evaluation.pass_at=[1]")
    tokenizer, model = load(tiny_folder)
    sampling = Sampling(lists=2, seed=0)
    found = evaluate(model, tokenizer, mini.splits["test"], make_criteria(config, mini), config, sampling=sampling)
    greedy, sampled = set(found.predictions["text"]), set(found.samples["text"])
    assert parsed["parse_text"] == Counter(greedy) + Counter(sampled)
    assert parsed["parse_list"] == Counter(greedy)


def test_an_update_computes_everything_once(mini, tiny_folder, tmp_path, parsed, monkeypatch):
    calls = Counter()
    for name in ("token_units", "spread_advantages", "token_advantages", "unit_advantages", "rank_returns"):
        monkeypatch.setattr(Objective, name, counting(getattr(Objective, name), calls, lambda *_, name=name: name))
    sizes = ("updates=1", "completions_per_update=8", "group_size=4", "micro_batch_size=4")
    config = composed(*SMALL, *(f"trainer.rl.{size}" for size in sizes), "generation.max_new_tokens=8")
    trainer = make_trainer(config, mini, *load(tiny_folder), tmp_path)
    trainer.train()
    assert set(calls.values()) == {1} and len(calls) == 5, calls
    assert parsed["parse_text"] == Counter(dict.fromkeys((one.text for one in trainer.scorer.lists), 1))
    assert not parsed["parse_list"]

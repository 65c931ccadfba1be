"""The guard by itself: what it counts, what it ignores, and what it remembers."""

import json
from dataclasses import replace

import pytest

from rlbench.running.checks import check_config
from rlbench.training.safety import Guard, NotFinite, NoTuples
from tests.conftest import SMALL, composed

DEFAULT = composed(*SMALL).safety


def guard(state=None, **changes) -> Guard:
    bounds = {"max_kl": 1.0, "min_entropy_share": 0.5, "patience": 2, "warmup": 2} | changes
    return Guard(replace(DEFAULT, **bounds), 0.8, state or {})


def test_a_bound_counts_after_the_warmup_and_in_a_row():
    watched = guard()
    for update, kl in enumerate([9.0, 9.0, 9.0, 0.5, 9.0], start=1):  # two in the warm-up, then one, zero, one in a row
        watched.train(update, {"kl": kl})
        assert watched.stop is None
    watched.train(6, {"kl": 1.5})
    assert watched.stop is not None and watched.stop.update == 6
    assert watched.stop.reason == "KL to the reference policy 1.5, above 1.0, 2 measurements in a row"


def test_shares_are_of_the_mean_over_the_warmup():
    watched = guard(patience=1)
    for update, entropy in enumerate([3.0, 1.0, 1.01], start=1):  # mean 2, bound 1
        watched.train(update, {"entropy": entropy})
    assert watched.stop is None
    watched.train(4, {"entropy": 0.99})
    assert watched.stop is not None and watched.stop.reason == "entropy 0.99, below 0.5 of 2 at the start, once"


def test_what_an_update_does_not_measure_neither_counts_nor_forgives():
    watched = guard(warmup=0, min_list_length_share=0.5)
    for update, metrics in enumerate([{"list_length": 10.0}, {}, {"list_length": 1.0}, {}, {"list_length": 1.0}], 1):
        watched.train(update, metrics)
    assert watched.stop is not None and watched.stop.update == 5


def test_the_catalogue_rate_is_measured_against_the_start():
    watched = guard(min_catalogue_rate_share=0.25)
    for update, rate in [(1, 0.0), (20, 0.19), (40, 0.21), (60, 0.19)]:
        watched.validation(update, {"in_catalog": rate})
        assert watched.stop is None
    watched.validation(80, {"in_catalog": 0.19})
    assert watched.stop is not None and watched.stop.update == 80


def test_a_stop_names_the_updates_that_are_in_the_weights():
    """An update with a non-finite loss is not applied."""
    error = NotFinite("loss", 7, float("nan"), "the log-probabilities")
    assert error.stop.result == {
        "update": 6,
        "reason": "the loss of update 7 is nan (first non-finite value: the log-probabilities); it was not applied",
    }
    assert NoTuples(0, 5, 8).stop.update == 5


def test_a_start_at_nothing_bounds_nothing():
    watched = Guard(replace(DEFAULT, patience=1, warmup=0), 0.0, {})
    watched.validation(20, {"in_catalog": 0.0})
    assert watched.stop is None


def test_values_that_are_no_numbers_are_not_kept():
    watched = guard(patience=1, warmup=1)
    for update, entropy in enumerate([float("nan"), 2.0, float("inf"), 1.1], start=1):
        watched.train(update, {"entropy": entropy})
    assert watched.stop is None
    json.dumps(watched.state, allow_nan=False)


def test_its_state_goes_on_where_it_was():
    values = [{"kl": 0.1, "entropy": 2.0}, {"kl": 0.1, "entropy": 1.0}, {"kl": 2.0, "entropy": 0.7}, {"kl": 2.0}]
    whole, first = guard(), guard()
    for update, metrics in enumerate(values, start=1):
        whole.train(update, metrics)
    for update, metrics in enumerate(values[:3], start=1):
        first.train(update, metrics)
    second = guard(json.loads(json.dumps(first.state)))
    second.train(4, values[3])
    assert second.stop == whole.stop is not None and second.state == whole.state


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("safety.max_kl=0", "safety.max_kl"),
        ("safety.min_entropy_share=1.0", "safety.min_entropy_share"),
        ("safety.min_catalogue_rate_share=-0.1", "safety.min_catalogue_rate_share"),
        ("safety.patience=0", "safety.patience"),
        ("safety.warmup=-1", "safety.warmup"),
    ],
)
def test_values_that_make_no_sense_are_refused(override, key):
    problems = check_config(composed(*SMALL, override))
    assert len(problems) == 1 and key in problems[0]
    assert check_config(composed(*SMALL, "safety=off")) == []

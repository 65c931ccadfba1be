"""docs/algorithms.md says what the code and the YAMLs say."""

from rlbench.cli import groups
from rlbench.objective.page import PAGE, render
from rlbench.objective.pieces import PLACES


def test_the_page_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert page == render(page), "stale: run python -m rlbench.objective.page"


def test_it_names_every_method_and_every_piece():
    page = PAGE.read_text(encoding="utf-8")
    for name in [*groups()["algorithm"], *(piece for place in PLACES for piece in place)]:
        assert f"`{name}`" in page, name


def test_a_change_would_be_seen(monkeypatch):
    page = PAGE.read_text(encoding="utf-8")
    assert render(page.replace("GRPO", "XXXX")) != page

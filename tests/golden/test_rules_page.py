"""docs/published-rules.md equals the output of its script."""

from tests.golden.rules_page import PAGE, render


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "stale: run python -m tests.golden.rules_page"

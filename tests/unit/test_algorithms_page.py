"""docs/algorithms.md agrees with the code and the YAML files."""

from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.objective.page import PAGE, ROOT, render
from rlbench.objective.pieces import PLACES
from rlbench.preference import page as of_preferences
from rlbench.preference.places import PLACES as PREFERENCE_PLACES
from rlbench.running.cli import groups, methods


def test_the_page_is_current():
    page = PAGE.read_text(encoding="utf-8")
    assert page == render(page), "stale: run python -m rlbench.objective.page"
    assert page == of_preferences.render(page), "stale: run python -m rlbench.preference.page"


def test_it_names_every_method_and_every_piece():
    page = PAGE.read_text(encoding="utf-8")
    for name in [*groups()["algorithm"], *(piece for place in (*PLACES, *PREFERENCE_PLACES) for piece in place)]:
        assert f"`{name}`" in page, name


def test_the_readme_counts_the_methods():
    others = len(methods(POLICY_OPTIMISATION)) - 1
    assert f"(GRPO and {others} others)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_stale_table_is_written_anew():
    page = PAGE.read_text(encoding="utf-8")
    stale = page.replace("| `rank_grpo` | rank |", "| `rank_grpo` | sequence |")
    assert stale != page
    assert render(stale) == page

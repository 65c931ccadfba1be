"""Writes the tables of recipes, losses and updates in docs/algorithms.md from their docstrings.

python -m rlbench.preference.page
"""

from rlbench.objective.page import PAGE, pieces_table
from rlbench.preference.places import PLACES

BEGIN, END = (f"<!-- {name}: written by python -m rlbench.preference.page -->" for name in ("tuples", "end of tuples"))


def render(page: str) -> str:
    """The page with its tables replaced by current ones."""
    before, rest = page.split(BEGIN)
    tables = "\n\n".join(pieces_table(place) for place in PLACES)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The section of warnings: cautions, excluded or unusual runs, and the thresholds."""

from collections.abc import Sequence

from analysis.html.grid import folded, lines, section
from analysis.html.markup import Html, breakable, join, tag
from analysis.problems import Problem
from analysis.tables.cautions import THRESHOLDS, Caution


def caution_section(found: Sequence[Caution], problems: Sequence[Problem]) -> Html:
    """The section of warnings."""
    left_out = [problem for problem in problems if problem.left_out]
    odd = [problem for problem in problems if not problem.left_out]
    return section(
        "warnings",
        "Warnings",
        lines([_shown(one) for one in found], class_="cautions")
        if found
        else tag("p", "None of the checks below found anything."),
        folded(f"Left out of every number here ({len(left_out)})", problem_lines(left_out)) if left_out else None,
        folded(f"Used, but note ({len(odd)})", problem_lines(odd)) if odd else None,
        folded("What is checked, and the thresholds", lines(THRESHOLDS)),
    )


def _shown(caution: Caution) -> Html:
    sign, kind = ("▲", "serious") if caution.serious else ("△", "mild")
    return join(tag("strong", f"{sign} {caution.title}. ", class_=kind), caution.told)


def problem_lines(problems: Sequence[Problem]) -> Html:
    """A list of runs with the problem of each."""
    return lines([join(tag("code", breakable(problem.run)), ": ", problem.reason) for problem in problems])

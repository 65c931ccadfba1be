"""Draw the curves that the paper reports."""

import argparse

from analysis.command import show_written, terminal
from analysis.figures.choices import METRIC
from analysis.figures.reported import draw_alone, reported_curves
from analysis.figures.style import FORMATS, save
from rlbench.base.errors import BadInput
from rlbench.base.files import new_folder
from rlbench.lists.metric_catalogue import metric_of


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    curves = reported_curves(backbones=options.backbone, regimes=options.regime)
    if not curves:
        asked = f"{', '.join(options.backbone)} with {', '.join(options.regime)}"
        raise BadInput(f"the paper has no curve of {asked}")
    new_folder(options.out, "--out")
    figure = draw_alone(curves, f"Validation {metric_of(METRIC).label}")
    show_written(terminal(), save(figure, options.out / "paper", FORMATS))
    return 0

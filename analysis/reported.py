"""`python -m analysis.reported --out figures/paper`: draw the curves that the paper reports, without any run."""

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.command import plain_parser, refusing, show_written, terminal
from analysis.figures.reported import BACKBONES, METRIC, REGIMES, draw_alone, reported_curves
from analysis.figures.style import FORMATS, save
from rlbench.base.errors import BadInput
from rlbench.base.files import new_folder
from rlbench.lists.metric_catalogue import metric_of

DESCRIPTION = """\
Draw the validation NDCG@20 over updates that the Rank-GRPO paper (arXiv 2510.20150) reports on Reddit-v2,
as read off its figures (experiments/reported/curves.csv). Needs no run. Writes paper.png, paper.svg and paper.pdf.

To compare runs with it: python -m analysis.curves RUNS --reference paper
"""
EPILOG = """\
example:  python -m analysis.reported --out figures/paper
          python -m analysis.reported --backbone Qwen2.5-0.5B Llama-3.2-3B --regime mu=2
exit code: 0 written; 2 the paper reports no such curve, or an unknown name
"""


@refusing("reported")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = plain_parser("reported", DESCRIPTION, EPILOG)
    parser.add_argument("--out", type=Path, default=Path("figures/paper"), help="where to write (default: %(default)s)")
    parser.add_argument("--backbone", nargs="+", choices=list(BACKBONES.values()), help="(default: all)")
    parser.add_argument("--regime", nargs="+", choices=list(REGIMES.values()), help="(default: all)")
    options = parser.parse_args(arguments)
    curves = reported_curves(backbones=options.backbone, regimes=options.regime)
    if not curves:
        asked = f"{', '.join(options.backbone)} with {', '.join(options.regime)}"
        raise BadInput(f"the paper has no curve of {asked}")
    new_folder(options.out, "--out")
    figure = draw_alone(curves, f"Validation {metric_of(METRIC).label}")
    show_written(terminal(), save(figure, options.out / "paper", FORMATS))
    return 0


if __name__ == "__main__":
    sys.exit(main())

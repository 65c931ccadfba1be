"""`python -m analysis.curves runs/mini --out figures/mini`: draw curves from run directories."""

import argparse
import sys
import textwrap
from collections.abc import Iterable

from analysis import command
from analysis.figures.choices import AXES, MANY, SHOWN, TRAINING
from rlbench.lists.metric_catalogue import inside, metric_title


def _words(titles: Iterable[str]) -> str:
    """Titles of metrics for the help text, in lines of its width."""
    return textwrap.fill(
        ", ".join(map(inside, titles)), 120, initial_indent=" " * 23, subsequent_indent=" " * 23
    ).strip()


DESCRIPTION = f"""\
Draw the curves of an experiment from its run directories, as PNG (200 dpi), SVG and PDF, each with its caption as text.

Writes to the --out folder, for what the runs measured:
  validation           Recall and NDCG on validation, with bands over seeds
  training             {_words(metric_title(metric) for _, metric in TRAINING)}
  {"  ".join(f"ranks-{name[:-2]}" for name in SHOWN)}
                       maps of rank by update, one per row, with a common colour scale

A row is an algorithm with a reward (and variant); its line is the mean over its seeds. With more than {MANY} rows
each row has its own panel on validation, and in training figures the colour of a line shows its row's last NDCG.
If RUNS has several experiments, datasets or models, each gets its own folder below --out.

--against   unit of the x axis. Every run has updates; the others need budget.jsonl in every run of a row,
            and rows without it are left out and named. Seeds with different costs are interpolated linearly over
            the range that all cover.
--metrics   metrics to draw instead: validation metrics by name (ndcg@5, recall@10, in_catalog), training metrics as
            train.NAME (train.entropy), maps by their k (hits@k, rank_hit_rate@k).
--by        one panel per value of algorithm, reward, or a setting by its dotted key (algorithm.credit).
--template  make figures for a paper: as wide as its text or --width column, in its letters, with the notes in the
            caption (NAME.txt) and as a LaTeX figure (NAME.tex).
--names     names to display, such as rank_grpo=Rank-GRPO log_decay='log decay'.
--reference paper   adds the paper's validation curves (arXiv 2510.20150, as read off its figures), dashed, where
            dataset, model and updates on one rollout are the runs'. They count updates.
"""
EPILOG = """\
example:  python -m analysis.curves runs/mini --out figures/mini
          python -m analysis.curves runs/mini --against generated_tokens --metrics ndcg@5 ndcg@10 train.kl
          python -m analysis.curves runs/mini_ablation --by algorithm.credit
          python -m analysis.curves runs/mini --template icml --width column --metrics ndcg@10
          python -m analysis.reported --out figures/paper    # the paper's curves alone
exit code: 0 written; 2 no such folder, no RL run in it, or an option that does not fit the runs
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("curves", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    command.add_folder(parser, "figures/<RUNS below runs/>")
    parser.add_argument("--against", choices=list(AXES), default="updates", help="(default: %(default)s)")
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="see above")
    parser.add_argument("--by", metavar="KEY", help="see above")
    parser.add_argument("--reference", choices=["paper"], help="see above")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME=WORDS", help="see above")
    command.add_paper(parser)
    return parser


@command.parsing("curves", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.curves import run  # loads pandas and matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())

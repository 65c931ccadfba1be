"""Figures for papers: widths, letters and fonts of templates, captions beside the figure."""

import re
import zlib
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.collection import Collection
from analysis.curves import main
from analysis.figures.grid import label_lowest, panel_grid, title_size
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.ranks import draw_ranks
from analysis.figures.style import PAGE, Captioned, save, style_of
from analysis.render.templates import TEMPLATES, Paper, make_paper
from rlbench.base.errors import BadInput
from tests.helpers_curves import collection
from tests.unit.test_analysis_curves import small_runs

WIDE = ("icml", "acl", "acm", "ieee")
PAPERS = [(name, width) for name in TEMPLATES for width in ("column", "full")]


def group(rows: int = 3, seeds: int = 3, metric: str = "ndcg@10", split: str = "validation") -> Collection:
    """RL rows with curves of one metric over five updates."""
    names = [f"{a}-{r}" for r in ("relevance", "log_decay") for a in ("grpo", "rank_grpo", "gspo", "dapo", "rloo")]
    return collection(
        {
            name: [{step: 0.1 + 0.01 * step + 0.001 * i for step in range(5)} for i in range(seeds)]
            for name in names[:rows]
        },
        metric=metric,
        split=split,
    )


def drawn(paper: Paper, rows: int = 6) -> list[Captioned]:
    """A figure of each kind."""
    figures = (
        draw_validation(group(rows), paper=paper),
        draw_training(group(rows, metric="kl", split="train"), paper=paper),
        draw_ranks(group(rows, metric="reward@1", split="train"), "reward@k", paper=paper),
    )
    found = [figure for figure in figures if figure is not None]
    assert len(found) == 3
    return found


def pdf_objects(file: Path) -> str:
    """All objects of a PDF as text, with its compressed object streams unpacked."""
    content = file.read_bytes()
    parts = [content.decode("latin-1")]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            parts.append(zlib.decompress(stream).decode("latin-1"))
        except zlib.error:
            continue  # an image
    return "\n".join(parts)


def test_the_pdf_embeds_the_templates_font_at_its_width(tmp_path: Path) -> None:
    for name, width in PAPERS:
        paper = make_paper(name, width)
        figure = draw_validation(group(), paper=paper)
        assert figure is not None
        text = pdf_objects(save(figure, tmp_path / f"{name}-{width}", ("pdf",))[0])
        fonts = set(re.findall(r"/BaseFont /[A-Z]{6}\+([\w-]+)", text))
        assert fonts == {"STIXGeneral-Regular"}
        assert text.count("/Type /FontDescriptor") == len(re.findall(r"/FontFile2 \d+ 0 R", text)) >= 1
        assert "/Type3" not in text
        box = re.search(r"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", text)
        assert box is not None and float(box[1]) / 72 == pytest.approx(paper.width, abs=0.01)


def letters(figure: Figure) -> set[float]:
    """Sizes of all letters that are drawn."""
    texts = figure.findobj(Text)
    return {text.get_fontsize() for text in texts if isinstance(text, Text) and text.get_text() and text.get_visible()}


@pytest.mark.parametrize(("name", "width"), [("icml", "column"), ("acl", "column"), ("iclr", "full"), ("ieee", "full")])
def test_letters_have_the_templates_sizes_and_nothing_is_cut_off(name: str, width: str, tmp_path: Path) -> None:
    paper = make_paper(name, width)
    assert paper.template is not None
    for figure in drawn(paper):
        save(figure, tmp_path / "figure", ("png",))
        assert letters(figure) <= {paper.template.labels, paper.template.small}
        page, needed = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert needed.x0 >= page.x0 - 1 and needed.x1 <= page.x1 + 1
        assert needed.y0 >= page.y0 - 1 and needed.y1 <= page.y1 + 1
        for one, other in pairwise(figure.axes):
            assert not one.get_tightbbox().fully_overlaps(other.get_window_extent()), "panels do not overlap"


def test_a_column_holds_two_panels_and_a_page_three() -> None:
    keys = [("train", name) for name in ("kl",)]
    figure = draw_training(group(metric="kl", split="train"), keys=keys, paper=make_paper("icml", "column"))
    assert figure is not None and figure.get_figwidth() == TEMPLATES["icml"].column
    for width, across in (("column", 2), ("full", 3)):
        ranks = draw_ranks(group(6, metric="reward@1", split="train"), "reward@k", paper=make_paper("icml", width))
        assert ranks is not None
        assert len({round(ax.get_position().x0, 3) for ax in ranks.axes[:6]}) == across


def test_the_caption_has_the_facts_that_the_figure_shows() -> None:
    paper = make_paper("icml", "full", {"rank_grpo": "Rank-GRPO"})
    figure, plain = draw_validation(group(), paper=paper), draw_validation(group())
    assert figure is not None and plain is not None
    (legend,), (own,) = figure.legends, plain.legends
    assert "Rank-GRPO · relevance" in [text.get_text() for text in legend.get_texts()]
    note = own.get_title().get_text()
    assert legend.get_title().get_text() == "" and note.endswith("Bands: 95 % interval over seeds.")
    assert figure.caption == plain.caption
    assert figure.caption.endswith(" ".join(note.split()))
    assert figure.caption.startswith("NDCG@10 on validation, over updates. tiny on mini. Validation: all contexts")
    known = group(metric="kl", split="train")
    settings = {run: {"rl.completions_per_update": 64, "rl.group_size": 8} for run in known.runs["run"]}
    training = draw_training(type(known)(known.runs, known.queries, known.source, settings=settings))
    assert training is not None
    assert "An update uses 64 lists in groups of 8. " in training.caption and "Smoothed" not in training.caption


def test_the_smoothing_is_in_the_caption() -> None:
    points = {step: 0.01 * step for step in range(100)}
    figure = draw_training(collection({"grpo-dcg": [points]}, split="train", metric="kl"))
    assert figure is not None and "Smoothed: moving mean of 5 points." in figure.caption
    assert figure.caption.endswith("Lines: one seed each, hence no bands.")


def test_the_command_writes_captions_and_latex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_runs(tmp_path / "runs")
    out = tmp_path / "out"
    options = [str(tmp_path / "runs"), "--out", str(out), "--metrics", "ndcg@10", "--names", "grpo=GRPO (ours, 100 %)"]
    assert main([*options, "--template", "icml"]) == 0
    assert {file.suffix for file in out.glob("validation.*")} == {".png", ".svg", ".pdf", ".txt", ".tex"}
    text = (out / "validation.tex").read_text()
    assert r"\begin{figure*}[t]" in text and r"\includegraphics{validation.pdf}" in text
    assert r"\label{fig:mini-mini-tiny-validation}" in text and "one seed each" in text
    caption = " ".join((out / "validation.txt").read_text().split())
    assert caption.startswith("NDCG@10 on validation, over updates.") and caption in text
    assert main([*options, "--template", "acm", "--width", "column"]) == 0
    text = (out / "validation.tex").read_text()
    assert r"\begin{figure}[t]" in text and text.count(caption) == 2 and r"\Description{" in text
    assert main([*options, "--width", "3"]) == 0
    assert "validation.tex is not of this call; moved to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--width", "column"],
            "--width column needs a --template (iclr, neurips, icml, acl, acm, ieee), or give a number",
        ),
        (["--width", "0.5"], "--width 0.5 is neither column nor full nor a number of inches from 2 to 20"),
        (["--width", "wide", "--template", "acl"], "--width wide is neither column nor full"),
        (["--names", "rank=x"], "--names rank=x: no row has such an algorithm or reward."),
        (["--names", "grop=x"], "Did you mean 'grpo'?"),
        (["--names", "grpo"], "--names grpo: write NAME=WORDS"),
    ],
)
def test_a_paper_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    small_runs(tmp_path / "runs")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_widths() -> None:
    assert make_paper(None, None) == Paper()
    assert make_paper(None, "3.3").width == 3.3
    assert (make_paper("acl", "column").wide, make_paper("acl", None).wide, make_paper("iclr", None).wide) == (
        False,
        True,
        False,
    )
    assert make_paper("acl", "5").wide and not make_paper("acl", "2.5").wide
    with pytest.raises(BadInput, match="--width nan"):
        make_paper("acl", "nan")


@pytest.mark.parametrize("across", [2, 4, 6])
def test_labels_below_panels_do_not_overlap(across: int) -> None:
    paper, style = PAGE, style_of(PAGE)
    with matplotlib.rc_context(style | {"axes.titlesize": title_size(across, style, paper.width)}):
        figure, axes = panel_grid(2 * across - 1, across, 1.2, paper=paper)
        label_lowest(axes, across, "Generated tokens (thousands)")
        figure.canvas.draw()
        boxes = [ax.xaxis.label.get_window_extent() for ax in axes[-across:]]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))

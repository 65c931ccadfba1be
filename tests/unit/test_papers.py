"""The index of papers: its entries, its page and its command."""

import pytest
import yaml

from rlbench import papers as command
from rlbench.base.errors import BadInput
from rlbench.config.paper_index import INDEX, PAGE, PaperEntry, matching, read_papers, render

PAPERS = read_papers()


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(PAPERS), "stale: run python -m rlbench.config.paper_index"


def test_all_papers_of_the_survey_are_there():
    assert len(PAPERS) == 95
    assert sum(not paper.out for paper in PAPERS) == 63
    assert [paper.arxiv for paper in PAPERS] == sorted((paper.arxiv for paper in PAPERS), reverse=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arxiv": 2510.2015}, "is not a number such as 2510.20150, in quotes"),
        ({"title": ""}, "title is missing"),
        ({"evidence": "rumour"}, "evidence = rumour is unknown; known: code, descendant"),
        ({"command": "make it"}, "command = make it must start with one of: python run.py"),
        ({"adapted": ""}, "adapted is missing; say what was adapted"),
        ({"out": "It needs video."}, "command beside out; leave one out"),
        ({"year": 2025}, "unknown key 'year'; known: arxiv, name"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, changes, said):
    entry = next(entry for entry in yaml.safe_load(INDEX.read_text(encoding="utf-8")) if entry.get("command"))
    index = tmp_path / "papers.yaml"
    index.write_text(yaml.safe_dump([{**entry, **changes}]), encoding="utf-8")
    with pytest.raises(BadInput) as refused:
        read_papers(index)
    assert said in str(refused.value) and "papers.yaml, entry 1" in str(refused.value)


def test_a_paper_that_is_there_twice(tmp_path):
    entry = yaml.safe_load(INDEX.read_text(encoding="utf-8"))[0]
    index = tmp_path / "papers.yaml"
    index.write_text(yaml.safe_dump([entry, entry]), encoding="utf-8")
    with pytest.raises(BadInput, match=f"{entry['arxiv']} is there twice"):
        read_papers(index)


def test_words_must_all_occur():
    some = [PaperEntry("1", "TreeRPO", "Tree", "A tree."), PaperEntry("2", "DPO", "Pairs", "No tree of lists.")]
    assert matching(some, []) == some
    assert matching(some, ["TREE"]) == some
    assert [paper.name for paper in matching(some, ["tree", "lists"])] == ["DPO"]


def test_the_command_shows_an_entry(capsys):
    assert command.main(["2510.20150"]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("Rank-GRPO (ConvRec-R1) (arXiv 2510.20150)\n") and "python run.py algorithm=rank_grpo" in said
    )
    assert command.main(["no", "such", "paper"]) == 2
    assert "no paper contains no and such and paper" in capsys.readouterr().err

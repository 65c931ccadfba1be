"""Judges files of lists for `rlbench score`. Loads no torch."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.commands.external import find_place, run_of, show, write_baselines, write_lists, wrong_names
from rlbench.evaluation.external_lists import read_lists


def score(options: argparse.Namespace) -> None:
    """Judge the files that the parsed options of `rlbench.score` name, and write a run for each system and seed.

    Raises:
        BadInput: all problems of the files and settings.
    """
    console = Console(stderr=True, highlight=False)
    place = find_place(options)
    found = read_lists(
        options.files,
        place.contexts,
        place.others,
        with_years=place.dataset.catalog.has_years,
        system=options.system,
        doc_field=options.lm_eval,
    )
    taken = wrong_names(place, found.names, options.config_dir)
    problems, runs = [*found.problems, *taken.values()], []
    for one in found.systems:
        if one.name in taken:
            continue
        try:
            details = {"samples": one.n_samples, "sha256": one.sha256}
            runs.append(run_of(place, one.name, one.seed, details))
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(*problems)
    files = [_origin(file) for file in options.files]
    for one, run in zip(found.systems, runs, strict=True):
        console.print(f"[bold]external[/bold] {run.root}", soft_wrap=True)
        write_lists(place, one, run, files)
    baselines = write_baselines(place, lambda said: console.print(said, markup=False))
    show(place, [*baselines, *runs], console)


def _origin(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"name": file.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

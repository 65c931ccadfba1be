"""`python -m tests.mutants`: plant each bug alone, run the tests that could see it, report by area.

Exit code: 0 if every area reaches --least; 1 if one does not; 2 if a bug cannot be planted, or if a test that caught
one also fails without any bug.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tests.mutants.bugs import FOLDER, BadBug, Bug, read_bugs
from tests.mutants.worker import CAUGHT, INVALID, SURVIVED, Outcome, begin, plant, unchanged

ROOT = Path(__file__).resolve().parents[2]


def chosen(bugs: list[Bug], areas: list[str], ids: list[str]) -> list[Bug]:
    """The bugs of some areas or with some ids; all if neither is given."""
    return [bug for bug in bugs if (not areas or bug.area in areas) and (not ids or bug.id in ids)]


def by_file(tests: Iterable[str]) -> list[tuple[str, ...]]:
    """The tests, grouped by file, so that each file is imported once."""
    files: dict[str, set[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], set()).add(test)
    return [tuple(sorted(found)) for _, found in sorted(files.items())]


def report(rows: list[tuple[Bug, Outcome]], least: float) -> Iterator[str]:
    """One line per area, then one per survivor."""
    yield f"{'area':<14}{'bugs':>6}{'caught':>8}{'equivalent':>12}{'share':>8}"
    for area in sorted({bug.area for bug, _ in rows}):
        real = [outcome for bug, outcome in rows if bug.area == area and not bug.equivalent]
        equal = sum(bug.area == area and bool(bug.equivalent) for bug, _ in rows)
        caught = sum(outcome.status == CAUGHT for outcome in real)
        share = caught / len(real) if real else 1.0
        yield (f"{area:<14}{len(real):>6}{caught:>8}{equal:>12}{share:>8.1%}" + ("" if share >= least else "  too few"))
    for bug, outcome in rows:
        if bug.equivalent and outcome.status != SURVIVED:
            yield f"said to be equivalent, but {outcome.status} by {outcome.by}: {bug.area}/{bug.id}"
        if not bug.equivalent and outcome.status != CAUGHT:
            yield f"{outcome.status}: {bug.area}/{bug.id} ({bug.file}): {bug.consequence}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--area", action="append", default=[], help="only this area (may be repeated)")
    parser.add_argument("--id", action="append", default=[], help="only this bug (may be repeated)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="bugs at the same time (default: all cores)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one bug (default: 300)")
    parser.add_argument("--least", type=float, default=0.95, help="share caught that each area must reach")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "mutants.json", help="results as JSON")
    parser.add_argument("--bugs", type=Path, default=FOLDER, help="folder of TOML files")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository to plant them in")
    parser.add_argument("--slow", action="store_true", help="run tests marked slow, too")
    parser.add_argument(
        "--no-baseline", action="store_true", help="do not run the tests that caught bugs without any bug, too"
    )
    options = parser.parse_args(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        bugs = chosen(read_bugs(options.bugs), options.area, options.id)
        for bug in bugs:
            bug.planted(options.root)
    except BadBug as error:
        print(error, file=sys.stderr)
        return 2
    if not bugs:
        print("no bug is chosen: see --area and --id", file=sys.stderr)
        return 2
    rows: list[tuple[Bug, Outcome]] = []
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        pool = ProcessPoolExecutor(
            options.jobs,
            multiprocessing.get_context("spawn"),
            begin,
            (options.root.resolve(), Path(scratch)),
        )
        with pool:
            runs = [pool.submit(plant, bug, options.timeout, options.slow) for bug in bugs]
            for number, (bug, run) in enumerate(zip(bugs, runs, strict=True), 1):
                outcome, tail = run.result()
                rows.append((bug, outcome))
                records.append({**asdict(bug), **asdict(outcome), "tail": tail})
                print(
                    f"{number:>4}/{len(bugs)} {outcome.status:<9}{outcome.seconds:>6.1f} s  {bug.area}/{bug.id}"
                    + (f"  by {outcome.by}" if outcome.by else ""),
                    flush=True,
                )
            catching = [outcome.by.split("[")[0] for _, outcome in rows if outcome.status == CAUGHT]
            again = [
                pool.submit(unchanged, tests, 3 * options.timeout, options.slow)
                for tests in ([] if options.no_baseline else by_file(catching))
            ]
            false_alarms = [run.result() for run in again if run.result().status != SURVIVED]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(records, indent=1), encoding="utf-8")
    lines = list(report(rows, options.least))
    print("\n".join(lines))
    invalid = [bug for bug, outcome in rows if outcome.status == INVALID]
    for bug in invalid:
        print(f"invalid, its tests cannot be imported with it: {bug.area}/{bug.id}", file=sys.stderr)
    for outcome in false_alarms:
        print(f"a test that caught a bug fails without any, too: {outcome.by or outcome.status}", file=sys.stderr)
    if invalid or false_alarms:
        return 2
    return int(any(line.endswith("too few") or line.startswith("said to be") for line in lines))


if __name__ == "__main__":
    sys.exit(main())

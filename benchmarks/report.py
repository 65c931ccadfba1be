"""`python -m benchmarks.report`: time to make and open the page of 200 runs (numbers in docs/development.md).

The 200 runs are 40 synthetic rows of 5 seeds with everything that real runs write: curves of 300 updates, sample lists,
sampled groups, spending. Prints the time to make the page, its size, the time from opening it in Chromium to the end of
its scripts, and the compute time of the main thread, which does not depend on other load. Takes some minutes, mostly to
write the runs.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from analysis.collection import collect
from analysis.html import group_page
from analysis.tables.build import build_table
from rlbench.config.arguments import count
from tests.browser import Opened, chromium
from tests.helpers_report import write_full_sweep

LIMIT_BYTES, LIMIT_SECONDS = 10_000_000, 3.0


def made_up(folder: Path, rows: int, seeds: int, updates: int) -> None:
    """Create run directories of the given number of rows."""
    gains = {f"method{i // 2:02d}-{('relevance', 'log_decay')[i % 2]}": 0.01 + 0.002 * i for i in range(rows)}
    write_full_sweep(folder, gains, seeds=seeds, updates=updates, contexts=150, samples=8)


def make(runs: Path) -> tuple[str, float, float]:
    """Return the page, the seconds to collect the runs, and the seconds to make the page."""
    start = time.perf_counter()
    collection = collect(runs)
    collected = time.perf_counter()
    (group,) = collection.groups()
    page = group_page(group, build_table(group), runs, collection.problems)
    return page, collected - start, time.perf_counter() - collected


def opening(page: Path, times: int) -> list[tuple[float, float]]:
    """Return the seconds until a browser has opened a page and run its scripts, and its main thread's compute time."""
    taken = []
    with chromium() as browser:
        for _ in range(times):
            start = time.perf_counter()
            with Opened(browser, page, counted=True) as opened:
                opened.page.wait_for_selector("#lists-panel .card")
                taken.append((time.perf_counter() - start, opened.computed()))
                assert opened.said == [] and opened.asked == []
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=count, default=40)
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument("--updates", type=count, default=300)
    parser.add_argument("--times", type=count, default=5, help="how often the page is opened")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs, file = Path(folder) / "runs", Path(folder) / "report.html"
        made_up(runs, options.rows, options.seeds, options.updates)
        page, collected, made = make(runs)
        file.write_text(page, encoding="utf-8")
        size = file.stat().st_size
        seconds, computed = zip(*opening(file, options.times), strict=True)
    print(f"{options.rows * options.seeds} runs of {options.updates} updates")
    print(f"collected in {collected:.1f} s, page made in {made:.1f} s")
    print(f"size {size / 1e6:.2f} MB (limit {LIMIT_BYTES / 1e6:.0f} MB)")
    print(f"opened in {statistics.median(seconds):.2f} s, fastest {min(seconds):.2f} s (limit {LIMIT_SECONDS:.0f} s)")
    print(f"main thread {statistics.median(computed):.2f} s; load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

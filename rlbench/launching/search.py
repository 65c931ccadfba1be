"""Hyperparameter search: Optuna proposes settings, cells run them, and poor proposals are stopped early.

The runs of a proposal are ordinary run directories that tables and `analysis.select` read. Optuna's journal stores all
proposals and results, so the same command resumes the search.
"""

import contextlib
import fcntl
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.launching.cells import Cell, note_cells
from rlbench.launching.study import REFUSED, Proposal, Study
from rlbench.runs.directory import DONE, PRUNED

REST = 20
"""Pause between checks of the running cells, as a multiple of the time that a check takes."""


class Search:
    """Feeds a launcher with proposals from one or several studies in turn.

    Args:
        studies: the studies, with their earlier results.
    """

    def __init__(self, studies: Sequence[Study]):
        self.studies = studies
        self.open: list[Proposal] = []
        self.waiting: list[Cell] = []
        self.failed: list[Cell] = []
        self.next_look = 0.0
        for study in studies:
            study.take_up()

    def first_cells(self) -> list[Cell]:
        """Return the cells of the next proposal without starting it; empty if all is done."""
        self._fill()
        return list(self.waiting)

    def next_cell(self, has_room: Callable[[Cell], bool]) -> Cell | None:
        self._fill()
        found = next((cell for cell in self.waiting if has_room(cell)), None)
        if found is not None:
            self.waiting.remove(found)
            note_cells([found])
        return found

    def over(self) -> bool:
        self._fill()
        return not self.waiting

    def watch(self, running: Sequence[Cell]) -> dict[Path, str]:
        started = time.monotonic()
        if started < self.next_look:
            return {}
        to_stop: dict[Path, str] = {}
        roots = {cell.run.root for cell in running}
        for proposal in self.open:
            if proposal.first.run.root in roots and not proposal.stopped:
                proposal.stopped = proposal.report()
            if proposal.stopped:
                own = {cell.run.root for cell in proposal.cells}
                self.waiting = [cell for cell in self.waiting if cell.run.root not in own]
                to_stop |= {root: proposal.stopped for root in own & roots}
        now = time.monotonic()
        self.next_look = now + REST * (now - started)  # metrics of long runs take long to read
        return to_stop

    def ended(self, cell: Cell, succeeded: bool) -> None:
        if not succeeded and cell.run.status() != PRUNED:
            self.failed.append(cell)
        self._settle()

    def _settle(self) -> None:
        """Report finished proposals to their studies."""
        for proposal in list(self.open):
            statuses = [cell.run.status() for cell in proposal.cells]
            if proposal.stopped or PRUNED in statuses or all(status == DONE for status in statuses):
                proposal.study.tell(proposal)
                self.open.remove(proposal)

    def _fill(self) -> None:
        """Request proposals until one has cells to run, or all proposals are made."""
        while not self.waiting:
            left = {id(study): study.wanted() - study.proposed() for study in self.studies}
            study = max(self.studies, key=lambda study: left[id(study)])
            if left[id(study)] <= 0:
                return
            proposal = study.ask()
            if proposal is None:
                continue
            self.open.append(proposal)
            busy = {cell.run.root for other in self.open if other is not proposal for cell in other.cells}
            cells = [cell for cell in proposal.cells if cell.run.root not in busy]
            if PRUNED not in [cell.run.status() for cell in proposal.cells]:
                self.waiting += [cell for cell in cells if cell.run.status() != DONE]
            self._settle()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the searches of an experiment. Otherwise two commands would resume each other's proposals.

    Raises:
        BadInput: if another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".search.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"another search is running in {folder}; wait for it to end, or use another experiment_name"
            ) from None
        yield


def summarise(studies: Sequence[Study], command: Callable[[list[str]], list[str]], console: Console) -> None:
    """Print each study's best proposal, the command to run it, and the number of pruned proposals.

    Args:
        command: builds a command line from overrides, for one run or after -m for several.
        console: where to print.
    """
    from optuna.trial import TrialState

    for study in studies:
        trials = study.study.get_trials(deepcopy=False)
        counts = Counter(trial.state for trial in trials)
        refused = sum(REFUSED in trial.user_attrs for trial in trials)
        done, pruned, left = (counts[s] for s in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
        parts = [f"{done} done", f"{pruned} pruned", f"{refused} refused", f"{left} not finished"]
        shown = ", ".join(part for part in parts if not part.startswith("0 "))
        around = f" with {' '.join(study.fixed)}" if study.fixed else ""
        said = f"search over {', '.join(study.space.dimensions)}{around}: {shown or 'nothing done'}"
        console.print(said, soft_wrap=True, markup=False)
        for trial in trials:
            if REFUSED in trial.user_attrs:
                console.print(f"  refused: {'; '.join(trial.user_attrs[REFUSED])}", soft_wrap=True, markup=False)
        if not done:
            continue
        best = study.study.best_trial
        cells = study.overrides(best.params)
        own = [text for text in cells[0] if text not in study.space.seeds]
        found = ", ".join(f"{key}={text}" for key, text in study.texts(best.params).items())
        seeds = f"seed={','.join(seed.split('=', 1)[1] for seed in study.space.seeds)}"
        line = command(["-m", *own, seeds] if len(cells) > 1 else [*cells[0], "hydra.mode=RUN"])
        console.print(f"  best: {found} with {best.value:.4f} on validation", soft_wrap=True, markup=False)
        console.print(f"  {shlex.join(line)}", soft_wrap=True, markup=False)

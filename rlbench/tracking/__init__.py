"""Trackers: a view of a run for people who watch many of them. The run directory stays the truth.

A tracker receives what the runner has already written to its own files: curves over updates, tables, final values,
figures. It may show them in several places at once: Weights & Biases (online or offline), TensorBoard, Trackio.

Whatever becomes of such a place (no login, no network, a full disk, a killed service, a server that never answers), the
run goes on, waits for nothing, and loses nothing but the view: each place is a `Backend` behind a queue and a thread of
its own (`rlbench.tracking.worker`); one that fails says so once and does nothing from then on.

Importing this package loads no tracking library, and no torch.
"""

from rlbench.tracking.identity import TrackerIdentity
from rlbench.tracking.tracker import BACKENDS, MODES, NoTracker, Tracker, check_modes, curve_name, make_tracker

__all__ = [
    "BACKENDS",
    "MODES",
    "NoTracker",
    "Tracker",
    "TrackerIdentity",
    "check_modes",
    "curve_name",
    "make_tracker",
]

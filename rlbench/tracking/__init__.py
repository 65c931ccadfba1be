"""Trackers: views of a run in Weights & Biases (online or offline), TensorBoard or Trackio.

A tracker receives what the runner has already written to its own files: curves over updates, tables, final values,
figures. The run directory remains the authoritative record.

A failing tracker never stops, delays or damages a run, be it a missing login, no network, a full disk, or a killed or
unresponsive service. Each view is a `Backend` with its own queue and thread (`rlbench.tracking.worker`). If it fails,
it logs one warning and is not used again.

Importing this package loads no tracking library and no torch.
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

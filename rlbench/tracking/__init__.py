"""Trackers: W&B, TensorBoard and Trackio behind one interface.

Imports only `base`.
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

"""Trackers: W&B, TensorBoard and Trackio behind one interface.

Imports only `base`.
"""

from rlbench.tracking.identity import TrackerIdentity
from rlbench.tracking.tracker import (
    BACKENDS,
    MODES,
    UPLOADERS,
    UPLOADS,
    NoTracker,
    Tracker,
    check_modes,
    curve_name,
    make_tracker,
)
from rlbench.tracking.wandb_agent import started_by_agent

__all__ = [
    "BACKENDS",
    "MODES",
    "UPLOADERS",
    "UPLOADS",
    "NoTracker",
    "Tracker",
    "TrackerIdentity",
    "check_modes",
    "curve_name",
    "make_tracker",
    "started_by_agent",
]

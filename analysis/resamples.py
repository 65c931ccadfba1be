"""How many bootstrap resamples an interval has. Loads no large package, so that help shows the default at once."""

RESAMPLES = 2_000
"""Default number of resamples behind each interval."""
FEWEST_RESAMPLES = 20
"""Minimum number of resamples. With fewer, an interval is little more than their smallest and largest mean."""
MOST_RESAMPLES = 10**6
"""Maximum number of resamples. More change no displayed digit and fill the memory."""

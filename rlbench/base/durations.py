"""Formats durations for plans, states and tables."""


def duration(seconds: float) -> str:
    """Return a duration such as "12 s", "3 min 17 s" or "1 h 05 min"; seconds are dropped from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

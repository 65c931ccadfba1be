"""How long something takes, as people read it: one form for plans, states and tables."""


def duration(seconds: float) -> str:
    """12 s, 3 min 17 s, 1 h 05 min: from an hour on without seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

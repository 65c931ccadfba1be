"""Learning rates that fall in steps, as published runs lower them by hand."""

from collections.abc import Callable, Mapping

Factor = Callable[[int], float]


def stepped(rate: float, steps: Mapping[int, float]) -> Factor | None:
    """Factor on `rate` as a function of finished updates: 1, and from each update in `steps` its rate over `rate`.

    None without steps: the trainer's own schedule applies.

    Args:
        rate: learning rate of the first update.
        steps: finished updates -> learning rate from then on.
    """

    def factor(done: int) -> float:
        reached = [update for update in steps if update <= done]
        return steps[max(reached)] / rate if reached else 1.0

    return factor if steps else None

"""Learning rates that fall in steps, as published runs lower them by hand: a rate, and from some updates on another."""

from collections.abc import Callable, Mapping

Factor = Callable[[int], float]


def stepped(rate: float, steps: Mapping[int, float]) -> Factor | None:
    """The factor on `rate` once so many updates are done: 1, and from each update of `steps` on its rate over `rate`.

    None where there are no steps: the trainer's own schedule then holds.

    Args:
        rate: of the first update.
        steps: updates done to the learning rate from then on.
    """

    def factor(done: int) -> float:
        reached = [update for update in steps if update <= done]
        return steps[max(reached)] / rate if reached else 1.0

    return factor if steps else None

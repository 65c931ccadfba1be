"""Which lists of a prompt form a tuple. The chosen list always has a higher reward than each of the rejected ones."""

from collections.abc import Sequence


def best_and_worst(rewards: Sequence[float], negatives: int, most: int) -> list[tuple[int, list[int]]]:
    """The k-th best list against the k-th worst ones, k = 1, 2, ...; no list is in two tuples.

    Lists of equal reward keep their order: the first of the best is chosen, the last of the worst are rejected.

    Args:
        rewards: rewards of one prompt's lists.
        negatives: rejected lists per tuple.
        most: largest number of tuples.

    Returns:
        At most `most` of (position of the chosen list, positions of the rejected ones, worst first). Empty if no list
        has a higher reward than `negatives` others.
    """
    order = sorted(range(len(rewards)), key=lambda place: -rewards[place])  # sorted is stable for ties
    found = []
    for k in range(min(most, len(order) // (1 + negatives))):
        worst = order[::-1][k * negatives : (k + 1) * negatives]
        if rewards[order[k]] <= rewards[worst[-1]]:
            break
        found.append((order[k], worst))
    return found


def below(reward: float, rewards: Sequence[float], negatives: int, most: int) -> list[list[int]]:
    """Lists with a lower reward than a demonstration, in the order in which they were drawn.

    Args:
        reward: the demonstration's reward.
        rewards: rewards of the drawn lists.
        negatives: rejected lists per tuple.
        most: largest number of tuples.

    Returns:
        The positions of the rejected lists of each tuple.
    """
    worse = [place for place, value in enumerate(rewards) if value < reward]
    count = min(most, len(worse) // negatives)
    return [worse[k * negatives : (k + 1) * negatives] for k in range(count)]

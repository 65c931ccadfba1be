"""Which lists of a prompt make a tuple. The chosen list is always worth more than each of the rejected ones."""

from collections.abc import Sequence


def best_and_worst(rewards: Sequence[float], negatives: int, most: int) -> list[tuple[int, list[int]]]:
    """The k-th best list against the k-th worst ones, k = 1, 2, ...; no list is in two tuples.

    Lists that are worth the same keep their order: of the best the first is chosen, of the worst the last are rejected.

    Args:
        rewards: of the lists of one prompt.
        negatives: rejected lists of a tuple.
        most: largest number of tuples.

    Returns:
        (place of the chosen list, places of the rejected ones, the worst first), at most `most` of them; none where no
        list is worth more than `negatives` others.
    """
    order = sorted(range(len(rewards)), key=lambda place: -rewards[place])  # sorted keeps the order of equals
    found = []
    for k in range(min(most, len(order) // (1 + negatives))):
        worst = order[::-1][k * negatives : (k + 1) * negatives]
        if rewards[order[k]] <= rewards[worst[-1]]:
            break
        found.append((order[k], worst))
    return found


def below(reward: float, rewards: Sequence[float], negatives: int, most: int) -> list[list[int]]:
    """Lists that are worth less than a demonstration, in the order in which they were drawn.

    Args:
        reward: of the demonstration.
        rewards: of the lists that were drawn.
        negatives: rejected lists of a tuple.
        most: largest number of tuples.

    Returns:
        The places of the rejected lists of each tuple.
    """
    worse = [place for place, value in enumerate(rewards) if value < reward]
    count = min(most, len(worse) // negatives)
    return [worse[k * negatives : (k + 1) * negatives] for k in range(count)]

"""As many of a row of things as fit, chosen evenly. Knows no things."""

from __future__ import annotations

from collections.abc import Callable


def evenly(count: int, kept: int) -> list[int]:
    """`kept` ascending places of 0..count-1, as even as can be; the ends first, then between.

    All if `kept` is `count` or more; the first alone if it is 1.

    >>> evenly(10, 4), evenly(3, 9), evenly(5, 1)
    ([0, 3, 6, 9], [0, 1, 2], [0])
    """
    if kept >= count:
        return list(range(count))
    steps = max(kept - 1, 1)
    # Half a step up, in integers: places are the same on every machine.
    return [(2 * i * (count - 1) + steps) // (2 * steps) for i in range(kept)]


def most_that_fit(size: Callable[[int], int], count: int, limit: int) -> int:
    """The largest n from 1 to `count` with size(n) <= limit, or 0; each thing takes at least 1.

    size: grows with n; where it does so but roughly, the result is some n that fits. It is asked
    about small n first, and never about many more than fit, so that a search costs little however
    many things there are.
    """
    low, high = 0, min(count, limit) + 1
    while high - low > 1:
        middle = max(low + 1, min(2 * low, (low + high) // 2))
        low, high = (middle, high) if size(middle) <= limit else (low, middle)
    return low

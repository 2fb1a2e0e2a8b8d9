"""Two contenders in turn: pairs of calls in alternating order, and more pairs only while the question is open."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .bench import Bench, Sample, Split, Unverified
from .decision import LOOKS, Interval, interval

PASSES = ("forward", "backward", "both")

_VERIFIED_AT_ONCE = 8
"""The number of pairs that are verified together.

While an answer is verified, the process of the contenders idles, and the next call is some percent slower. If each
answer were verified at once, the slower call would always be that of the same contender.
"""


@dataclass
class Race:
    """The state of a race so far. ``pairs`` are (the first contender's sample, the second's)."""

    pairs: list[tuple[Sample, Sample]] = field(default_factory=list)

    def ratio(self, part: str) -> Interval:
        """Return the ratio of first over second, for one of PASSES."""
        both = [(getattr(one.charged, part), getattr(two.charged, part)) for one, two in self.pairs]
        return interval([math.log(one / two) for one, two in both if one > 0 and two > 0])

    def median(self, which: int) -> Split:
        """Return the median time of one of the two."""
        charged = [pair[which].charged for pair in self.pairs]
        forward, backward = ([getattr(each, part) for each in charged] for part in PASSES[:2])
        return Split(_median(forward), _median(backward))


def run_race(
    bench: Bench,
    parts: tuple[str, str],
    seeds: Iterator[int],
    settled: Callable[[Race], bool],
    seconds: float,
    *,
    most: int = LOOKS[-1],
    between: Callable[[Race], None] = lambda race: None,
) -> Race:
    """Take pairs until ``settled`` returns True at one of the looks, until time is up, or until there are ``most``.

    ``between`` is called after each pair. Its work is not timed.
    """
    race, first = Race(), 0
    order = random.Random(next(seeds))
    finish = time.monotonic() + seconds
    waiting: list[tuple[Unverified, Unverified]] = []
    while len(race.pairs) < most:
        # The first call of a pair comes after a pause and is slower. So the two contenders take turns to be first.
        first = 1 - first if len(race.pairs) % 2 else order.randrange(2)
        called = bench.call_together([(parts[which], next(seeds)) for which in (first, 1 - first)])
        waiting.append((called[first], called[1 - first]))
        race.pairs.append((waiting[-1][0].sample, waiting[-1][1].sample))
        between(race)
        ends = time.monotonic() > finish or len(race.pairs) == most
        ends = ends or (len(race.pairs) in LOOKS and settled(race))
        if ends or len(waiting) == _VERIFIED_AT_ONCE:
            race.pairs[-len(waiting) :] = [(one.verify(), two.verify()) for one, two in waiting]
            waiting.clear()
        if ends:
            break
    return race


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else math.nan

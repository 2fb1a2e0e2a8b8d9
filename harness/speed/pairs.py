"""Two contenders in turn: pairs of calls in random order, more of them only while the question is open."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .bench import Bench, Sample, Split
from .decision import ERROR, LOOKS, Interval, interval

PASSES = ("forward", "backward", "both")


@dataclass
class Race:
    """What pairs of calls have shown so far. ``pairs`` are (the first contender's, the second's)."""

    pairs: list[tuple[Sample, Sample]] = field(default_factory=list)

    def ratio(self, part: str, error: float = ERROR / (len(LOOKS) + 1)) -> Interval:
        """First over second, of one of PASSES."""
        both = [(getattr(one.charged, part), getattr(two.charged, part)) for one, two in self.pairs]
        return interval([math.log(one / two) for one, two in both if one > 0 and two > 0], error)

    def median(self, which: int) -> Split:
        """The median time of one of the two."""
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
    """Pairs until ``settled`` says so at one of the looks, or time is up, or there are ``most``.

    ``between`` is called after each pair; what it does is timed in none.
    """
    race = Race()
    order = random.Random(next(seeds))
    finish = time.monotonic() + seconds
    while len(race.pairs) < most:
        first = order.randrange(2)
        samples = {parts[which]: bench.call(parts[which], next(seeds)) for which in (first, 1 - first)}
        race.pairs.append((samples[parts[0]], samples[parts[1]]))
        between(race)
        if time.monotonic() > finish or (len(race.pairs) in LOOKS and settled(race)):
            break
    return race


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else math.nan

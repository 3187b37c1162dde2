"""Sides timed in turns, and what can be said of the ratio of their times.

A side is a callable in a worker process of its own. A round gives every side one turn, in an order that is reversed
from round to round, so that whatever else the machine does falls on all of them alike. A turn is a burst of calls that
is not timed and some that are; their median is the turn's time. Between two processes there is a pause in which the
threads of the first go to sleep. A ratio of two sides is the median of the rounds' ratios, and its interval comes from
a bootstrap over rounds.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fastcnn.benchmark.worker import Worker

__all__ = ["Ratio", "Side", "Timing", "bootstrap", "take_turns"]

# How long the threads of a library may keep a core busy after its last call: libgomp's were seen to wait actively for
# 3 ms; OpenBLAS's do so for 2**26 cycles, and after a pause of 30 ms still disturbed what came next.
PAUSE = 0.1
BURST = 0.01  # seconds of a burst; a call that takes longer is a burst
BURSTS = 3  # timed bursts of a turn, unless a call takes longer than LONG
LONG = 0.03
SPIN = 0.01  # seconds for which two processes count at once, to see whether two cores are two
RESAMPLES = 2000
LEVEL = 0.95


class Ratio(NamedTuple):
    """A ratio of times, and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(
    numerator: Sequence[float],
    denominator: Sequence[float],
    groups: Sequence[int] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ratio:
    """Return the median ratio of pairs, with a percentile bootstrap interval over the pairs.

    Medians are of logarithms, so the ratio of b to a is one over that of a to b.

    Parameters
    ----------
    numerator, denominator : sequence of float
        Times; element i of both is from round i.
    groups : sequence of int, optional
        The pair of processes that each round is from. Where there are several, a resample draws processes first and
        then rounds of each, because what a process has by chance, such as its addresses, holds for all of its rounds.
    level : float
        Of the interval.
    resamples : int
    seed : int
        Of the draws.

    Examples
    --------
    >>> bootstrap([2.0, 4.0, 8.0], [1.0, 1.0, 1.0])
    Ratio(value=4.0, low=2.0, high=8.0)
    """
    logs = np.log(np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64))
    labels = np.zeros(len(logs), int) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng = np.random.default_rng(seed)
    medians = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(len(members), size=len(members))
        drawn = [members[j][rng.integers(len(members[j]), size=len(members[j]))] for j in chosen]
        medians[i] = np.median(logs[np.concatenate(drawn)])
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return Ratio(*(round(math.exp(value), 12) for value in (np.median(logs), low, high)))


@dataclass
class Timing:
    """What the turns of some sides took.

    Attributes
    ----------
    seconds : dict of str to list of list of float
        Seconds of a call, by side: a list for each round, of one value for each burst.
    cores : dict of str to list of float
        Processor time over wall-clock time of each turn: the cores that the side's threads had, spinning included.
    load : list of float
        The load average at the start of each round, where the system has one.
    pair : list of float
        How many times as much two processes at once count as one alone, at the start of each round: 2 on two cores that
        are free, less where they share one core or others use them. Empty where there is one process.
    groups : list of int
        Which processes each round is from.
    """

    seconds: dict[str, list[list[float]]] = field(default_factory=dict)
    cores: dict[str, list[float]] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)
    pair: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many turns each side had."""
        return len(self.groups)

    def turns(self, side: str) -> list[float]:
        """Seconds of a call in each turn of a side: the median of the turn's bursts."""
        return [statistics.median(bursts) for bursts in self.seconds[side]]

    def median(self, side: str) -> float:
        """Median of the seconds of a call over a side's turns."""
        return statistics.median(self.turns(side))

    def fastest(self, sides: Sequence[str]) -> str:
        """Return the one of `sides` with the least median."""
        return min(sides, key=self.median)

    def ratio(self, side: str, base: str) -> Ratio:
        """Return the ratio of the times of `side` to those of `base`."""
        return bootstrap(self.turns(side), self.turns(base), self.groups)

    def extended(self, other: Timing) -> Timing:
        """Return this timing and another one of the same sides, from other processes, as one."""
        if not self.groups:
            return other
        first = max(self.groups) + 1
        return Timing(
            {side: turns + other.seconds[side] for side, turns in self.seconds.items()},
            {side: cores + other.cores[side] for side, cores in self.cores.items()},
            self.load + other.load,
            self.pair + other.pair,
            self.groups + [first + group for group in other.groups],
        )

    def state(self) -> dict[str, Any]:
        """Return the machine's state as figures: medians of cores by side and of load, the quartile of pair."""
        return {
            "cores": {side: statistics.median(cores) for side, cores in self.cores.items()},
            "pair": float(np.quantile(self.pair, 0.25)) if self.pair else None,
            "load": statistics.median(self.load) if self.load else None,
        }

    def raw(self) -> dict[str, Any]:
        """Return everything as lists and numbers, for JSON."""
        return {
            "seconds": self.seconds,
            "cores": self.cores,
            "load": self.load,
            "pair": self.pair,
            "groups": self.groups,
        }


@dataclass(frozen=True)
class Side:
    """A callable that a worker keeps.

    Attributes
    ----------
    name : str
        What the figures call it, and the worker's key of the callable.
    worker : Worker
    """

    name: str
    worker: Worker


def _load() -> list[float]:
    return [os.getloadavg()[0]] if hasattr(os, "getloadavg") else []


def _pair(workers: Sequence[Worker]) -> list[float]:
    """How many times as much two workers at once count as one alone."""
    if len(workers) < 2:
        return []
    first, second = workers[:2]
    first.start_spin(SPIN)
    alone = first.finish_spin()
    first.start_spin(SPIN)
    second.start_spin(SPIN)
    return [(first.finish_spin() + second.finish_spin()) / alone]


def take_turns(
    sides: Sequence[Side],
    seconds: float,
    *,
    burst: float = BURST,
    least: int = 5,
    pause: float = PAUSE,
    processor_time: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Timing:
    """Time sides in turns.

    Parameters
    ----------
    sides : sequence of Side
        Sides of one worker should be neighbours: there is a pause where the worker changes.
    seconds : float
        Begin no further round after this time; warm-up does not count.
    burst : float
        Seconds of calls in a burst; a call that takes longer is a burst of one.
    least : int
        Rounds that are made however long they take.
    pause : float
        Seconds of the pause.
    processor_time : bool
        Whether the figures are processor time, for sides of one thread on a machine that is busy.
    clock, sleep : callable
        What measures and spends the time of rounds and pauses.

    Returns
    -------
    Timing
    """
    plan = {}
    previous = None
    for side in sides:
        if side.worker is not previous:
            sleep(pause)
        previous = side.worker
        calls, took = side.worker.count(side.name, burst)
        plan[side.name] = calls, BURSTS if took <= LONG else 1
    workers = list(dict.fromkeys(side.worker for side in sides))
    timing = Timing({side.name: [] for side in sides}, {side.name: [] for side in sides})
    order = list(sides)
    start = clock()
    while timing.rounds < least or clock() - start < seconds:
        sleep(pause)
        timing.load += _load()
        timing.pair += _pair(workers)
        previous = order[0].worker
        for side in order:
            if side.worker is not previous:
                sleep(pause)
            previous = side.worker
            calls, bursts = plan[side.name]
            found = side.worker.turn(side.name, calls, bursts)
            # A processor's clock may be so coarse that a burst shows none.
            timing.seconds[side.name].append([max(both[processor_time], 1e-9) / calls for both in found])
            wall, processor = map(sum, zip(*found, strict=True))
            timing.cores[side.name].append(processor / wall)
        timing.groups.append(0)
        order.reverse()
    return timing

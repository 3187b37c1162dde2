"""NumPy and fastcnn side by side, each in a process of its own: a group of two for each case of `fastcnn bench`."""

import functools
from contextlib import closing

import pytest

from fastcnn import get_num_threads
from fastcnn.benchmark.cases import CASES, SIDES
from fastcnn.benchmark.report import compare, start_workers
from fastcnn.benchmark.timing import BURST, LONG

ROUNDS, LONG_ROUNDS = 20, 5


class WorkerTime:
    """A clock of the time that the processes measured, which pytest-benchmark reads before and after a round."""

    __name__ = "worker_time"
    seconds = 0.0

    def __call__(self):
        return self.seconds


CLOCK = WorkerTime()


@pytest.fixture(scope="module")
def workers():
    with closing(start_workers(get_num_threads())) as started:
        yield started


@functools.lru_cache(maxsize=1)
def compare_once(case, workers):
    """Compare the sides of a case: once for both, as pytest runs them one after the other."""
    for side in SIDES:
        workers[side].clear()
    compare(case, workers)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=pytest.mark.benchmark(group=case.name, timer=CLOCK)) for case in CASES],
)
def test_case(case, side, benchmark, workers):
    with workers:
        compare_once(case, workers)
        calls, took = (1, 0.0) if benchmark.disabled else workers[side].count(side, BURST)

        def burst():
            ((wall, _),) = workers[side].turn(side, calls, 1)
            CLOCK.seconds += wall / calls

        benchmark.pedantic(burst, rounds=LONG_ROUNDS if took > LONG else ROUNDS)

"""NumPy and fastcnn side by side, one group of two for each case of the table in `fastcnn.benchmark`."""

import functools

import pytest

from fastcnn.benchmark import CASES, Case, Sides


@functools.lru_cache(maxsize=1)
def compared(case: Case) -> Sides:
    """Build a case and compare its sides: once for both, as pytest runs them one after the other."""
    return case.sides()


@pytest.mark.parametrize("side", ["reference", "fastcnn"])
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=pytest.mark.benchmark(group=case.name)) for case in CASES]
)
def test_case(case, side, benchmark):
    if benchmark.disabled and case.heavy:
        pytest.skip("the reference takes too long where nothing is timed")
    benchmark(compared(case)[side])

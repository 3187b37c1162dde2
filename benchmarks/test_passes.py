"""The table of where the time of a step goes."""

import pytest


def test_the_bytes_of_a_step():
    from comparison import passes

    _, rows = passes.measure(batch=2, steps=1)
    assert rows[-1]["moved"] / 2 == pytest.approx(1645.3e6 / 128, rel=1e-4)  # as docs/step.md has them
    assert rows[-1]["least"] / 2 == pytest.approx(1142.0e6 / 128, rel=1e-4)

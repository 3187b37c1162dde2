"""The table of where the time of a step goes."""

import argparse
from pathlib import Path

import pytest


def test_the_bytes_of_a_step(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from comparison import passes
    from comparison.report import Report

    monkeypatch.setattr(passes, "BATCH", 2)
    monkeypatch.setattr(passes, "STEPS", 1)
    report = Report("passes", {})
    passes.run(argparse.Namespace(), report)
    (table,) = report.tables.values()
    assert table.rows[-1]["moved"] / 2 == pytest.approx(1645.3e6 / 128, rel=1e-4)  # as docs/step.md tells
    assert table.rows[-1]["least"] / 2 == pytest.approx(1142.0e6 / 128, rel=1e-4)

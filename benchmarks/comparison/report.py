"""Tables that are printed row by row, and saved as JSON and as a chart."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

import numpy as np

from fastcnn.benchmark.cases import ComparisonError
from fastcnn.benchmark.report import duration, machine_state, processor
from fastcnn.benchmark.worker import WorkerError


class Column(NamedTuple):
    """One column of a printed table: the row's key, heading, width, and how a value becomes text."""

    key: str
    heading: str
    width: int
    text: Callable[[Any], str] = str


def factor(value: float) -> str:
    return f"{value:.2f}"


def percent(value: float) -> str:
    return f"{value:.0%}"


def small(value: float) -> str:
    return f"{value:.1e}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.1f}"


def interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:.3f} to {high:.3f}"


def cores(found: Mapping[str, float]) -> str:
    """The cores that each side's threads had."""
    return " ".join(f"{value:.1f}" for value in found.values())


def times(value: float) -> str:
    """How many times as much."""
    return f"{value:.1f}"


NAME = Column("name", "", 0)
# The machine's state beside a row.
STATE = (
    Column("rounds", "rounds", 6),
    Column("cores", "cores", 9, cores),
    Column("pair", "pair", 4, times),
    Column("load", "load", 5, times),
)
# What a row of a comparison with PyTorch has.
COMPARED = (
    Column("precision", "precision", 9),
    Column("torch", "torch", 9, duration),
    Column("fastcnn", "fastcnn", 9, duration),
    Column("ratio", "ratio", 6, factor),
    Column("interval", "95% interval", 14, interval),
    *STATE,
    Column("best", "torch's fastest setting", -36),
)


class Table:
    """Rows of one kind."""

    def __init__(self, title: str, columns: Sequence[Column], names: Sequence[str]) -> None:
        width = max(map(len, names))
        self.columns = [c._replace(width=-width) if c is NAME else c for c in columns]
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        print(f"\n{title}\n" + self._line([c.heading for c in self.columns]), flush=True)

    def add(self, **row: Any) -> None:
        """Print a row, and keep it."""
        self.rows.append(row)
        values = ((c, row.get(c.key)) for c in self.columns)
        print(self._line(["-" if value is None else c.text(value) for c, value in values]), flush=True)

    @contextmanager
    def row(self, name: str, **fixed: Any) -> Iterator[Callable[..., None]]:
        """Yield what adds the row; one whose sides differ, or whose process died, is printed and kept as failed."""
        try:
            yield lambda **row: self.add(name=name, **fixed, **row)
        except (ComparisonError, WorkerError) as error:
            self.failed.append({"name": name, **fixed, "error": str(error)})
            print(f"{name}: FAILED: {error}", flush=True)

    def _line(self, texts: Sequence[str]) -> str:
        # A negative width is that of a text, which stands on the left.
        return "  ".join(
            t.ljust(-c.width) if c.width < 0 else t.rjust(c.width) for c, t in zip(self.columns, texts, strict=True)
        )

    def sum_up(self, key: str = "ratio") -> None:
        """Print the geometric mean and both ends of a column."""
        values = {row["name"]: row[key] for row in self.rows if row.get(key) is not None}
        if values:
            ratios = [row[key] for row in self.rows if row.get(key) is not None]
            least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
            mean = np.exp(np.mean(np.log(ratios)))
            ends = f"least: {values[least]:.2f} ({least}); largest: {values[most]:.2f} ({most})"
            print(f"geometric mean of {len(ratios)} ratios: {mean:.3f}; {ends}")


class Report:
    """Everything that one run prints and saves."""

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        self.command = command
        self.header: dict[str, str] = {}
        self.tables: dict[str, Table] = {}
        self.add_header("command", shlex.join([f"{command}.py", *arguments]))
        self.add_header("processor", processor())
        self.add_header("load average", machine_state())

    def add_header(self, name: str, value: str) -> None:
        """Print, and keep, something that the figures depend on."""
        self.header[name] = value
        print(f"{name:34}  {value}")

    def table(self, title: str, columns: Sequence[Column], names: Sequence[str]) -> Table:
        """Begin a table whose rows will have the given names."""
        self.tables[title] = Table(title, columns, names)
        return self.tables[title]

    def status(self) -> int:
        """Print how many rows failed; return the command's exit status."""
        count = sum(len(table.failed) for table in self.tables.values())
        if count:
            print(f"{count} row{'s' * (count > 1)} FAILED", file=sys.stderr)
        return 1 if count else 0

    def save_json(self, file: TextIO) -> None:
        tables = {title: {"rows": table.rows, "failed": table.failed} for title, table in self.tables.items()}
        json.dump({"command": self.command, "header": self.header, "tables": tables}, file, indent=1)

    def save_chart(self, path: str) -> None:
        """Draw the ratios of all rows as bars."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = [row for table in self.tables.values() for row in table.rows if row.get("ratio") is not None]
        names = [row["name"] for row in rows]
        ratios = [row["ratio"] for row in rows]
        figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.22 * len(rows)), layout="constrained")
        bars = axes.barh(range(len(rows)), ratios, color=["tab:blue" if r >= 1 else "tab:red" for r in ratios])
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.1, y=0.01)
        axes.set_xlabel("PyTorch's time / fastcnn's")
        axes.set_title(f"{self.command}: {self.header['processor']}", fontsize=9)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)

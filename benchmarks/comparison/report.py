"""Tables that are printed row by row, and saved as JSON and as a chart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastcnn.benchmark import Timing, duration


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


NAME = Column("name", "", 0)
TIMES = (
    Column("contiguous", "torch", 9, duration),
    Column("channels-last", "torch CL", 9, duration),
)
OURS = (
    Column("fastcnn", "fastcnn", 9, duration),
    Column("ratio", "ratio", 6, factor),
    Column("spread", "+-", 5, percent),
)


class Table:
    """Rows of one kind."""

    def __init__(self, title: str, columns: Sequence[Column], names: Sequence[str]) -> None:
        width = max(map(len, names))
        self.columns = [c._replace(width=-width) if c is NAME else c for c in columns]
        self.rows: list[dict[str, Any]] = []
        print(f"\n{title}\n" + self._line([c.heading for c in self.columns]), flush=True)

    def add(self, **row: Any) -> None:
        """Print a row, and keep it."""
        self.rows.append(row)
        values = ((c, row.get(c.key)) for c in self.columns)
        print(self._line(["-" if value is None else c.text(value) for c, value in values]), flush=True)

    def _line(self, texts: Sequence[str]) -> str:
        # A negative width is that of a text, which stands on the left.
        return "  ".join(
            t.ljust(-c.width) if c.width < 0 else t.rjust(c.width) for c, t in zip(self.columns, texts, strict=True)
        )

    def sum_up(self, key: str = "ratio") -> None:
        """Print the geometric mean and the least of a column."""
        values = {row["name"]: row[key] for row in self.rows if row.get(key) is not None}
        if values:
            least = min(values, key=values.__getitem__)
            mean = np.exp(np.mean(np.log(list(values.values()))))
            print(f"geometric mean of {len(values)} ratios: {mean:.2f}; least: {values[least]:.2f} ({least})")


class Report:
    """Everything that one run prints and saves."""

    def __init__(self, command: str, header: dict[str, str]) -> None:
        self.command = command
        self.header: dict[str, str] = {}
        self.tables: dict[str, Table] = {}
        for name, value in header.items():
            self.add_header(name, value)

    def add_header(self, name: str, value: str) -> None:
        """Print, and keep, something that the figures depend on."""
        self.header[name] = value
        print(f"{name:26}  {value}")

    def table(self, title: str, columns: Sequence[Column], names: Sequence[str]) -> Table:
        """Begin a table whose rows will have the given names."""
        self.tables[title] = Table(title, columns, names)
        return self.tables[title]

    def save_json(self, path: str) -> None:
        tables = {title: table.rows for title, table in self.tables.items()}
        with open(path, "w", encoding="utf-8") as file:
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
        axes.set_title(
            f"{self.command}: {self.header['processor']}, {self.header['threads']} threads, "
            f"{self.header['instruction set']}",
            fontsize=9,
        )
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def timing_row(timing: Timing, peers: Sequence[str]) -> dict[str, Any]:
    """The figures of one timing: medians, and the ratio of the fastest of `peers` to fastcnn with its spread."""
    row: dict[str, Any] = {side: timing.median(side) for side in timing.seconds}
    row["rounds"] = timing.rounds
    if peers:
        best = timing.fastest(peers)
        low, ratio, high = timing.ratios(best, "fastcnn")
        row |= {"best": best, "ratio": ratio, "spread": (high - low) / 2 / ratio}
    return row

"""What a training run has measured: running sums of an epoch, the table of all epochs, and where the run stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.training._extras import require

# column: (heading, format); other columns, as a callback may add, are printed with four digits
_COLUMNS = {
    "epoch": ("epoch", "{:d}".format),
    "loss": ("loss", "{:.4f}".format),
    "accuracy": ("accuracy", "{:.2%}".format),
    "val_loss": ("val loss", "{:.4f}".format),
    "val_accuracy": ("val accuracy", "{:.2%}".format),
    "lr": ("lr", "{:.3g}".format),
    "images_per_second": ("images/s", "{:,.0f}".format),
    "seconds": ("seconds", "{:.1f}".format),
}


@dataclass
class Meter:
    """Running loss and accuracy over batches.

    Attributes
    ----------
    images : int
        Images seen.
    loss_sum : float
        Sum of the batches' losses, each times its number of images.
    counted, correct : int
        Targets that are class numbers, and how many of them the largest output names.

    Examples
    --------
    >>> meter = Meter()
    >>> meter.add(0.5, np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
    >>> meter.result()
    {'loss': 0.5, 'accuracy': 0.5}
    """

    images: int = 0
    loss_sum: float = 0.0
    counted: int = 0
    correct: int = 0

    def add(self, loss: float, output: np.ndarray, targets: np.ndarray, ignore_index: int = -100) -> None:
        """Count one batch.

        Parameters
        ----------
        loss : float
            Mean loss of the batch.
        output : ndarray, shape (N, C, ...)
            What the model returned; the class is the index of the largest value along axis 1.
        targets : ndarray
            Class numbers, shape (N, ...), or targets of another kind, for which there is no accuracy.
        ignore_index : int
            Class number that is not counted.
        """
        self.images += len(targets)
        self.loss_sum += loss * len(targets)
        if targets.dtype.kind in "iu" and targets.ndim == output.ndim - 1 and output.size:
            counted = targets != ignore_index
            self.counted += int(np.count_nonzero(counted))
            self.correct += int(np.count_nonzero((output.argmax(axis=1) == targets) & counted))

    def result(self) -> dict[str, float]:
        """Return the mean ``loss`` and, where targets were class numbers, the ``accuracy`` between 0 and 1."""
        result = {"loss": self.loss_sum / self.images if self.images else float("nan")}
        if self.counted:
            result["accuracy"] = self.correct / self.counted
        return result


class History:
    """One row an epoch: ``epoch`` (from 1), ``loss``, ``accuracy``, ``val_loss``, ``val_accuracy``, ``lr``,
    ``images_per_second``, ``seconds``.

    ``history["loss"]`` is a column, iterating gives the rows as dictionaries, ``len`` is the number of epochs, ``str``
    the table.

    Attributes
    ----------
    rows : list of dict
        The epochs that were finished.
    interrupted : bool
        True where Ctrl-C ended the run.
    stopped : str or None
        Why the run ended before its last epoch, in words; None where it did not.

    Examples
    --------
    >>> history = History([{"epoch": 1, "loss": 0.5, "accuracy": 0.875}, {"epoch": 2, "loss": 0.25, "accuracy": 1.0}])
    >>> history["loss"]
    [0.5, 0.25]
    >>> print(history)
    epoch    loss  accuracy
        1  0.5000    87.50%
        2  0.2500   100.00%
    """

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = rows if rows is not None else []
        self.interrupted = False
        self.stopped: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order they are printed."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in _COLUMNS if name in names] + [name for name in names if name not in _COLUMNS]

    def __getitem__(self, column: str) -> list[float]:
        """Return a column, one value for each epoch that has one."""
        if column not in self.columns:
            known = ", ".join(self.columns) or "none before the first epoch is finished"
            check.fail("column", f"one of {known}", repr(column), KeyError)
        return [row[column] for row in self.rows if column in row]

    def __str__(self) -> str:
        columns = [(name, *_COLUMNS.get(name, (name, "{:.4g}".format))) for name in self.columns]
        lines = [[heading for _, heading, _ in columns]]
        lines += [[show(row[name]) if name in row else "" for name, _, show in columns] for row in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        if not self.rows:
            text = ["no epoch is finished"]
        if self.stopped:
            text.append(self.stopped)
        return "\n".join(text)

    def __repr__(self) -> str:
        return f"<History of {len(self)} epochs: {', '.join(self.columns)}>"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw loss and accuracy over the epochs into an image file.

        Parameters
        ----------
        path : str or path
            File to write; the ending names the format, as ``curve.png``.

        Raises
        ------
        ModuleNotFoundError
            matplotlib is not installed.
        ValueError
            No epoch is finished.
        """
        figure_module = require("matplotlib.figure", "drawing the curve")
        if not self.rows:
            check.fail("history", "at least one finished epoch to draw", "none")
        panels = [what for what in ("loss", "accuracy") if what in self.columns]
        figure = figure_module.Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
        for axes, what in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for name, label in ((what, "training"), (f"val_{what}", "validation")):
                points = [(row["epoch"], row[name]) for row in self.rows if name in row]
                if points:
                    axes.plot(*zip(*points, strict=True), marker=".", label=label)
            axes.set(xlabel="epoch", ylabel=what)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(path)


@dataclass
class TrainingState:
    """Where a run stands, beyond what model, optimizer and schedule hold themselves.

    Attributes
    ----------
    epoch, batch, step : int
        Epochs finished, batches finished in the epoch under way, updates made since the start.
    meter : Meter
        Running sums of the epoch under way.
    seconds : float
        Training time of the epoch under way.
    history : History
        The epochs finished.
    settings : dict
        What decides the run's batches and updates, and so must be the same when it is resumed.
    stop : str or None
        A callback that wants the run to end says here why.
    interrupted : bool
        Whether Ctrl-C wants the run to end.

    Examples
    --------
    >>> state = TrainingState(epoch=2, batch=7, settings={"seed": 0})
    >>> TrainingState(settings={"seed": 1}).load_state_dict(state.state_dict())
    Traceback (most recent call last):
        ...
    ValueError: seed: expected 0, as the run was started with, got 1
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    seconds: float = 0.0
    history: History = field(default_factory=History)
    settings: dict[str, Any] = field(default_factory=dict)
    stop: str | None = None
    interrupted: bool = False

    @property
    def ending(self) -> bool:
        """Whether the run is to end now."""
        return self.interrupted or self.stop is not None

    def finish_epoch(self, row: dict[str, float]) -> None:
        """Enter an epoch's results and begin the next one."""
        self.history.rows.append(row)
        self.epoch, self.batch, self.seconds, self.meter = self.epoch + 1, 0, 0.0, Meter()

    def interrupt(self) -> None:
        """Ask for the run to end after the update under way."""
        self.interrupted = True

    def __str__(self) -> str:
        """Tell the place in words."""
        return f"in epoch {self.epoch + 1}, after {self.batch} batches" if self.batch else f"after epoch {self.epoch}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as plain numbers, lists and dictionaries."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "meter": asdict(self.meter),
            "seconds": self.seconds,
            "history": [dict(row) for row in self.history.rows],
            "settings": dict(self.settings),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        TypeError, ValueError
            The settings are others than this object's, or an entry is not of its kind. Nothing is then changed.
        """
        for name in {**state["settings"], **self.settings}:
            saved, own = state["settings"].get(name), self.settings.get(name)
            if saved != own:
                check.fail(name, f"{saved!r}, as the run was started with", repr(own))
        meter, history = Meter(**state["meter"]), History([dict(row) for row in state["history"]])
        counts = [check.integer(name, state[name], 0) for name in ("epoch", "batch", "step")]
        seconds = number("seconds", state["seconds"], 0)
        for name in ("images", "counted", "correct"):
            check.integer(name, getattr(meter, name), 0)
        for name, value in [("loss_sum", meter.loss_sum), *(item for row in history for item in row.items())]:
            if isinstance(value, bool) or not isinstance(value, Real):
                check.fail(name, "a number", repr(value), TypeError)
        for i, row in enumerate(history):
            check.integer("epoch", row.get("epoch", i + 1), 1)  # printed as one
        self.epoch, self.batch, self.step = counts
        self.seconds, self.meter, self.history = seconds, meter, history

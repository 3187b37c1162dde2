"""Progress of a run on standard error: a tqdm bar an epoch, or one plain line an epoch where tqdm is not installed."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from fastcnn.training._extras import require
from fastcnn.training.callbacks import Callback
from fastcnn.training.history import TrainingState

if TYPE_CHECKING:
    from fastcnn.training.trainer import Trainer


class Progress(Callback):
    """Show loss, accuracy, images per second and the time that is left.

    Parameters
    ----------
    epochs : int
        Epochs of the whole run.
    batches : int
        Batches of an epoch.
    """

    def __init__(self, epochs: int, batches: int) -> None:
        self.epochs, self.batches = epochs, batches
        self.bar = None

    def on_fit_start(self, trainer: Trainer, state: TrainingState) -> None:
        self._started, self._start_step = time.perf_counter(), state.step
        self._interval = 0.1 if sys.stderr.isatty() else 10  # seconds
        try:
            self._tqdm = require("tqdm", "the progress bar").tqdm
        except ModuleNotFoundError as error:
            self._tqdm = None
            print(error, file=sys.stderr)

    def on_epoch_start(self, trainer: Trainer, state: TrainingState) -> None:
        if self._tqdm is not None:
            columns, rows = _terminal_size()
            self.bar = self._tqdm(
                total=self.batches,
                initial=state.batch,
                desc=f"epoch {state.epoch + 1:>{len(str(self.epochs))}}/{self.epochs}",
                bar_format="{desc} |{bar:10}| {percentage:3.0f}%{postfix}",
                ncols=columns,
                nrows=rows,
                file=sys.stderr,
            )
            self._shown = time.perf_counter()

    def on_step_end(self, trainer: Trainer, state: TrainingState, loss: float) -> None:
        if self.bar is not None and time.perf_counter() - self._shown >= self._interval:
            text = self._text(state.meter.result(), state.meter.images / state.seconds, state)
            self.bar.n = state.batch
            self.bar.set_postfix_str(text)
            self._shown = time.perf_counter()

    def on_epoch_end(self, trainer: Trainer, state: TrainingState) -> None:
        row = state.history.rows[-1]
        text = self._text(row, row["images_per_second"], state)
        if self.bar is None:
            print(f"epoch {state.epoch}/{self.epochs}: {text}", file=sys.stderr, flush=True)
        else:
            self.bar.n = self.batches
            self.bar.set_postfix_str(text, refresh=False)
        self.close()

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _text(self, result: dict[str, float], images_per_second: float, state: TrainingState) -> str:
        parts = [f"loss {result['loss']:.4f}"]
        if "accuracy" in result:
            parts.append(f"accuracy {result['accuracy']:.2%}")
        if "val_loss" in result:
            parts.append(f"val loss {result['val_loss']:.4f}")
        if "val_accuracy" in result:
            parts.append(f"val accuracy {result['val_accuracy']:.2%}")
        parts.append(f"{images_per_second:,.0f} images/s")
        done, left = state.step - self._start_step, self.epochs * self.batches - state.step
        seconds = round((time.perf_counter() - self._started) / max(done, 1) * left)
        parts.append(f"{timedelta(seconds=seconds)} left")
        return ", ".join(parts)


def _terminal_size() -> tuple[int, int]:
    """Return columns and rows of standard error; some pseudo-terminals say 0 by 0, in which tqdm shows nothing."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        columns = rows = 0
    return columns or 130, rows or 24

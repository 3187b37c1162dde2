"""What can be hooked into `Trainer.fit`: early stopping and saving."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.training import checkpoint as _checkpoint
from fastcnn.training.history import TrainingState

if TYPE_CHECKING:
    from fastcnn.training.trainer import Trainer


class Callback:
    """Base class: override the moments that matter. Each gets the trainer and the run's `TrainingState`.

    A callback ends the run by setting ``state.stop`` to the reason, in words. Whatever must survive a stop and a
    resume goes through `state_dict` and `load_state_dict`: numbers, strings, arrays, lists and dictionaries of them.

    Examples
    --------
    >>> class StopAt(Callback):
    ...     def __init__(self, accuracy):
    ...         self.accuracy = accuracy
    ...     def on_epoch_end(self, trainer, state):
    ...         if state.history.rows[-1]["accuracy"] >= self.accuracy:
    ...             state.stop = f"reached {self.accuracy:.0%} training accuracy"
    """

    def on_fit_start(self, trainer: Trainer, state: TrainingState) -> None:
        """Run before the first batch, after a checkpoint (if any) is loaded."""

    def on_epoch_start(self, trainer: Trainer, state: TrainingState) -> None:
        """Run before the first batch of an epoch, or (after a resume) before the first that is left of it."""

    def on_step_end(self, trainer: Trainer, state: TrainingState, loss: float) -> None:
        """Run after each update; `loss` is the batch's."""

    def on_epoch_end(self, trainer: Trainer, state: TrainingState) -> None:
        """Run after validation; the epoch's results are ``state.history.rows[-1]``."""

    def on_fit_end(self, trainer: Trainer, state: TrainingState) -> None:
        """Run at the end, also of an interrupted run (``state.history.interrupted``), but not after an error.

        Callbacks are called in reverse order here, so that a run is saved before another callback changes its model.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive; an empty dictionary means nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""


class _Best:
    """Tells whether a column of the history has just reached a new best value."""

    def __init__(self, monitor: str, mode: str | None, min_delta: float = 0.0) -> None:
        if mode is None:
            mode = "max" if "accuracy" in monitor else "min"
        if mode not in ("min", "max"):
            check.fail("mode", "'min', 'max' or None", repr(mode))
        if not min_delta >= 0:
            check.fail("min_delta", "a number of at least 0", repr(min_delta))
        self.monitor, self.sign, self.min_delta = monitor, 1 if mode == "max" else -1, min_delta
        self.value: float | None = None

    def update(self, state: TrainingState) -> bool:
        row = state.history.rows[-1]
        if self.monitor not in row:
            check.fail("monitor", f"one of {', '.join(row)}", repr(self.monitor))
        value = row[self.monitor]
        if self.value is not None and not self.sign * (value - self.value) > self.min_delta:
            return False
        self.value = value
        return True

    def load(self, value: object) -> None:
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            check.fail("best", "a number or None", repr(value), TypeError)
        self.value = value


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


class EarlyStopping(Callback):
    """Stop when a measure has not become better for a number of epochs.

    Parameters
    ----------
    monitor : str
        Column of the history to watch.
    patience : int
        Epochs without a better value after which the run stops.
    mode : {'min', 'max'}, optional
        Whether small or large is good; by default large for accuracies, else small.
    restore_best : bool
        Whether the model gets the weights of its best epoch back at the end of the run. An interrupted run keeps its
        last ones, as it may go on.
    min_delta : float
        By how much a value must be better to count.

    Examples
    --------
    >>> EarlyStopping("val_accuracy", patience=3).patience
    3
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        mode: str | None = None,
        restore_best: bool = True,
        *,
        min_delta: float = 0.0,
    ) -> None:
        self.best = _Best(monitor, mode, min_delta)
        self.patience, self.restore_best = check.integer("patience", patience, 1), restore_best
        self.best_epoch = self.waited = 0
        self._weights: dict[str, Any] | None = None

    def _check(self, state: TrainingState) -> None:
        if self.waited >= self.patience:
            state.stop = f"stopped early: no better {self.best.monitor} since epoch {self.best_epoch}"

    def on_fit_start(self, trainer: Trainer, state: TrainingState) -> None:
        if state.step == 0:
            self.best.value, self.best_epoch, self.waited, self._weights = None, 0, 0, None
        self._check(state)

    def on_epoch_end(self, trainer: Trainer, state: TrainingState) -> None:
        if self.best.update(state):
            self.best_epoch, self.waited = state.epoch, 0
            if self.restore_best:
                self._weights = trainer.model.state_dict()
        else:
            self.waited += 1
        self._check(state)

    def on_fit_end(self, trainer: Trainer, state: TrainingState) -> None:
        if self._weights is not None and not state.history.interrupted:
            trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best.value,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "weights": copy.copy(self._weights),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        counts = [check.integer(name, state[name], 0) for name in ("best_epoch", "waited")]
        weights = state["weights"]
        if weights is not None and not (isinstance(weights, dict) and all(map(_is_array, weights.values()))):
            check.fail("weights", "arrays by their names, or None", repr(weights), TypeError)
        self.best.load(state["best"])
        self.best_epoch, self.waited = counts
        self._weights = weights


class Checkpoint(Callback):
    """Save the run to a file from which ``Trainer.fit(..., resume=path)`` goes on exactly.

    Checkpoints are called after all other callbacks, so that what they save is complete. An interrupted or stopped
    run is saved where it stands, except by a checkpoint that keeps the best epoch alone.

    Parameters
    ----------
    path : str or path
        The file.
    every_epochs : int, optional
        Save after every so many epochs; None for never.
    every_steps : int, optional
        Save after every so many updates as well.
    monitor : str, optional
        Save only after an epoch in which this column of the history reached a new best value.
    mode : {'min', 'max'}, optional
        Which is better; by default large for accuracies, else small.
    extra : mapping, optional
        Anything else worth keeping in the file that JSON can hold.

    Examples
    --------
    >>> Checkpoint("best.safetensors", monitor="val_accuracy").path
    'best.safetensors'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        monitor: str | None = None,
        mode: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("every_epochs", every_epochs), ("every_steps", every_steps)):
            if value is not None:
                check.integer(name, value, 1)
        if monitor is not None and every_steps is not None:
            check.fail("every_steps", "None together with monitor, which is known once an epoch", every_steps)
        self.path, self.every_epochs, self.every_steps, self.extra = path, every_epochs, every_steps, extra
        self.best = _Best(monitor, mode) if monitor is not None else None
        self._saved_step: int | None = None

    def _save(self, trainer: Trainer, state: TrainingState) -> None:
        _checkpoint.save_checkpoint(self.path, trainer, state, trainer.callbacks, self.extra)
        self._saved_step = state.step

    def on_fit_start(self, trainer: Trainer, state: TrainingState) -> None:
        self._saved_step = state.step
        if self.best is not None and state.step == 0:
            self.best.value = None

    def on_step_end(self, trainer: Trainer, state: TrainingState, loss: float) -> None:
        if self.every_steps is not None and state.step % self.every_steps == 0:
            self._save(trainer, state)

    def on_epoch_end(self, trainer: Trainer, state: TrainingState) -> None:
        if self.best is not None:
            if self.best.update(state):
                self._save(trainer, state)
        elif self.every_epochs is not None and state.epoch % self.every_epochs == 0:
            self._save(trainer, state)

    def on_fit_end(self, trainer: Trainer, state: TrainingState) -> None:
        if self.best is None and state.step != self._saved_step:
            self._save(trainer, state)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.best is None else {"best": self.best.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.best is not None:
            self.best.load(state["best"])

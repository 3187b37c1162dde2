"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from fastcnn import nn
from fastcnn.functional import _checks as check
from fastcnn.functional.norm import VarianceOverflowError
from fastcnn.nn import Module, Preprocessing
from fastcnn.nn.module import inference, structure
from fastcnn.optim import Optimizer, Schedule
from fastcnn.training.callbacks import Callback, Checkpoint
from fastcnn.training.checkpoint import load_checkpoint
from fastcnn.training.datasets import ImageDataset
from fastcnn.training.diagnosis import NonFiniteLossError, Snapshot, explain
from fastcnn.training.generators import Generators
from fastcnn.training.history import History, Meter, TrainingState
from fastcnn.training.interrupt import deferred_interrupt
from fastcnn.training.loader import DataLoader
from fastcnn.training.progress import Progress

Batches = Iterable[tuple[np.ndarray, np.ndarray]]


class BatchSource(Protocol):
    """What `Trainer.fit` reads from: a `DataLoader`, or anything with these two methods.

    If it has an attribute `preprocessing`, an `nn.Preprocessing`, the model that is trained on it keeps that.
    """

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int, start_batch: int = 0) -> Batches:
        """Return the batches of epoch `epoch` from `start_batch` on, always the same for the same two numbers."""


class Trainer:
    """Trains a model: forward, loss, backward, update, and all that goes around them.

    Parameters
    ----------
    model : Module
        The network.
    optimizer : Optimizer
        Built from the model's parameters.
    loss : callable, optional
        ``loss(output, targets)`` returns the value and the gradient of the output; by default
        ``nn.CrossEntropyLoss()``.
    schedule : Schedule, optional
        Changes the optimizer's learning rate.
    schedule_every : {'step', 'epoch'}
        Whether the schedule steps after each update or after each epoch.
    clip_grad_norm : float, optional
        Largest norm of the gradient of all parameters together; a longer one is shortened to it.

    Examples
    --------
    >>> import fastcnn
    >>> from fastcnn import nn, optim
    >>> _ = fastcnn.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> trainer = Trainer(model, optim.Adam(model.parameters(), lr=0.1))
    >>> xor = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([0, 1, 1, 0])
    >>> first = trainer.step(*xor)
    >>> for _ in range(50):
    ...     last = trainer.step(*xor)
    >>> last < first / 10
    True
    >>> trainer.evaluate(xor)["accuracy"]
    1.0
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Any = None,
        *,
        schedule: Schedule | None = None,
        schedule_every: str = "step",
        clip_grad_norm: float | None = None,
    ) -> None:
        if not isinstance(model, Module):
            check.fail("model", "an nn.Module", type(model).__name__, TypeError)
        if not isinstance(optimizer, Optimizer):
            check.fail("optimizer", "an optimizer of fastcnn.optim", type(optimizer).__name__, TypeError)
        if schedule is not None and not isinstance(schedule, Schedule):
            check.fail("schedule", "a schedule of fastcnn.optim or None", repr(schedule), TypeError)
        if schedule_every not in ("step", "epoch"):
            check.fail("schedule_every", "'step' or 'epoch'", repr(schedule_every))
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            check.fail("clip_grad_norm", "a positive number or None", repr(clip_grad_norm))
        self.model, self.optimizer = model, optimizer
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        if getattr(self.loss, "reduction", "mean") == "none":
            check.fail("loss", "one with a single value", "reduction='none'")
        self.schedule, self.schedule_every = schedule, schedule_every
        self.clip_grad_norm = clip_grad_norm
        self.callbacks: list[Callback] = []
        self._structure: object = None

    def step(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Make one update.

        Parameters
        ----------
        inputs : ndarray
            A batch as the model takes it.
        targets : ndarray
            What the loss compares the output with; for cross-entropy class numbers, shape (N,).

        Returns
        -------
        float
            The batch's loss, before the update.

        Raises
        ------
        NonFiniteLossError
            The loss is infinite or NaN; the message names the first layer whose output is not finite. Or the variance
            of a batch norm's input overflows, after which evaluation could only be wrong.

        Notes
        -----
        A step that raises changes nothing: parameters, optimizer, schedule, running statistics and random generators
        are as they were. Gradients are those of the step before, or zero if the error came from the backward pass. (Two
        exceptions: an error of a schedule of one's own, which is asked last, and Ctrl-C in the very moment of the
        update, which `fit` defers.)
        """
        with _training(self.model):
            return self._step(inputs, targets)[0]

    def _step(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        schedule = self.schedule if self.schedule_every == "step" else None
        if schedule is not None:
            schedule.check_step()
        self._look_at_structure()
        with Snapshot(self._foreign, self._generators if self._draws else None) as before:
            try:
                output = self.model(inputs)
            except VarianceOverflowError as error:
                name = next((name for name, layer in self.model.named_modules() if layer is error.layer), "")
                reason = f"{name or 'a batch norm'} ({type(error.layer).__name__}): {error}"
                raise NonFiniteLossError(f"loss: expected a finite value, got none, because of {reason}") from error
            loss, grad = self.loss(output, targets)
            if not math.isfinite(loss):
                reason = explain(self.model, inputs, targets, before)
                raise NonFiniteLossError(f"loss: expected a finite value, got {loss}: {reason}")
            self.optimizer.zero_grad()
            try:
                self.model.backward(grad)
                if self.clip_grad_norm is not None:
                    self.optimizer.clip_grad_norm(self.clip_grad_norm)
                self.optimizer.step()
            except BaseException:
                self.model.zero_grad()
                raise
        if schedule is not None:
            schedule.step()
        return loss, output

    @property
    def generators(self) -> Generators:
        """The random generators that the run draws from."""
        self._look_at_structure()
        return self._generators

    def _look_at_structure(self) -> None:
        """Find what depends on which modules the model has, if any module was assigned since."""
        current = structure()
        if self._structure is current:
            return
        parts: list[Any] = [*self.model.modules(), self.loss]
        self._generators = Generators(self.model)
        self._draws = any(_may_draw(part) for part in parts)
        self._foreign = [part for part in parts if _is_foreign(part) and getattr(part, "buffer_names", ())]
        self._structure = current

    def fit(
        self,
        train: BatchSource,
        epochs: int,
        validation: BatchSource | ImageDataset | tuple[np.ndarray, np.ndarray] | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train for a number of epochs.

        The model keeps the loader's normalisation, input shape and class names as ``model.preprocessing``.

        A first Ctrl-C lets the update under way finish, saves the run where a checkpoint is asked for, and returns
        the history with ``interrupted`` set; a second one is an ordinary ``KeyboardInterrupt``.

        Parameters
        ----------
        train : DataLoader
            The batches to learn from.
        epochs : int
            Epochs of the whole run, those before a resume included.
        validation : DataLoader, ImageDataset or pair of ndarray, optional
            What to evaluate after each epoch; see `evaluate`.
        callbacks : iterable of Callback
            Called in this order, `Checkpoint` last; see `Callback`.
        progress : bool
            Whether to show loss, accuracy, images per second and the time left on standard error.
        checkpoint : str or path, optional
            File to save the run to after each epoch; short for the callback ``Checkpoint(path)``.
        resume : str or path, optional
            Checkpoint to go on from. The run ends with the same bits as one that was never stopped.

        Returns
        -------
        History
            The measures of each epoch.

        Raises
        ------
        NonFiniteLossError
            A loss is infinite or NaN; see `step`.
        CheckpointError
            `resume` is no whole checkpoint, or one of another model or run.
        OSError
            `resume` cannot be read, or a checkpoint not written.
        ModuleNotFoundError
            Checkpoints are asked for and safetensors is not installed.

        Examples
        --------
        >>> import fastcnn
        >>> from fastcnn import models, optim
        >>> _ = fastcnn.manual_seed(0)
        >>> train = fastcnn.DataLoader(fastcnn.load_dataset("digits"), 64, shuffle=True)
        >>> test = fastcnn.DataLoader(fastcnn.load_dataset("digits", "test"), 64)
        >>> model = models.digits_cnn()
        >>> trainer = Trainer(model, optim.Adam(model.parameters(), lr=0.01))
        >>> history = trainer.fit(train, 2, validation=test, progress=False)
        >>> history["val_accuracy"][-1] > 0.9
        True
        """
        epochs = check.integer("epochs", epochs, 0)
        if len(train) == 0:
            check.fail("train", "at least one batch", "none")
        state = TrainingState(settings=self._settings(train))
        extra = [] if checkpoint is None else [Checkpoint(checkpoint)]
        self.callbacks = sorted([*callbacks, *extra], key=lambda callback: isinstance(callback, Checkpoint))
        if resume is not None:
            load_checkpoint(resume, self, state, self.callbacks)
        if progress:
            self.callbacks.insert(0, Progress(epochs, len(train)))
        known, steps = self.model.preprocessing, state.step
        given = getattr(train, "preprocessing", None)
        if isinstance(given, Preprocessing) and (known is None or isinstance(known, Preprocessing)):
            self.model.preprocessing = given
        try:
            if isinstance(validation, ImageDataset | tuple | list):
                self._batches(validation)  # which checks it before there is anything to lose
            return self._run(train, epochs, validation, progress, state)
        except BaseException:
            if state.step == steps:  # nothing was learnt from these inputs
                self.model.preprocessing = known
            raise

    def _run(self, train: BatchSource, epochs: int, validation: Any, progress: bool, state: TrainingState) -> History:
        """Run the epochs that are left."""
        with _training(self.model), deferred_interrupt(state.interrupt), contextlib.ExitStack() as stack:
            if progress:
                stack.callback(self.callbacks[0].close)
            for callback in self.callbacks:
                callback.on_fit_start(self, state)
            while state.epoch < epochs and not state.ending:
                self._epoch(train, validation, state)
            state.history.interrupted = state.interrupted and state.epoch < epochs
            state.history.stopped = f"interrupted {state}" if state.history.interrupted else state.stop
            for callback in reversed(self.callbacks):
                callback.on_fit_end(self, state)
        return state.history

    def _epoch(self, train: BatchSource, validation: Any, state: TrainingState) -> None:
        """Run what is left of an epoch; return early where the run is to stop."""
        for callback in self.callbacks:
            callback.on_epoch_start(self, state)
        started = time.perf_counter() - state.seconds
        ignore_index = getattr(self.loss, "ignore_index", -100)
        for inputs, targets in train.epoch(state.epoch, state.batch):
            loss, output = self._step(inputs, targets)
            state.meter.add(loss, output, targets, ignore_index)
            state.batch, state.step, state.seconds = state.batch + 1, state.step + 1, time.perf_counter() - started
            for callback in self.callbacks:
                callback.on_step_end(self, state, loss)
            if state.ending:
                return
        row = {"epoch": state.epoch + 1, **state.meter.result()}
        if validation is not None:
            for name, value in self._evaluate(validation, state).items():
                row[f"val_{name}"] = value
            if state.ending:
                return
        row["lr"] = self.optimizer.lr
        row["images_per_second"] = state.meter.images / state.seconds
        row["seconds"] = state.seconds
        if self.schedule is not None and self.schedule_every == "epoch":
            self.schedule.step()
        state.finish_epoch(row)
        for callback in self.callbacks:
            callback.on_epoch_end(self, state)

    def evaluate(self, data: BatchSource | ImageDataset | tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        """Return mean loss and accuracy in evaluation mode; nothing of the model changes, its mode included.

        Parameters
        ----------
        data : DataLoader, ImageDataset or pair of ndarray
            A loader, of which one epoch is read as it comes; a data set, or raw inputs and targets, which are
            normalised as the training inputs were (see `predict`).

        Returns
        -------
        dict
            ``loss`` and, where the targets are class numbers, ``accuracy`` between 0 and 1.

        Warns
        -----
        UserWarning
            If a loader normalises bytes by other constants than the loader that the model was trained on.

        Examples
        --------
        >>> from fastcnn import nn, optim
        >>> layer = nn.Linear(1, 2)
        >>> layer.load_state_dict({"weight": [[1.0], [-1.0]], "bias": [0.0, 0.0]})
        ([], [])
        >>> trainer = Trainer(layer, optim.SGD(layer.parameters(), lr=0.1))
        >>> trainer.evaluate((np.array([[2.0], [-2.0], [1.0]], np.float32), np.array([0, 1, 1])))["accuracy"]
        0.6666666666666666
        """
        return self._evaluate(data, TrainingState())

    def _evaluate(self, data: Any, state: TrainingState) -> dict[str, float]:
        meter = Meter()
        ignore_index = getattr(self.loss, "ignore_index", -100)
        with inference():
            for inputs, targets in self._batches(data):
                output = self._forward(inputs)
                meter.add(self.loss(output, targets)[0], output, targets, ignore_index)
                if state.ending:
                    break
        return meter.result()

    def predict(self, inputs: np.ndarray | ImageDataset | BatchSource, batch_size: int = 256) -> np.ndarray:
        """Return the model's output in evaluation mode; nothing of the model changes, its mode included.

        Several threads may predict at once. While another thread trains the model, predictions are of weights that
        change meanwhile; the training is not disturbed.

        Parameters
        ----------
        inputs : ndarray of shape (N, ...), ImageDataset or DataLoader
            Any number of inputs. An array has what the training loader was given: raw inputs, of the same type (bytes
            or floats), which are normalised by ``model.preprocessing``. A model without it, as it was not trained by
            `fit`, takes arrays as they are. The images of a data set are normalised in the same way; its own mean and
            deviation count only for a model without preprocessing. A `DataLoader` normalises by its own constants;
            all its inputs are predicted, in the order of its data set, without shuffling and augmentation. Of another
            source of batches, epoch 0 is read as it comes.
        batch_size : int
            How many go through the model at once.

        Returns
        -------
        ndarray, shape (N, ...)
            The outputs; for a classifier with cross-entropy loss, the logits, of which the largest names the class.

        Raises
        ------
        TypeError
            If an array has floats and the training inputs were bytes, or the other way round: whether it is scaled or
            normalised already cannot be seen. (For a batch that a loader has normalised, call the model itself.)
        ValueError
            If the shape is none that the model takes.

        Warns
        -----
        UserWarning
            If a loader normalises bytes by other constants than the loader that the model was trained on.

        Examples
        --------
        >>> from fastcnn import nn, optim
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.5))
        >>> Trainer(model, optim.SGD(model.parameters(), lr=0.1)).predict(np.ones((5, 1), np.float32)).shape
        (5, 2)
        """
        batch_size = check.integer("batch_size", batch_size, 1)
        if isinstance(inputs, DataLoader):
            self._compare_normalisation(inputs)
            batches: Any = _pieces(inputs.inputs, batch_size=batch_size, prepare=inputs.preprocessing)
        elif hasattr(inputs, "epoch"):
            batches = inputs.epoch(0)
        else:
            batches = self._normalised(inputs, batch_size)
        with inference():
            return np.concatenate([self._forward(inputs) for inputs, *_ in batches])

    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        """Call the model, and say what training saw if it does not take inputs of another shape."""
        try:
            return self.model(inputs)
        except ValueError as error:
            known = self._preprocessing
            if known is None or inputs.shape[1:] == known.input_shape:
                raise
            raise ValueError(f"inputs: expected {known.expected_shape}, got {inputs.shape}: {error}") from error

    @property
    def _preprocessing(self) -> Preprocessing | None:
        known = self.model.preprocessing
        return known if isinstance(known, Preprocessing) else None

    def _normalised(self, inputs: np.ndarray | ImageDataset, batch_size: int, *targets: np.ndarray) -> Any:
        """Yield batches of raw inputs as the model was trained on them, and of targets."""
        prepare = self._preprocessing
        if isinstance(inputs, ImageDataset):
            if prepare is None:
                prepare = inputs.preprocessing
            elif prepare.input_type == "uint8" and prepare.scale != inputs.scale:
                check.fail("scale", f"a data set of scale {prepare.scale:.6g}, as in training", f"{inputs.scale:.6g}")
            inputs = inputs.images.transpose(0, 3, 1, 2)
        elif isinstance(inputs, tuple | dict | str | None):
            check.fail("inputs", "an array, an ImageDataset or a DataLoader", type(inputs).__name__, TypeError)
        inputs = check.array_like("inputs", inputs) if prepare is None else prepare.raw(inputs)
        return _pieces(inputs, *targets, batch_size=batch_size, prepare=prepare)

    def _batches(self, data: Any) -> Batches:
        """Return the batches of what `evaluate` takes, inputs as the model was trained on them."""
        if isinstance(data, ImageDataset):
            return self._normalised(data, 256, data.labels)
        if isinstance(data, tuple | list) and len(data) == 2:
            return self._normalised(data[0], 256, data[1])
        if not hasattr(data, "epoch"):
            expected = "a DataLoader, an ImageDataset or a pair (inputs, targets)"
            check.fail("data", expected, type(data).__name__, TypeError)
        self._compare_normalisation(data)
        return data.epoch(0)

    def _compare_normalisation(self, loader: Any) -> None:
        """Warn if a loader of bytes makes of them what the model was not trained on."""
        known, given = self._preprocessing, getattr(loader, "preprocessing", None)
        if (
            known is not None
            and isinstance(given, Preprocessing)
            and known.input_type == given.input_type == "uint8"
            and not known.same_normalisation(given)
        ):
            constants = "scale {0.scale:.6g}, mean {0.mean}, std {0.std}"
            warnings.warn(
                f"a loader normalises by {constants.format(given)}, the one of training by {constants.format(known)}",
                stacklevel=_caller_level(),
            )

    def _settings(self, train: BatchSource) -> dict[str, Any]:
        """Return what must be the same when a run is resumed."""
        names = ("seed", "batch_size", "shuffle", "drop_last")
        settings = {name: getattr(train, name) for name in names if hasattr(train, name)}
        return settings | {
            "augment": repr(getattr(train, "augment", None)),
            "batches": len(train),
            "schedule_every": self.schedule_every,
            "clip_grad_norm": self.clip_grad_norm,
        }


def _caller_level() -> int:
    """Return the stack level, for a warning of the function that calls this one, of the caller outside the package."""
    frame, level = sys._getframe(1).f_back, 2
    while frame is not None and frame.f_globals.get("__name__", "").startswith("fastcnn."):
        frame, level = frame.f_back, level + 1
    return level


def _may_draw(part: object) -> bool:
    """Whether a layer or loss may draw random numbers; of the library's own, those do that have an ``rng``.

    One that was given a `forward` of its own may, too.
    """
    return _is_foreign(part) or not {"rng", "forward"}.isdisjoint(getattr(part, "__dict__", ()))


def _is_foreign(part: object) -> bool:
    """Whether a layer or loss is not one of the library's own."""
    return not type(part).__module__.startswith("fastcnn.")


def _pieces(
    *arrays: np.ndarray, batch_size: int = 256, prepare: Preprocessing | None = None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Cut arrays into batches along their first axis, at least one, also of no images, and prepare the first array."""
    for start in range(0, max(len(arrays[0]), 1), batch_size):
        first, *others = (array[start : start + batch_size] for array in arrays)
        yield (first if prepare is None else prepare(first), *others)


class _training:
    """Training mode, without the gradient of the model's input. A layer that was put in evaluation mode stays so.

    NumPy need not warn of overflow: the loss tells. Every step enters it, so it is a class: a generator takes longer.
    """

    __slots__ = ("_errors", "_model", "_modes", "_needed")

    def __init__(self, model: Module) -> None:
        self._model, self._errors = model, np.errstate(over="ignore", invalid="ignore")

    def __enter__(self) -> None:
        model = self._model
        self._needed = model.needs_input_grad
        self._modes = [] if model.training else [(module, module.training) for module in model.modules()]
        model.requires_input_grad(False)  # again, as its first layer may be another by now
        for module, _ in self._modes:
            module.training = True
        self._errors.__enter__()

    def __exit__(self, *error: object) -> None:
        self._errors.__exit__(*error)
        if self._needed:
            self._model.requires_input_grad(True)
        for module, mode in self._modes:
            module.training = mode

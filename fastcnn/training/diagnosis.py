"""Finds out why a loss is not finite."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastcnn.nn import Module, no_grad, watch
from fastcnn.training.generators import Generators


class NonFiniteLossError(FloatingPointError):
    """The loss became infinite or NaN; the message names where that began."""


class Snapshot:
    """What a forward pass changes: buffers, such as running statistics, and random generators if it draws."""

    def __init__(self, buffers: Iterable[np.ndarray], generators: Generators | None) -> None:
        self._buffers = [(array, array.copy()) for array in buffers]
        self._generators = generators
        self._states = {} if generators is None else generators.state_dict()

    def restore(self) -> None:
        """Undo the changes since the snapshot was taken."""
        for array, before in self._buffers:
            np.copyto(array, before)
        if self._generators is not None:
            self._generators.load_state_dict(self._states)


def explain(model: Module, inputs: np.ndarray, targets: np.ndarray, before: Snapshot) -> str:
    """Run a forward pass again, watching each layer, and tell where its values stop being finite.

    Parameters
    ----------
    model : Module
        The model, in the mode that it was in.
    inputs, targets : ndarray
        The batch whose loss was not finite.
    before : Snapshot
        Of the time before that batch. It is restored twice: the second pass draws the same random numbers, and
        neither pass leaves a trace.

    Returns
    -------
    str
        A few words.
    """
    before.restore()
    if not np.isfinite(inputs).all():
        return "the input, before the first layer, is not finite"
    if not np.isfinite(targets).all():
        return "the targets are not finite"
    found: list[str] = []

    def look(name: str, module: Module, output: np.ndarray) -> None:
        if not found and not np.isfinite(output).all():
            bad = [own for own, value in module.named_parameters() if not np.isfinite(value.data).all()]
            cause = f", and already its {' and '.join(bad)}" if bad else ""
            where = f"{name or 'the model'} ({type(module).__name__})"
            found.append(f"the first layer whose output is not finite is {where}{cause}")

    with watch(model, look), no_grad(), np.errstate(all="ignore"):
        model(inputs)
    before.restore()
    return found[0] if found else "the output of every layer is finite, the loss function's is not"

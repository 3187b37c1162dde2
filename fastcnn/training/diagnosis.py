"""Finds out why a loss is not finite."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastcnn.nn import Module, no_grad, watch
from fastcnn.nn.module import _undo, restore
from fastcnn.training.generators import Generators


class NonFiniteLossError(FloatingPointError):
    """The loss became infinite or NaN; the message names where that began."""


class Snapshot:
    """What a step changes before its update, restored if the step fails: buffers, and generators if it draws.

    The library's layers copy their running statistics themselves as they change them (`keep_for_undo`); buffers of
    other modules are copied at the start. It is a context, and one of a class, as a generator takes longer.

    Parameters
    ----------
    modules : iterable of Module
        Those whose buffers are copied.
    generators : Generators or None
        None if the step draws no random numbers.
    """

    __slots__ = ("_buffers", "_generators", "_states", "_token", "_undo")

    def __init__(self, modules: Iterable[Module], generators: Generators | None) -> None:
        self._buffers = [
            (module, name, array, array.copy())
            for module in modules
            for name in module.buffer_names
            if isinstance(array := getattr(module, name, None), np.ndarray)
        ]
        self._generators = generators
        self._states = {} if generators is None else generators.state_dict()
        self._undo: list[tuple[np.ndarray, np.ndarray]] = []

    def __enter__(self) -> Snapshot:
        self._token = _undo.set(self._undo)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        _undo.reset(self._token)
        if kind is not None:
            self.restore()

    def restore(self) -> None:
        """Undo the changes since the snapshot was taken."""
        restore(self._undo)
        for module, name, array, before in self._buffers:
            np.copyto(array, before)
            setattr(module, name, array)  # its forward pass may have assigned another
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
        Of the time before that batch, entered and not yet left. It is restored, so that the second pass draws the
        same random numbers; leaving it restores it again.

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
    return found[0] if found else "the output of every layer is finite, the loss function's is not"

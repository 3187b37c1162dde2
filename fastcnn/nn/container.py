"""Containers: layers one after another, and side by side.

There is no graph: a container runs its layers in order, and backwards in the opposite order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fastcnn import functional as F
from fastcnn.functional import _checks as check
from fastcnn.nn import fusion
from fastcnn.nn.module import Module, is_grad_enabled

__all__ = ["Residual", "Sequential"]


class Sequential(Module):
    """Layers one after another.

    Parameters
    ----------
    *layers : Module, or one mapping of str to Module
        The layers in order. They are named '0', '1', ..., or as the mapping says.

    Raises
    ------
    TypeError
        If something is not a `Module`, or a name is not a string.
    ValueError
        If one layer object is in it twice, at any depth (what it saves for backward could serve only one of the two
        places), or if a name is empty or has a dot.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model(np.ones((5, 4), np.float32)).shape
    (5, 2)
    >>> named = nn.Sequential({"fc": nn.Linear(4, 8), "relu": nn.ReLU()})
    >>> named["fc"].weight.shape, len(named)
    ((8, 4), 2)
    """

    def __init__(self, *layers: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            self._layers = dict(layers[0])
        else:
            self._layers = {str(i): layer for i, layer in enumerate(layers)}
        for name, layer in self._layers.items():
            if not isinstance(name, str):
                raise TypeError(f"layers: expected strings as names, got {name!r}")
            if not name or "." in name:
                raise ValueError(f"layers: expected names that are not empty and have no dot, got {name!r}")
            if not isinstance(layer, Module):
                raise TypeError(f"layers: expected modules, got {layer!r} as {name!r}")
        self._together: dict[bool, Sequence[Module | fusion.Run]] = {}
        _check_distinct(self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from self._layers.items()

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return what the last layer makes of `input`."""
        for run in self._runs(is_grad_enabled()):
            input = run(input)
        return input

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Run the layers' backward in the opposite order; see `Module.backward`."""
        grad: np.ndarray | None = grad_output
        del grad_output  # an array that nobody needs any more should not wait for the end
        for run in reversed(self._runs()):
            grad = run.backward(grad)
        return grad

    def _runs(self, grads: bool = True) -> Sequence[Module | fusion.Run]:
        """The layers, neighbours together that run as one where `grads` may be asked for, or not."""
        if grads not in self._together:
            self._together[grads] = fusion.runs(list(self._layers.values()), grads)
        return self._together[grads]

    def requires_input_grad(self, flag: bool = True) -> Module:
        """Say whether the gradient of the first layer's input is needed; see `Module.requires_input_grad`."""
        for layer in self._layers.values():
            layer.requires_input_grad(flag)
            break
        return super().requires_input_grad(flag)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers.values())

    def __getitem__(self, key: int | str) -> Module:
        return self._layers[key] if isinstance(key, str) else list(self._layers.values())[key]


class Residual(Module):
    """``body(input) + shortcut(input)``, as in residual networks.

    The input has two consumers, so its gradient is the sum of the two that come back.

    Parameters
    ----------
    body : Module
        Its parameters are named ``body.*``.
    shortcut : Module, optional
        Its parameters are named ``shortcut.*``. Without it, the input itself is added.

    Raises
    ------
    TypeError
        If `body` or `shortcut` is not a `Module`.
    ValueError
        If one layer object is in it twice, or (on calling it) if the two outputs differ in shape.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> double = nn.Residual(nn.Identity())
    >>> double(np.array([[1.0, 2.0]]))
    array([[2., 4.]])
    >>> double.backward(np.array([[1.0, 1.0]]))
    array([[2., 2.]])
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        super().__init__()
        for name, value in (("body", body), ("shortcut", shortcut)):
            if not isinstance(value, Module) and not (name == "shortcut" and value is None):
                raise TypeError(f"{name}: expected a module, got {value!r}")
        self.body = body
        self.shortcut = shortcut
        _check_distinct(self)

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the sum of the two branches."""
        output = self.body(input)
        other = self.shortcut_of(input, output.shape)
        return F.add(output, other)

    def shortcut_of(self, input: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
        """Return what is added to the output of `body`, which has the shape `expected`."""
        other = check.array("input", input) if self.shortcut is None else self.shortcut(input)
        if other.shape != expected:
            raise ValueError(f"body: expected an output of the shortcut's shape {other.shape}, got {expected}")
        return other

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Run both branches' backward and add their gradients; see `Module.backward`."""
        grad = self.body.backward(grad_output)
        other = grad_output if self.shortcut is None else self.shortcut.backward(grad_output)
        return F.add(grad, other) if self.needs_input_grad else None

    def requires_input_grad(self, flag: bool = True) -> Module:
        """Say whether the gradient of the input is needed; see `Module.requires_input_grad`."""
        for child in self.children():
            child.requires_input_grad(flag)
        return super().requires_input_grad(flag)


def _check_distinct(container: Module) -> None:
    """Raise ValueError if one module object appears twice inside `container`."""
    seen: dict[int, str] = {}
    for name, module in container.named_modules():
        if id(module) in seen:
            raise ValueError(
                f"layers: expected each layer object once, got the same {type(module).__name__} "
                f"as {seen[id(module)]!r} and {name!r}"
            )
        seen[id(module)] = name

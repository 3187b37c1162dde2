"""Containers: layers one after another, and side by side.

There is no graph: a container runs its layers in order, and backwards in the opposite order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastcnn import functional as F
from fastcnn.functional import _checks as check
from fastcnn.nn import fusion
from fastcnn.nn.module import Module, is_grad_enabled, structure, structure_changed

__all__ = ["Residual", "Sequential"]


class Sequential(Module):
    """Layers one after another.

    Parameters
    ----------
    *layers : Module, or one mapping of str to Module
        The layers in order. They are named '0', '1', ..., or as the mapping says.

    A layer reads as an attribute, too: ``model.fc``. Assigning a module to that name, or to ``model[i]`` or
    ``model["fc"]``, replaces the layer, and ``del`` removes it. A module that is assigned to a new name becomes the
    last layer. As in torch, what was replaced no longer runs, and the optimizer keeps the parameters it was built from.

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
    >>> named.fc = nn.Linear(4, 16)
    >>> named(np.ones((5, 4), np.float32)).shape
    (5, 16)
    """

    def __init__(self, *layers: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            given = dict(layers[0])
        else:
            given = {str(i): layer for i, layer in enumerate(layers)}
        self._together: dict[bool, tuple[object, Sequence[Module | fusion.Run]]] = {}
        self._ran: Sequence[Module | fusion.Run] | None = None
        self._layers: dict[str, Module] = {}
        self._set_layers(given)

    def _set_layers(self, layers: dict[str, Module]) -> None:
        """Check and take over other layers. The dict is a new one, as another thread may iterate over the old one."""
        for name, layer in layers.items():
            if not isinstance(name, str):
                raise TypeError(f"layers: expected strings as names, got {name!r}")
            if not name or "." in name:
                raise ValueError(f"layers: expected names that are not empty and have no dot, got {name!r}")
            if not isinstance(layer, Module):
                raise TypeError(f"layers: expected modules, got {layer!r} as {name!r}")
        _check_distinct(layers)
        first = next(iter(self._layers.values()), None)
        self._layers = layers
        structure_changed()
        if first is not next(iter(layers.values()), None):
            if first is not None:
                first.requires_input_grad(True)
            if not self.needs_input_grad:
                self.requires_input_grad(False)

    def _position(self, key: int | str) -> int:
        """Return the position of a layer, given by position or name."""
        names = list(self._layers)
        if isinstance(key, str):
            if key not in self._layers:
                check.fail("key", f"one of {', '.join(map(repr, names)) or 'no layers'}", repr(key), KeyError)
            return names.index(key)
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)):
            check.fail("index", "an int or a name", repr(key), TypeError)
        if not -len(names) <= key < len(names):
            check.fail("index", f"one of {len(names)} layers", key, IndexError)
        return int(key) % len(names)

    def _set_items(self, items: list[tuple[str | None, Module]]) -> None:
        """Take over layers with their names. None, or a number where all names are, becomes the number in order."""
        numbers = [str(i) for i in range(len(items))]
        if all(name is None or name.isdecimal() for name, _ in items):
            names = numbers
        else:
            taken = {name for name, _ in items if name is not None}
            free = (str(i) for i in itertools.count(len(taken)) if str(i) not in taken)
            names = [next(free) if name is None else name for name, _ in items]
        self._set_layers(dict(zip(names, (layer for _, layer in items), strict=True)))

    def append(self, module: Module) -> Sequential:
        """Add a layer at the end, named by its number; return self."""
        return self.insert(len(self), module)

    def extend(self, modules: Iterable[Module]) -> Sequential:
        """Add layers at the end, named by their numbers; return self."""
        self._set_items([*self._layers.items(), *((None, module) for module in modules)])
        return self

    def insert(self, index: int, module: Module) -> Sequential:
        """Add a layer before the one at `index`; return self. Layers that have numbers as names are renumbered."""
        items: list[tuple[str | None, Module]] = list(self._layers.items())
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or abs(index) > len(items):
            check.fail("index", f"an int from {-len(items)} to {len(items)}", repr(index), IndexError)
        items.insert(index, (None, module))
        self._set_items(items)
        return self

    def pop(self, key: int | str = -1) -> Module:
        """Remove and return a layer, given by position or name. Layers that have numbers as names are renumbered."""
        items: list[tuple[str | None, Module]] = list(self._layers.items())
        _, layer = items.pop(self._position(key))
        self._set_items(items)
        return layer

    def __setitem__(self, key: int | str, module: Module) -> None:
        name = key if isinstance(key, str) else list(self._layers)[self._position(key)]
        self._set_layers({**self._layers, name: module})

    def __delitem__(self, key: int | str | slice) -> None:
        items: list[tuple[str | None, Module]] = list(self._layers.items())
        if isinstance(key, slice):
            del items[key]
        else:
            del items[self._position(key)]
        self._set_items(items)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_layers"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        layers = self.__dict__.get("_layers")
        is_module, is_own = isinstance(value, Module), hasattr(type(self), name)
        if layers is None and is_module:
            raise AttributeError(f"{type(self).__name__}.{name}: call super().__init__() before assigning a module")
        if layers is not None and not is_own and (is_module or name in layers):
            self._set_layers({**layers, name: value})
            self.__dict__.pop(name, None)
        elif is_module and name in layers:
            self[name] = value
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._layers and name not in self.__dict__:
            self._set_layers({other: layer for other, layer in self._layers.items() if other != name})
        else:
            super().__delattr__(name)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from self._layers.items()

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return what the last layer makes of `input`."""
        grads = is_grad_enabled()
        runs = self._runs(grads)
        if grads:
            self.__dict__["_ran"] = runs  # for backward, should a layer be replaced before it
        for run in runs:
            input = run(input)
        return input

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Run the layers' backward in the opposite order; see `Module.backward`."""
        grad: np.ndarray | None = grad_output
        del grad_output  # an array that nobody needs any more should not wait for the end
        for run in reversed(self._runs(True) if self._ran is None else self._ran):
            grad = run.backward(grad)
        return grad

    def _runs(self, grads: bool = True) -> Sequence[Module | fusion.Run]:
        """The layers, neighbours together that run as one where `grads` may be asked for, or not."""
        current = structure()
        found = self._together.get(grads)
        if found is None or found[0] is not current:
            found = self._together[grads] = current, fusion.runs(list(self._layers.values()), grads)
        return found[1]

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

    def __getitem__(self, key: int | str | slice) -> Any:
        """Return a layer, given by position or name, or a `Sequential` of the layers of a slice, which it shares."""
        if isinstance(key, slice):
            return Sequential(dict(list(self._layers.items())[key]))
        return list(self._layers.values())[self._position(key)]


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
        _check_distinct(dict(self.named_children()))

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


def _check_distinct(layers: Mapping[str, Module]) -> None:
    """Raise ValueError if one module object appears twice in `layers`, at any depth."""
    seen: dict[int, str] = {}
    for name, layer in layers.items():
        for inner, module in layer.named_modules(name):
            if id(module) in seen:
                raise ValueError(
                    f"layers: expected each layer object once, got the same {type(module).__name__} "
                    f"as {seen[id(module)]!r} and {inner!r}"
                )
            seen[id(module)] = inner

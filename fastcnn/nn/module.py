"""What every layer is made of: parameters and modules.

There is no graph. A module's `forward` keeps the few arrays that its own `backward` needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastcnn.functional import _checks as check

if TYPE_CHECKING:
    from fastcnn.nn.inspect import Plan, Summary

__all__ = ["Module", "Parameter", "is_grad_enabled", "no_grad"]

P = ParamSpec("P")
R = TypeVar("R")

# False within `no_grad`, None within `inference`.
_grad_enabled: ContextVar[bool | None] = ContextVar("fastcnn_grad_enabled", default=True)
# What the call under way must restore if it fails: (array, its earlier content). None outside of any call.
_undo: ContextVar[list[tuple[np.ndarray, np.ndarray]] | None] = ContextVar("fastcnn_undo", default=None)
_structure = object()
_RUNS = frozenset(("forward", "backward", "__class__"))


def structure() -> object:
    """Return an object that is replaced whenever any module gains, loses or replaces a child or a method.

    What is derived from the children of a module is kept beside this object, and is valid while it is the same one.
    """
    return _structure


def structure_changed() -> None:
    """Invalidate what was derived from the children of modules."""
    global _structure
    _structure = object()


def restore(undo: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Copy earlier contents back, the latest first."""
    for array, before in reversed(undo):
        np.copyto(array, before)


def keep_for_undo(*arrays: np.ndarray) -> None:
    """Copy `arrays`, which the caller is about to change, so that the call or step under way can restore them."""
    undo = _undo.get()
    if undo is not None:
        for array in arrays:
            undo.append((array, array.copy()))


class no_grad:
    """Within this context (or decorated function) a forward pass saves nothing for backward.

    The setting belongs to the current thread (or asynchronous task) alone, and so does each such object. What an
    earlier forward pass saved stays as it was.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> layer = nn.ReLU()
    >>> with nn.no_grad():
    ...     _ = layer(np.ones((1, 2), np.float32))
    >>> layer.backward(np.ones((1, 2), np.float32))
    Traceback (most recent call last):
        ...
    RuntimeError: ReLU.backward: expected a forward pass before it, outside no_grad(), got none since the last backward
    """

    def __init__(self) -> None:
        self._tokens: list[Token[bool | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_grad_enabled.set(None if _grad_enabled.get() is None else False))

    def __exit__(self, *error: object) -> None:
        _grad_enabled.reset(self._tokens.pop())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, to be run within a context of its own each time."""

        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> R:
            with type(self)():
                return function(*args, **kwargs)

        return within


class inference(no_grad):
    """Within this context each module's `training` reads as False, whatever its mode, and nothing is saved.

    No module is written to, so several threads may run one model, each in a context of its own.
    """

    def __enter__(self) -> None:
        self._tokens.append(_grad_enabled.set(None))


def is_grad_enabled() -> bool:
    """Return False within `no_grad`, True elsewhere.

    Examples
    --------
    >>> from fastcnn import nn
    >>> nn.is_grad_enabled()
    True
    """
    return _grad_enabled.get() is True


class Parameter:
    """An array that is learnt, and its gradient.

    Parameters
    ----------
    data : array_like of float32 or float64
        The first value; it is copied.

    Attributes
    ----------
    data : ndarray
        The value, C-contiguous. Assigning to it copies into the memory it has.
    grad : ndarray
        The gradient, of the same shape and type: zeros at first, added to by every backward pass.
    shape : tuple of int
    size : int
    dtype : numpy.dtype

    Raises
    ------
    TypeError
        If `data` is neither float32 nor float64.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> p = nn.Parameter(np.ones((2, 3), np.float32))
    >>> p.grad.sum(), p.size
    (np.float32(0.0), 6)
    """

    __slots__ = ("__weakref__", "_data", "_grad", "_home", "is_zero")

    def __init__(self, data: ArrayLike) -> None:
        array = np.array(check.array_like("data", data), order="C")
        if array.dtype not in check.FLOATS:
            check.fail("data", "float32 or float64", array.dtype, TypeError)
        self._data = array
        self._grad = np.zeros_like(array)
        self._home: Any = None
        self.is_zero = False  # whether the gradient is zero, whatever its memory still holds

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: DTypeLike) -> Parameter:
        """Return a parameter of the given shape, to be filled by one of `fastcnn.nn.init`.

        Raises
        ------
        TypeError
            If `dtype` is neither float32 nor float64.
        ValueError, MemoryError
            If there is no memory for the shape.
        """
        dtype = check.float_type("dtype", dtype)
        check.fits("parameter", shape)
        return cls(np.zeros(shape, dtype))

    @property
    def data(self) -> np.ndarray:
        return self._data

    @data.setter
    def data(self, value: ArrayLike) -> None:
        self._assign("data", self._data, value)

    @property
    def grad(self) -> np.ndarray:
        if self.is_zero:
            self._grad.fill(0)
            self.is_zero = False
        return self._grad

    @grad.setter
    def grad(self, value: ArrayLike) -> None:
        self._assign("grad", self.grad, value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @staticmethod
    def _assign(name: str, target: np.ndarray, value: ArrayLike) -> None:
        if value is target:  # p.grad += x ends here
            return
        value = check.array_like(name, value)
        if value.shape != target.shape:
            raise ValueError(f"{name}: expected shape {target.shape}, got {value.shape}")
        np.copyto(target, value, casting="same_kind")

    def grad_memory(self) -> np.ndarray | None:
        """Return where a backward pass may write the gradient, to hand it to `accumulate`; None unless that is zero."""
        return self._grad if self.is_zero else None

    def accumulate(self, grad: np.ndarray) -> None:
        """Add `grad`, an array of this parameter's shape, to `self.grad`."""
        if grad is self._grad:
            self.is_zero = False
        else:
            np.add(self.grad, check.array("grad", grad), out=self._grad)

    def zero_grad(self, later: bool = False) -> None:
        """Fill the gradient with zeros, at once or, `later`, when it is next read or a backward pass writes there."""
        self.is_zero = later
        if not later:
            self._grad.fill(0)

    def move_to(self, data: np.ndarray, grad: np.ndarray, home: Any = None) -> None:
        """Copy value and gradient into the given arrays and live there from now on.

        An optimizer calls this to lay all parameters into one buffer.

        Parameters
        ----------
        data, grad : ndarray
            C-contiguous arrays of this parameter's shape and type.
        home : object, optional
            What the arrays are part of; its attribute ``left`` is set to True once this parameter moves on.
        """
        np.copyto(data, self._data, casting="no")
        np.copyto(grad, self.grad, casting="no")
        if self._home is not None:
            self._home.left = True
        self._data, self._grad, self._home = data, grad, home

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype})"


class Module:
    """Base class of all layers and networks.

    A subclass assigns its parameters (`Parameter`) and children (`Module`) to attributes in ``__init__`` and writes
    `forward` and `backward`. The arrays named in the class attribute `buffer_names` are saved with the parameters but
    not learnt; the attributes named in `options` are what ``repr`` shows.

    `forward` keeps what backward needs with ``self.save(...)``; `backward` takes it back with ``self.saved()`` and
    adds to the gradients of the parameters. A module holds the saved arrays of its last forward pass alone, so
    training belongs to one thread at a time. In evaluation mode within `no_grad`, as in `Trainer.predict` and
    `Trainer.evaluate`, a forward pass writes to no module, and several threads may run one model.

    A child or parameter that is assigned anew replaces the old one, and the next call runs it. (An optimizer that was
    built before still holds the old parameters.) A call that raises leaves running statistics as they were.

    Attributes
    ----------
    training : bool
        Whether the module is in training mode; False, too, while `Trainer.predict` or `Trainer.evaluate` runs it.
    preprocessing : Preprocessing or None
        How the inputs of the whole network are normalised; `Trainer.fit` sets it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(np.ones(1))
    ...     def forward(self, input):
    ...         self.save(input)
    ...         return input * self.weight.data
    ...     def backward(self, grad_output):
    ...         (input,) = self.saved()
    ...         self.weight.grad += (grad_output * input).sum()
    ...         return grad_output * self.weight.data
    >>> nn.gradcheck(Scale(), np.arange(6.0))
    True
    """

    buffer_names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    preprocessing: Any = None

    def __init__(self) -> None:
        self.training = True
        self.needs_input_grad = True
        self._saved: tuple[Any, ...] | None = None

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the module's output for `input`."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Add to the gradients of the parameters and return the gradient of the last `forward`'s input.

        Parameters
        ----------
        grad_output : ndarray
            The gradient of what is minimised with respect to the output of the last `forward`; its shape.

        Returns
        -------
        ndarray or None
            The gradient of the input; None where ``requires_input_grad(False)`` spared the work.

        Raises
        ------
        RuntimeError
            If there was no forward pass outside `no_grad` since the last backward.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, input: np.ndarray) -> np.ndarray:
        if type(input) is not np.ndarray and isinstance(input, np.ndarray):
            input = check.plain("input", input)
        if _undo.get() is not None:  # within the call of another module, or a step of a trainer
            return self.forward(input)
        undo: list[tuple[np.ndarray, np.ndarray]] = []
        token = _undo.set(undo)
        try:
            return self.forward(input)
        except BaseException:
            restore(undo)
            raise
        finally:
            _undo.reset(token)

    @property
    def training(self) -> bool:
        try:
            return self.__dict__["training"] and _grad_enabled.get() is not None
        except KeyError:
            raise AttributeError(
                f"{type(self).__name__} has no attribute 'training': call super().__init__()"
            ) from None

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode

    def __setattr__(self, name: str, value: Any) -> None:
        # Layers write what changes with every step, such as `_saved`, to __dict__ instead: that takes less time.
        old = self.__dict__.get(name)
        for kind in (Module, Parameter):
            if isinstance(old, kind) and not (value is None or isinstance(value, kind)):
                check.fail(name, f"an nn.{kind.__name__} or None, to replace one", repr(value), TypeError)
        object.__setattr__(self, name, value)
        if isinstance(old, Module) or isinstance(value, Module) or name in _RUNS:
            structure_changed()

    def __delattr__(self, name: str) -> None:
        old = self.__dict__.get(name)
        object.__delattr__(self, name)
        if isinstance(old, Module) or name in _RUNS:
            structure_changed()

    def save(self, *arrays: Any) -> None:
        """Keep `arrays` for `backward`, unless within `no_grad`."""
        if _grad_enabled.get():
            self.__dict__["_saved"] = arrays

    def saved(self) -> tuple[Any, ...]:
        """Return what `save` kept, and let go of it.

        Raises
        ------
        RuntimeError
            If nothing is kept.
        """
        if self._saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward: expected a forward pass before it, outside no_grad(), "
                "got none since the last backward"
            )
        arrays, self.__dict__["_saved"] = self._saved, None
        return arrays

    def requires_input_grad(self, flag: bool = True) -> Module:
        """Say whether the gradient of this module's input is needed.

        The first layer of a network has no use for it, and a convolution or linear layer that is told so skips that
        part of the work: its `backward` returns None. Layers where it costs little return it all the same.

        Parameters
        ----------
        flag : bool, default True

        Returns
        -------
        Module
            self

        Examples
        --------
        >>> import numpy as np
        >>> from fastcnn import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).requires_input_grad(False)
        >>> y = model(np.ones((1, 2), np.float32))
        >>> model.backward(np.ones_like(y)) is None
        True
        """
        self.__dict__["needs_input_grad"] = bool(flag)
        return self

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules directly inside this one, in the order they were assigned."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        """Yield the modules directly inside this one."""
        for _, child in self.named_children():
            yield child

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module (its name is `prefix`) and of all inside it, parents first.

        Examples
        --------
        >>> from fastcnn import nn
        >>> [name for name, _ in nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh()).named_modules()]
        ['', '0', '0.0', '1']
        """
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(_join(prefix, name))

    def modules(self) -> Iterator[Module]:
        """Yield this module and all inside it, parents first."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter) of this module and of all inside it; a shared one once, by its first name.

        Examples
        --------
        >>> from fastcnn import nn
        >>> [(name, p.shape) for name, p in nn.Sequential(nn.ReLU(), nn.Linear(2, 3)).named_parameters()]
        [('1.weight', (3, 2)), ('1.bias', (3,))]
        """
        seen = set()
        for name, value in self._named_values():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of this module and of all inside it, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (dotted name, array) of what is saved but not learnt, such as running statistics."""
        for name, value in self._named_values():
            if isinstance(value, np.ndarray):
                yield name, value

    def buffers(self) -> Iterator[np.ndarray]:
        """Yield the arrays that are saved but not learnt."""
        for _, array in self.named_buffers():
            yield array

    def _named_values(self) -> Iterator[tuple[str, Parameter | np.ndarray]]:
        """Yield (dotted name, parameter or buffer), in the order torch's state dicts have."""
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) or (name in module.buffer_names and value is not None):
                    yield _join(prefix, name), value

    def zero_grad(self) -> None:
        """Fill the gradients of all parameters with zeros."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def train(self, mode: bool = True) -> Module:
        """Put this module and all inside it in training mode, or in evaluation mode when `mode` is False.

        Only layers such as dropout and batch norm differ between the two.

        Parameters
        ----------
        mode : bool, default True

        Returns
        -------
        Module
            self

        Examples
        --------
        >>> from fastcnn import nn
        >>> nn.Sequential(nn.Dropout()).train(False)[0].training
        False
        """
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Module:
        """Put this module and all inside it in evaluation mode.

        Returns
        -------
        Module
            self
        """
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters and buffers, by name.

        Returns
        -------
        dict of str to ndarray
            Names, order and shapes are those that torch gives a model of the same layers.

        Examples
        --------
        >>> from fastcnn import nn
        >>> list(nn.BatchNorm2d(4).state_dict())
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
        """
        return {name: _array(value).copy() for name, value in self._named_values()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy arrays into the parameters and buffers of the same names.

        Every name, shape and type is checked before the first is copied.

        Parameters
        ----------
        state : mapping of str to array_like
            What `state_dict` returned, here or, as arrays, in torch.
        strict : bool, default True
            Whether a name that is missing from `state`, or that this module does not have, is an error. A wrong shape
            always is.

        Returns
        -------
        missing, unexpected : list of str
            The names that were not in `state`, and those in it that were not used.

        Raises
        ------
        ValueError
            If names or shapes differ: one error that lists them all. Nothing is then changed.

        Examples
        --------
        >>> import numpy as np
        >>> from fastcnn import nn
        >>> nn.Linear(2, 3).load_state_dict({"weight": np.ones((2, 3)), "scale": 1.0})
        Traceback (most recent call last):
            ...
        ValueError: state: expected the names and shapes of this Linear, got differences:
          missing: bias
          unexpected: scale
          wrong shape: weight, expected (3, 2), got (2, 3)
        """
        own = {name: _array(value) for name, value in self._named_values()}
        given = {name: check.array_like(name, value) for name, value in state.items()}
        missing = [name for name in own if name not in given]
        unexpected = [name for name in given if name not in own]
        problems = []
        if strict:
            problems += [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
        for name, array in own.items():
            if name in given and given[name].shape != array.shape:
                problems.append(f"wrong shape: {name}, expected {array.shape}, got {given[name].shape}")
            elif name in given and not np.can_cast(given[name].dtype, array.dtype, "same_kind"):
                problems.append(f"wrong type: {name}, expected {array.dtype}, got {given[name].dtype}")
        if problems:
            listing = "".join(f"\n  {problem}" for problem in problems)
            raise ValueError(
                f"state: expected the names and shapes of this {type(self).__name__}, got differences:{listing}"
            )
        for name, array in own.items():
            if name in given:
                np.copyto(array, given[name], casting="same_kind")
        return missing, unexpected

    def summary(self, input_shape: tuple[int, ...]) -> Summary:
        """Return a table of the layers for an input of shape `input_shape`; see `fastcnn.nn.summary`."""
        from fastcnn.nn.inspect import summary  # inspect imports this module

        return summary(self, input_shape)

    def plan(self, input_shape: tuple[int, ...]) -> Plan:
        """Return the bytes that a training step on inputs of shape `input_shape` takes; see `fastcnn.nn.plan`."""
        from fastcnn.nn.inspect import plan  # inspect imports this module

        return plan(self, input_shape)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        body = "".join(f"\n  {line}" for line in ([options] if options and children else []) + children)
        return f"{type(self).__name__}({body}\n)" if children else f"{type(self).__name__}({options})"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _array(value: Parameter | np.ndarray) -> np.ndarray:
    return value.data if isinstance(value, Parameter) else value

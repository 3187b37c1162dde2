"""Optimizers and learning-rate schedules, with torch's names, arguments and formulas.

An optimizer moves its parameters into one flat buffer, and their gradients into another, so that an update is a single
pass over memory. Each parameter starts at a multiple of 64 bytes, and the gaps between them stay zero.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcnn import functional as F
from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._options import flag

if TYPE_CHECKING:
    from fastcnn.nn import Parameter

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "LinearLR",
    "OneCycleLR",
    "Optimizer",
    "Schedule",
    "SequentialLR",
    "StepLR",
]

_ALIGNMENT = 64  # bytes: one cache line, and the widest vector register


class Optimizer:
    """Base class of the optimizers: parameter groups, the flat buffers, and what is saved.

    Attributes
    ----------
    param_groups : list of dict
        Each has ``'params'``, a list of Parameter, and the settings that hold for them, such as ``'lr'``. Settings may
        be changed between steps.
    """

    kept: tuple[str, ...]  # names of the arrays kept for each parameter

    def __init__(self, params: Iterable[Parameter] | Iterable[dict[str, Any]], **defaults: Any) -> None:
        self._settings = tuple(defaults)
        self.param_groups = self._group(params, defaults)
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        dtype = self._parameters[0].dtype
        for i, parameter in enumerate(self._parameters):
            if parameter.dtype != dtype:
                check.fail("params", f"parameters of one type, {dtype}", f"{parameter.dtype} at {i}", TypeError)
        line = _ALIGNMENT // dtype.itemsize
        ends = list(accumulate((-(-p.size // line) * line for p in self._parameters), initial=0))
        self._data = _aligned_zeros(ends[-1], dtype)
        self._grad = _aligned_zeros(ends[-1], dtype)
        self._places = [slice(start, start + p.size) for p, start in zip(self._parameters, ends, strict=False)]
        self._home = SimpleNamespace(left=False)
        for p, place in zip(self._parameters, self._places, strict=True):
            p.move_to(self._data[place].reshape(p.shape), self._grad[place].reshape(p.shape), self._home)
        # The number of the first parameter of each group, and of the one after the last.
        self._first = list(accumulate((len(group["params"]) for group in self.param_groups), initial=0))
        self._segments = [slice(ends[i], ends[j]) for i, j in zip(self._first, self._first[1:], strict=False)]
        self._data_of = [self._data[segment] for segment in self._segments]
        self._grad_of = [self._grad[segment] for segment in self._segments]
        self._steps = [0 for _ in self.param_groups]
        self._arrays: list[dict[str, np.ndarray]] = [{} for _ in self.param_groups]  # by name, flat, once they exist

    def _group(self, params: Any, defaults: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the user passed as groups with all settings, checked."""
        items = list(params)
        if not any(isinstance(item, Mapping) for item in items):
            items = [{"params": items}]
        groups = []
        seen: set[int] = set()
        for item in items:
            if not isinstance(item, Mapping) or "params" not in item:
                check.fail("params", "groups that are dicts with 'params'", repr(item), TypeError)
            members = list(item["params"])
            if not members:
                check.fail("params", "at least one parameter in a group", "none")
            for name in item:
                if name != "params" and name not in defaults:
                    check.fail("params", f"the settings {', '.join(defaults)} in a group", repr(name))
            for parameter in members:
                if not hasattr(parameter, "move_to"):
                    check.fail("params", "nn.Parameter objects", repr(parameter), TypeError)
                if id(parameter) in seen:
                    check.fail("params", "each parameter once", f"{parameter!r} twice")
                seen.add(id(parameter))
            settings = {name: item.get(name, default) for name, default in defaults.items()}
            groups.append({"params": members, **self._checked(**settings)})
        return groups

    def _checked(self, **settings: Any) -> dict[str, Any]:
        """Return the settings of a group with their final types, or raise."""
        raise NotImplementedError

    def _update(
        self, param: np.ndarray, grad: np.ndarray, arrays: dict[str, np.ndarray], group: dict[str, Any], step: int
    ) -> None:
        """Update one group's flat segment; this is its step number `step`, counted from 1."""
        raise NotImplementedError

    @property
    def lr(self) -> float:
        """The learning rate of the first group; assigning sets that of all groups."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        value = number("lr", value, 0)
        for group in self.param_groups:
            group["lr"] = value

    def step(self) -> None:
        """Update all parameters from their gradients.

        Raises
        ------
        RuntimeError
            If another optimizer has since moved the parameters into its own buffer.
        TypeError, ValueError
            If a setting was changed to one that is not valid. Nothing is then updated.
        """
        self._settle()
        for group in self.param_groups[1:]:  # the update of the first checks its own
            self._checked(**{name: group[name] for name in self._settings})
        for g, group in enumerate(self.param_groups):
            self._update(self._data_of[g], self._grad_of[g], self._arrays[g], group, self._steps[g] + 1)
            self._steps[g] += 1

    def zero_grad(self) -> None:
        """Make all gradients zero; arrays that were read from ``Parameter.grad`` before may not show it.

        Raises
        ------
        RuntimeError
            If another optimizer has since moved the parameters into its own buffer.
        """
        self._check_owned()
        for parameter in self._parameters:
            parameter.is_zero = True  # which needs no pass over memory

    def clip_grad_norm(self, max_norm: float) -> float:
        """Scale all gradients together so that their Euclidean norm is at most `max_norm`.

        Parameters
        ----------
        max_norm : float

        Returns
        -------
        float
            The norm before.

        Raises
        ------
        RuntimeError
            If another optimizer has since moved the parameters into its own buffer.

        References
        ----------
        R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

        Examples
        --------
        >>> import numpy as np
        >>> from fastcnn import nn, optim
        >>> p = nn.Parameter(np.zeros(2))
        >>> optimizer = optim.SGD([p], lr=0.1)
        >>> p.grad = [3.0, 4.0]
        >>> optimizer.clip_grad_norm(1.0)
        5.0
        >>> p.grad.round(4)
        array([0.6, 0.8])
        """
        self._settle()
        return F.clip_grad_norm(self._grad, number("max_norm", max_norm, 0))

    def state_dict(self) -> dict[str, Any]:
        """Return all settings and kept arrays, for `load_state_dict`.

        Returns
        -------
        dict
            ``'param_groups.<group>.<setting>'`` is a number (or an array of them), ``'param_groups.<group>.step'`` the
            count of steps, ``'state.<parameter>.<name>'`` a copy of an array of the parameter's shape. Parameters are
            counted through all groups.

        Examples
        --------
        >>> import numpy as np
        >>> from fastcnn import nn, optim
        >>> optimizer = optim.SGD([nn.Parameter(np.zeros(2))], lr=0.1, momentum=0.9)
        >>> optimizer.step()
        >>> list(optimizer.state_dict())[-2:]
        ['param_groups.0.step', 'state.0.momentum_buffer']
        """
        state: dict[str, Any] = {}
        for g, group in enumerate(self.param_groups):
            for name in self._settings:
                value = group[name]
                state[f"param_groups.{g}.{name}"] = np.array(value) if isinstance(value, tuple) else value
            state[f"param_groups.{g}.step"] = self._steps[g]
        for g, arrays in enumerate(self._arrays):
            for name, flat in arrays.items():
                state |= {key: view.copy() for key, view in self._views(g, name, flat)}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the settings and arrays that `state_dict` returned.

        Everything is checked before anything is changed.

        Parameters
        ----------
        state_dict : mapping
            Of an optimizer of the same class over parameters of the same shapes.

        Raises
        ------
        TypeError, ValueError
            If a setting is not valid, or names or shapes differ: one error that lists them all.
        """
        problems = []
        expected: set[str] = set()
        loaded = []
        for g in range(len(self.param_groups)):
            keys = {name: f"param_groups.{g}.{name}" for name in (*self._settings, "step")}
            expected |= set(keys.values())
            absent = [f"missing: {key}" for key in keys.values() if key not in state_dict]
            settings: dict[str, Any] = {}
            step = 0
            if not absent:
                settings = self._checked(**{name: state_dict[keys[name]] for name in self._settings})
                step = check.integer(keys["step"], state_dict[keys["step"]], 0)
            problems += absent
            arrays: dict[str, np.ndarray] = {}
            for name in self.kept:
                flat = _aligned_zeros(self._segments[g].stop - self._segments[g].start, self._data.dtype)
                views = dict(self._views(g, name, flat))
                expected |= set(views)
                if views.keys().isdisjoint(state_dict):
                    continue
                arrays[name] = flat
                for key, view in views.items():
                    value = check.array_like(key, state_dict.get(key))
                    if key not in state_dict:
                        problems.append(f"missing: {key}")
                    elif value.shape != view.shape:
                        problems.append(f"wrong shape: {key}, expected {view.shape}, got {value.shape}")
                    elif not np.can_cast(value.dtype, view.dtype, "same_kind"):
                        problems.append(f"wrong type: {key}, expected {view.dtype}, got {value.dtype}")
                    else:
                        np.copyto(view, value, casting="same_kind")
            loaded.append((settings, step, arrays))
        problems += [f"unexpected: {key}" for key in state_dict if key not in expected]
        if problems:
            listing = "".join(f"\n  {problem}" for problem in problems)
            check.fail("state_dict", f"the names and shapes of this {type(self).__name__}", f"differences:{listing}")
        for g, (settings, step, arrays) in enumerate(loaded):
            self.param_groups[g].update(settings)
            self._steps[g] = step
            self._arrays[g] = arrays

    def _views(self, g: int, name: str, flat: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (key in the state dict, view of the parameter's shape) of one kept array of group `g`."""
        start = self._segments[g].start
        for i in range(self._first[g], self._first[g + 1]):
            place = self._places[i]
            view = flat[place.start - start : place.stop - start]
            yield f"state.{i}.{name}", view.reshape(self._parameters[i].shape)

    def _check_owned(self) -> None:
        """Check that the parameters still live in the flat buffers: none has moved on, and this is no copy."""
        grad = self._parameters[0].grad
        if self._home.left or grad.base is None or grad.base is not self._grad.base:
            raise RuntimeError(
                f"{type(self).__name__}: expected its parameters in its own buffer, got some that were moved since "
                "(by a later optimizer, or because this is a copy); build a new optimizer"
            )

    def _settle(self) -> None:
        """Check the same, and fill the gradients that are zero and have not been written since."""
        self._check_owned()
        for parameter in self._parameters:
            if parameter.is_zero:
                parameter.zero_grad()


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    With g the gradient plus ``weight_decay`` times the parameter, and b the momentum buffer (g itself at first):
    b = momentum * b + (1 - dampening) * g; the parameter moves by -lr * b, with Nesterov's variant by
    -lr * (g + momentum * b).

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to update, or groups ``{'params': [...], 'lr': ..., ...}`` with settings of their own.
    lr : float, default 1e-3
        Learning rate.
    momentum, dampening : float, default 0
    weight_decay : float, default 0
        Factor of an added L2 penalty.
    nesterov : bool, default False
        Needs a momentum, and no dampening.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range, or a parameter appears twice.

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> p = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.SGD([p], lr=0.5)
    >>> p.grad = [1.0, -1.0]
    >>> optimizer.step()
    >>> p.data
    array([0.5, 2.5])
    """

    kept = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov
        )

    def _checked(self, lr, momentum, dampening, weight_decay, nesterov):
        settings = {
            "lr": number("lr", lr, 0),
            "momentum": number("momentum", momentum, 0),
            "dampening": number("dampening", dampening, -math.inf),
            "weight_decay": number("weight_decay", weight_decay, 0),
            "nesterov": flag("nesterov", nesterov),
        }
        if nesterov and (momentum == 0 or dampening != 0):
            check.fail("nesterov", "a momentum above 0 and dampening 0 with it", f"{momentum} and {dampening}")
        return settings

    def _update(self, param, grad, arrays, group, step):
        buffer = arrays.get("momentum_buffer")
        first = bool(group["momentum"] and buffer is None)
        if first:
            buffer = _aligned_zeros(param.size, param.dtype)
        F.sgd_update(
            param,
            grad,
            buffer,
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            first_step=first,
        )
        if first:
            arrays["momentum_buffer"] = buffer


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to update, or groups ``{'params': [...], 'lr': ..., ...}`` with settings of their own.
    lr : float, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        How much of the running means stays at each step.
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 0
        Factor of an added L2 penalty.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range, or a parameter appears twice.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> p = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.Adam([p], lr=0.5)
    >>> p.grad = [0.1, -10.0]
    >>> optimizer.step()
    >>> p.data.round(4)
    array([0.5, 2.5])
    """

    kept = ("exp_avg", "exp_avg_sq")
    decoupled = False  # whether weight decay acts on the parameter itself rather than through the gradient

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _checked(self, lr, betas, eps, weight_decay):
        if not isinstance(betas, (Sequence, np.ndarray)) or len(betas) != 2:
            check.fail("betas", "a pair of numbers", repr(betas), TypeError)
        betas = tuple(number("betas", beta, 0) for beta in betas)
        if max(betas) >= 1:
            check.fail("betas", "two numbers from 0 to below 1", betas)
        return {
            "lr": number("lr", lr, 0),
            "betas": betas,
            "eps": number("eps", eps, 0),
            "weight_decay": number("weight_decay", weight_decay, 0),
        }

    def _update(self, param, grad, arrays, group, step):
        kept = arrays or {name: _aligned_zeros(param.size, param.dtype) for name in self.kept}
        F.adam_update(
            param,
            grad,
            kept["exp_avg"],
            kept["exp_avg_sq"],
            step,
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            self.decoupled,
        )
        arrays.update(kept)


class AdamW(Adam):
    """Adam with decoupled weight decay: each step first shrinks the parameters by the factor 1 - lr * weight_decay.

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        What to update, or groups ``{'params': [...], 'lr': ..., ...}`` with settings of their own.
    lr : float, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        How much of the running means stays at each step.
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 0.01

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range, or a parameter appears twice.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> p = nn.Parameter(np.array([1.0]))
    >>> optimizer = optim.AdamW([p], lr=0.5, weight_decay=0.1)
    >>> optimizer.step()  # the gradient is zero
    >>> p.data
    array([0.95])
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class Schedule:
    """Base class of the schedules: the learning rate as a function of how often `step` was called.

    The rate is computed from the count alone, so a run that is resumed has the same bits as one that never stopped.

    Attributes
    ----------
    last_epoch : int
        How often `step` was called; call it once an epoch or once a batch, as the schedule is meant.
    base_lrs : list of float
        The rates of the groups before any schedule.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            check.fail("optimizer", "an Optimizer", repr(optimizer), TypeError)
        self.optimizer = optimizer
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._apply(self._settings_at(0))

    def settings(self, group: int, epoch: int) -> dict[str, Any]:
        """Return what the schedule sets in parameter group number `group` after `epoch` steps."""
        raise NotImplementedError

    def step(self) -> None:
        """Count one step, and set the learning rates that follow from it.

        Raises
        ------
        ValueError
            If the schedule is over.
        """
        self.check_step()
        settings = self._settings_at(self.last_epoch + 1)
        self.last_epoch += 1
        self._apply(settings)

    def check_step(self) -> None:
        """Raise the error that `step` would raise; change nothing."""

    def _settings_at(self, epoch: int) -> list[dict[str, Any]]:
        return [self.settings(g, epoch) for g in range(len(self.optimizer.param_groups))]

    def _apply(self, settings: list[dict[str, Any]]) -> None:
        for group, values in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(values)

    def get_last_lr(self) -> list[float]:
        """Return the current learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the count of steps and the base rates.

        The arguments of the schedule are not in it: build it with the same ones, then load.
        """
        return {"last_epoch": self.last_epoch, "base_lrs": np.array(self.base_lrs)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, and set the learning rates that follow from it.

        Raises
        ------
        TypeError, ValueError
            If names or the number of groups differ. Nothing is then changed.
        """
        if set(state_dict) != {"last_epoch", "base_lrs"}:
            check.fail("state_dict", "'last_epoch' and 'base_lrs'", sorted(state_dict))
        base_lrs = check.array_like("base_lrs", state_dict["base_lrs"])
        if base_lrs.dtype.kind not in "iuf":
            check.fail("base_lrs", "an array of numbers", base_lrs.dtype, TypeError)
        base_lrs = base_lrs.astype(np.float64)
        if base_lrs.shape != (len(self.base_lrs),):
            check.fail("state_dict", f"base_lrs of {len(self.base_lrs)} groups", f"shape {base_lrs.shape}")
        self._restore(check.integer("last_epoch", state_dict["last_epoch"], 0), base_lrs.tolist())
        self._apply(self._settings_at(self.last_epoch))

    def _restore(self, last_epoch: int, base_lrs: list[float]) -> None:
        self.last_epoch, self.base_lrs = last_epoch, base_lrs
        for group, rate in zip(self.optimizer.param_groups, base_lrs, strict=True):
            group["initial_lr"] = rate


class StepLR(Schedule):
    """Multiply the rate by `gamma` after every `step_size` steps.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float, default 0.1

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> schedule = optim.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for _ in range(4):
    ...     schedule.step()
    >>> optimizer.lr
    0.25
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = check.integer("step_size", step_size, 1)
        self.gamma = number("gamma", gamma, 0)
        super().__init__(optimizer)

    def settings(self, group: int, epoch: int) -> dict[str, Any]:
        return {"lr": self.base_lrs[group] * self.gamma ** (epoch // self.step_size)}


class CosineAnnealingLR(Schedule):
    """Let the rate fall to `eta_min` along half a cosine of `T_max` steps.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        Steps until the lowest rate. After it the rate rises again along the cosine.
    eta_min : float, default 0
        Lowest rate.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017 (without restarts).

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> schedule = optim.CosineAnnealingLR(optimizer, T_max=2)
    >>> schedule.step()
    >>> round(optimizer.lr, 4)
    0.5
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = check.integer("T_max", T_max, 1)
        self.eta_min = number("eta_min", eta_min, 0)
        super().__init__(optimizer)

    def settings(self, group: int, epoch: int) -> dict[str, Any]:
        height = (1 + math.cos(math.pi * epoch / self.T_max)) / 2
        return {"lr": self.eta_min + (self.base_lrs[group] - self.eta_min) * height}


class LinearLR(Schedule):
    """Change the rate in a straight line from `start_factor` to `end_factor` times the base rate: a warm-up.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor : float, default 1/3
        Above 0, at most 1.
    end_factor : float, default 1
        From 0 to 1.
    total_iters : int, default 5
        Steps until `end_factor`; then the rate stays.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> schedule = optim.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> rates = [optimizer.lr]
    >>> for _ in range(3):
    ...     schedule.step()
    ...     rates.append(optimizer.lr)
    >>> rates
    [0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        self.start_factor = number("start_factor", start_factor, 0, 1)
        if self.start_factor == 0:
            check.fail("start_factor", "a number above 0", repr(start_factor))
        self.end_factor = number("end_factor", end_factor, 0, 1)
        self.total_iters = check.integer("total_iters", total_iters, 1)
        super().__init__(optimizer)

    def settings(self, group: int, epoch: int) -> dict[str, Any]:
        part = min(epoch, self.total_iters) / self.total_iters
        return {"lr": self.base_lrs[group] * (self.start_factor + (self.end_factor - self.start_factor) * part)}


class OneCycleLR(Schedule):
    """Raise the rate to `max_lr`, then let it fall far below where it began; call `step` after every batch.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float or list of float
        Highest rate, for all groups or for each.
    total_steps : int
        Steps of the whole cycle.
    pct_start : float, default 0.3
        Part of the cycle in which the rate rises.
    anneal_strategy : {'cos', 'linear'}
        Shape of the rise and of the fall.
    cycle_momentum : bool, default True
        Whether momentum (of Adam, the first beta) moves the other way, between `max_momentum` and `base_momentum`.
    base_momentum, max_momentum : float, default 0.85, 0.95
    div_factor : float, default 25
        The first rate is max_lr / div_factor.
    final_div_factor : float, default 1e4
        The last rate is the first / final_div_factor.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range, if the optimizer has no momentum to cycle, or if `step` is called
        more than `total_steps` times.

    References
    ----------
    L. N. Smith, N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    arXiv:1708.07120, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=0.1, momentum=0.9)
    >>> schedule = optim.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> rates = [round(optimizer.lr, 3)]
    >>> for _ in range(9):
    ...     schedule.step()
    ...     rates.append(round(optimizer.lr, 3))
    >>> rates
    [0.04, 0.52, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
        peaks = list(max_lr) if isinstance(max_lr, (tuple, list)) else [max_lr] * len(groups)
        if len(peaks) != len(groups):
            check.fail("max_lr", f"a number or a list of {len(groups)}", repr(max_lr))
        self.max_lrs = [number("max_lr", peak, 0) for peak in peaks]
        self.total_steps = check.integer("total_steps", total_steps, 1)
        self.pct_start = number("pct_start", pct_start, 0, 1)
        if anneal_strategy not in ("cos", "linear"):
            check.fail("anneal_strategy", "'cos' or 'linear'", repr(anneal_strategy))
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = flag("cycle_momentum", cycle_momentum)
        for group in groups if cycle_momentum else ():
            if not group.get("momentum") and "betas" not in group:
                check.fail("cycle_momentum", "an optimizer with momentum, or False", "momentum 0")
        self.base_momentum = number("base_momentum", base_momentum, 0, 1)
        self.max_momentum = number("max_momentum", max_momentum, 0, 1)
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if number(name, value, 0) == 0:
                check.fail(name, "a number above 0", repr(value))
        self.div_factor = float(div_factor)
        self.final_div_factor = float(final_div_factor)
        super().__init__(optimizer)

    def check_step(self) -> None:
        """Raise the error that `step` would raise; change nothing."""
        if self.last_epoch >= self.total_steps:
            check.fail("total_steps", f"at most {self.total_steps} calls of step", self.last_epoch + 1)

    def settings(self, group: int, epoch: int) -> dict[str, Any]:
        peak = self.max_lrs[group]
        first = peak / self.div_factor
        rates = (first, peak, first / self.final_div_factor)
        settings: dict[str, Any] = {"lr": self._at(epoch, rates)}
        if self.cycle_momentum:
            momentum = self._at(epoch, (self.max_momentum, self.base_momentum, self.max_momentum))
            if "betas" in self.optimizer.param_groups[group]:
                settings["betas"] = (momentum, self.optimizer.param_groups[group]["betas"][1])
            else:
                settings["momentum"] = momentum
        return settings

    def _at(self, epoch: int, values: tuple[float, float, float]) -> float:
        """Return the value after `epoch` steps of a path through three values."""
        last = self.total_steps - 1
        turn = self.pct_start * self.total_steps - 1
        epoch = min(epoch, last)
        if epoch <= turn:
            begin, end, part = values[0], values[1], epoch / turn if turn else 1.0
        else:
            begin, end, part = values[1], values[2], (epoch - turn) / (last - turn)
        if self.anneal_strategy == "cos":
            return end + (begin - end) / 2 * (1 + math.cos(math.pi * part))
        return begin + (end - begin) * part


class SequentialLR(Schedule):
    """One schedule after another, such as a warm-up and then a cosine.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : list of Schedule
        All of this optimizer. Each begins anew when its turn comes.
    milestones : list of int
        At how many steps the second begins, the third, and so on.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, the milestones do not ascend or do not fit the number of schedules, or a
        schedule belongs to another optimizer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> warm_up = optim.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> schedule = optim.SequentialLR(optimizer, [warm_up, optim.CosineAnnealingLR(optimizer, T_max=2)], milestones=[2])
    >>> rates = [optimizer.lr]
    >>> for _ in range(4):
    ...     schedule.step()
    ...     rates.append(round(optimizer.lr, 3))
    >>> rates
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]) -> None:
        self.schedulers = list(schedulers)
        for schedule in self.schedulers:
            if not isinstance(schedule, Schedule):
                check.fail("schedulers", "schedules", repr(schedule), TypeError)
            if schedule.optimizer is not optimizer:
                check.fail("schedulers", "schedules of this optimizer", f"a {type(schedule).__name__} of another")
        self.milestones = [check.integer("milestones", milestone, 1) for milestone in milestones]
        if not self.schedulers or len(self.milestones) != len(self.schedulers) - 1:
            check.fail("milestones", "one fewer than schedulers", f"{len(self.milestones)} for {len(self.schedulers)}")
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            check.fail("milestones", "ascending numbers", self.milestones)
        super().__init__(optimizer)

    def settings(self, group: int, epoch: int) -> dict[str, Any]:
        turn = bisect_right(self.milestones, epoch)
        return self.schedulers[turn].settings(group, epoch - (self.milestones[turn - 1] if turn else 0))

    def _restore(self, last_epoch: int, base_lrs: list[float]) -> None:
        super()._restore(last_epoch, base_lrs)
        for schedule in self.schedulers:
            schedule._restore(schedule.last_epoch, base_lrs)


def _aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """Return a 1-D array of zeros that starts at a multiple of 64 bytes."""
    size *= dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % _ALIGNMENT
    return raw[offset : offset + size].view(dtype)

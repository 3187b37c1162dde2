"""Updates of flat parameter vectors in place, each one pass over memory, and the clipping of gradients."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional._arrays import required
from fastcnn.functional._calls import Call, remembered
from fastcnn.functional._options import flag


def _vectors(written: tuple[str, ...], **vectors: np.ndarray) -> list[np.ndarray]:
    """Check contiguous vectors of one size and type, of which those named in `written` are updated in place."""
    vectors = {name: vector if vector is None else check.array(name, vector) for name, vector in vectors.items()}
    checked = required(**vectors)
    first, size = next((name, vector.size) for name, vector in vectors.items())
    for (name, vector), same in zip(vectors.items(), checked, strict=True):
        check.ndim(name, vector, 1)
        if vector.size != size:
            check.fail(name, f"{size} elements as {first}", vector.size)
        if not vector.flags.c_contiguous or same is not vector:
            check.fail(name, "a contiguous, aligned vector in native byte order", f"strides {vector.strides}")
        if name in written and not vector.flags.writeable:
            check.fail(name, "a writable array", "a read-only one")
    check.apart(
        {name: vector for name, vector in vectors.items() if name in written},
        **{name: vector for name, vector in vectors.items() if name not in written},
    )
    return checked


def _in_place(
    kernel: str,
    first: np.ndarray,
    *vectors: np.ndarray | None,
    integers: tuple[int, ...] = (),
    written: tuple[int, ...] = (0,),
    number: bool = False,
) -> Call:
    """Call of a kernel that writes to what it reads."""
    return Call(kernel, (first, *vectors), (), integers=(len(first), *integers), written=written, number=number)


def sgd_update(
    param: np.ndarray,
    grad: np.ndarray,
    momentum_buffer: np.ndarray | None,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    *,
    first_step: bool = False,
) -> None:
    """Take one step of stochastic gradient descent, in place.

    Parameters
    ----------
    param : ndarray of shape (size,)
        Updated. float32 or float64, contiguous.
    grad : ndarray of shape (size,)
    momentum_buffer : ndarray of shape (size,), or None
        Updated: the running direction. None where `momentum` is 0.
    lr : float
        The learning rate.
    momentum : float, default 0
    dampening : float, default 0
        1 - dampening of the gradient goes into the buffer.
    weight_decay : float, default 0
        This times `param` is added to the gradient.
    nesterov : bool, default False
        Whether to step to where the buffer will lead; needs momentum, and dampening 0.
    first_step : bool, default False
        Whether the buffer is still empty: it is then set to the gradient, whatever it holds, without dampening.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range. Nothing is changed then.

    Notes
    -----
    torch's form, in which the learning rate is not part of the buffer: d = grad + weight_decay * param,
    buffer = momentum * buffer + (1 - dampening) * d, and param -= lr * buffer, or with Nesterov's momentum
    param -= lr * (d + momentum * buffer).

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> param = np.array([1.0, 2.0])
    >>> F.sgd_update(param, np.array([0.5, 0.0]), None, lr=0.1)
    >>> param
    array([0.95, 2.  ])
    """
    settings = lr, momentum, dampening, weight_decay, nesterov, first_step
    # Not of what may be deep in tuples: a hash would overflow the stack.
    usual = type(lr) is type(momentum) is type(dampening) is type(weight_decay) is float
    usual = usual and type(nesterov) is type(first_step) is bool
    flags, numbers = (_sgd_settings if usual else _sgd_settings.__wrapped__)(*settings)
    momentum = numbers[1]
    if momentum == 0:
        momentum_buffer = None
    elif momentum_buffer is None:
        check.fail("momentum_buffer", f"an array, as momentum is {momentum}", None)
    _sgd(param, grad, momentum_buffer, *flags, *numbers)


@lru_cache(maxsize=64, typed=True)  # most are the same, step after step
def _sgd_settings(lr, momentum, dampening, weight_decay, nesterov, first_step):
    """Check them, and return the flags and the numbers as the kernel takes them."""
    lr = number("lr", lr, 0)
    momentum = number("momentum", momentum, 0)
    dampening = number("dampening", dampening, -math.inf)
    weight_decay = number("weight_decay", weight_decay, 0)
    nesterov, first_step = flag("nesterov", nesterov), flag("first_step", first_step)
    if nesterov and (momentum == 0 or dampening != 0):
        check.fail("nesterov", "True only with momentum and dampening 0", f"momentum {momentum}, dampening {dampening}")
    return (nesterov, first_step), (lr, momentum, dampening, weight_decay)


@remembered
def _sgd(param, grad, momentum_buffer, nesterov, first_step, *numbers):
    vectors = {"param": param, "grad": grad}
    if momentum_buffer is not None:
        vectors["momentum_buffer"] = momentum_buffer
    vectors = _vectors(("param", "momentum_buffer"), **vectors)
    arrays = *vectors, *[None] * (3 - len(vectors))
    return _in_place("sgd", *arrays, integers=(nesterov, first_step), written=(0, 2))


def adam_update(
    param: np.ndarray,
    grad: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """Take one step of Adam, or of AdamW, in place.

    Parameters
    ----------
    param : ndarray of shape (size,)
        Updated. float32 or float64, contiguous.
    grad : ndarray of shape (size,)
    exp_avg, exp_avg_sq : ndarray of shape (size,)
        Updated: running means of the gradient and of its square; zeros before the first step.
    step : int
        Number of this step, from 1.
    lr : float
        The learning rate.
    beta1, beta2 : float, default 0.9 and 0.999
        Parts of the running means that are kept; from 0 to below 1.
    eps : float, default 1e-8
        Added to the root of the second mean.
    weight_decay : float, default 0
    decoupled : bool, default False
        False (Adam): weight_decay * param is added to the gradient. True (AdamW): `param` shrinks by
        lr * weight_decay of itself, past the running means.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range. Nothing is changed then.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> param = np.array([1.0])
    >>> F.adam_update(param, np.array([0.5]), np.zeros(1), np.zeros(1), step=1, lr=0.1)
    >>> param.round(6)
    array([0.9])
    """
    step = check.integer("step", step, 1)
    lr = number("lr", lr, 0)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if number(name, beta, 0) >= 1:
            check.fail(name, "a number from 0 to below 1", check.shown(beta))
    eps = number("eps", eps, 0)
    weight_decay = number("weight_decay", weight_decay, 0)
    decoupled = flag("decoupled", decoupled)
    step_size = lr / (1 - beta1**step)
    correction = 1 / math.sqrt(1 - beta2**step)
    shrink = 1 - lr * weight_decay if decoupled else 1.0
    numbers = step_size, correction, beta1, beta2, eps, 0.0 if decoupled else weight_decay, shrink
    _adam(param, grad, exp_avg, exp_avg_sq, *map(float, numbers))


@remembered
def _adam(param, grad, exp_avg, exp_avg_sq, *numbers):
    vectors = {"param": param, "grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    return _in_place("adam", *_vectors(("param", "exp_avg", "exp_avg_sq"), **vectors), written=(0, 2, 3))


def clip_grad_norm(grad: np.ndarray, max_norm: float) -> float:
    """Scale a gradient in place so that its Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grad : ndarray of shape (size,)
        Multiplied by max_norm / (norm + 1e-6) where that is below 1. float32 or float64, contiguous.
    max_norm : float
        Not negative.

    Returns
    -------
    float
        The norm before, summed in double. Where it is not finite the gradient is multiplied all the same, as in torch:
        with an infinite norm its finite elements become 0 and the infinite ones NaN, with a norm that is NaN they all
        become NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range. Nothing is changed then.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import functional as F
    >>> grad = np.array([3.0, 4.0])
    >>> F.clip_grad_norm(grad, 1.0), grad.round(4)
    (5.0, array([0.6, 0.8]))
    """
    return _clip(grad, number("max_norm", max_norm, 0))


@remembered
def _clip(grad, max_norm):
    (grad,) = _vectors(("grad",), grad=grad)
    return _in_place("clip", grad, number=True) if grad.size else 0.0

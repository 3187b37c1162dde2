"""The bridge for PyTorch programs: functions with gradients over tensors, and layers that replace torch's in place.

Tensors are read where they lie, contiguous or channels-last, and results are handed over without a copy. This module
needs PyTorch 2.4 or newer (`pip install 'fastcnn[torch]'`); `import fastcnn` does not import it.

- `accelerate(model)` lets fastcnn compute the layers of a model that is there, in place; `restore(model)` undoes it.
- The functions have `torch.nn.functional`'s names and meanings, the layers `torch.nn`'s.

What holds for all of them:

- Tensors are on the CPU, float32 or float64. The functions refuse others; the layers leave them to torch, as they do
  under autocast and while `torch.jit.trace` records.
- Gradients are computed for what requires them and no more.
- fastcnn has first derivatives in reverse mode. Where torch has to see the operations themselves (`create_graph=True`,
  forward mode, the transforms of `torch.func`, tracers, dispatch modes, subclasses of `Tensor`), a call is torch's own.
- `torch.compile` breaks its graph at each call and runs it as it is.
- Running statistics are updated in place, as torch does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("fastcnn.torch needs PyTorch: pip install 'fastcnn[torch]'", name="torch") from error

from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.autograd.graph import increment_version

from fastcnn import functional as F
from fastcnn.functional._checks import is_channels_last
from fastcnn.functional._types import Size

__all__ = [
    "Acceleration",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "accelerate",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "linear",
    "max_pool2d",
    "relu",
    "restore",
]

_FLOATS = (torch.float32, torch.float64)
_PLAIN = (Tensor, nn.Parameter)  # subclasses of these have ways of their own


# --- tensors and arrays ---------------------------------------------------------------------------------------------


def _tensors(**tensors: Tensor | None) -> None:
    """Check that the named arguments (None passes) are tensors whose memory the kernels can read."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            raise TypeError(f"{name}: expected a dense tensor on the CPU, got {tensor.layout} on {tensor.device}")
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name}: expected a tensor of float32 or float64, got {tensor.dtype}")


def _array(tensor: Tensor | None) -> Any:
    """The tensor's memory as an array; a copy only where its numbers are stored negated, as of an imaginary part."""
    return None if tensor is None else tensor.numpy(force=True)


def _tensor(array: np.ndarray | None) -> Any:
    return None if array is None else torch.from_numpy(array)


class _NoContext:
    """What stands in for autograd's context where no gradient will be asked for: it forgets what it is given."""

    __slots__ = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        pass

    mark_non_differentiable = save_for_backward

    def __setattr__(self, name: str, value: object) -> None:
        pass


# --- operations -----------------------------------------------------------------------------------------------------


class _Operation(Function):
    """A function of torch's and its first derivative, by fastcnn."""

    @staticmethod
    def by_torch(*arguments: Any) -> Any:
        """Torch's function, called with the arguments of `forward`."""
        raise NotImplementedError

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        """Return the gradients of the first arguments of `forward`, by fastcnn."""
        raise NotImplementedError

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        """Return the same by torch's operations, as functions of `grad_output` and of the saved tensors."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Any) -> tuple:
        if torch.compiler.is_dynamo_compiling():  # compiled autograd
            return torch.compiler.disable(_backward)(ctx, grad_output)
        return _backward(ctx, grad_output)


def _backward(ctx: Any, grad_output: Tensor) -> tuple:
    operation = ctx._forward_cls
    if (
        torch.is_grad_enabled()  # only with create_graph=True
        or _torch_watches(grad_output)
        or torch._C._functorch.is_legacy_batchedtensor(grad_output)  # is_grads_batched=True
        or grad_output.layout is not torch.strided
    ):
        with torch.autocast("cpu", enabled=False):
            grads = operation.gradients_by_torch(ctx, grad_output)
    else:
        grads = operation.gradients(ctx, grad_output)
    return *grads, *(None,) * (len(ctx.needs_input_grad) - len(grads))


def _torch_watches(*arguments: Any) -> bool:
    """Whether torch is to see operations of its own: forward mode, torch.func, tracers, dispatch modes, subclasses."""
    for argument in arguments:
        if type(argument) not in _PLAIN and isinstance(argument, Tensor):
            return True
    return (
        forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
    )


def _apply(operation: type[_Operation], *arguments: Any) -> Any:
    """Call an operation; while torch.compile traces, outside of its graph."""
    if torch.compiler.is_dynamo_compiling():
        return torch.compiler.disable(_apply)(operation, *arguments)
    if _torch_watches(*arguments):
        with torch.autocast("cpu", enabled=False):
            return operation.by_torch(*arguments)
    if torch.is_grad_enabled():
        return operation.apply(*arguments)
    return operation.forward(_NoContext(), *arguments)


def _differentiate(function: Callable, tensors: tuple, needs: tuple, grad_output: Tensor) -> tuple:
    """Return the gradients that are needed, by torch's autograd; differentiable where `create_graph` asks for it."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that a gradient stops at each of the tensors where one was computed from another.
        views = [tensor.view_as(tensor) for tensor in tensors]
        wanted = [view for view, needed in zip(views, needs, strict=True) if needed]
        grads = iter(torch.autograd.grad(function(*views), wanted, grad_output, create_graph=create_graph))
    return tuple(next(grads) if needed else None for needed in needs)


def _zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return what stands for a tensor that was not kept, as the output is linear in it."""
    return torch.zeros(size, dtype=dtype, device="cpu", requires_grad=True)


class _Convolution(_Operation):
    @staticmethod
    def forward(ctx: Any, input: Any, weight: Any, bias: Any, geometry: Any, name: Any) -> Any:
        ctx.save_for_backward(input, weight)
        ctx.geometry, ctx.name = geometry, name
        return _tensor(getattr(F, name)(_array(input), _array(weight), _array(bias), *geometry))

    @staticmethod
    def by_torch(input: Any, weight: Any, bias: Any, geometry: Any, name: Any) -> Any:
        return getattr(nn.functional, name)(input, weight, bias, *geometry)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight = map(_array, ctx.saved_tensors)
        backward = getattr(F, f"{ctx.name}_backward")
        grads = backward(_array(grad_output), input, weight, *ctx.geometry, needs=ctx.needs_input_grad[:3])
        return tuple(map(_tensor, grads))

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight = ctx.saved_tensors
        return _differentiate(
            lambda *tensors: _Convolution.by_torch(*tensors, ctx.geometry, ctx.name),
            (input, weight, _zeros(weight.shape[:1], weight.dtype)), ctx.needs_input_grad[:3], grad_output,
        )  # fmt: skip


class _Linear(_Operation):
    @staticmethod
    def forward(ctx: Any, input: Any, weight: Any, bias: Any) -> Any:
        ctx.save_for_backward(input, weight)
        return _tensor(F.linear(_array(input), _array(weight), _array(bias)))

    by_torch = staticmethod(nn.functional.linear)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight = map(_array, ctx.saved_tensors)
        grads = F.linear_backward(_array(grad_output), input, weight, needs=ctx.needs_input_grad)
        return tuple(map(_tensor, grads))

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight = ctx.saved_tensors
        tensors = input, weight, _zeros(weight.shape[:1], weight.dtype)
        return _differentiate(nn.functional.linear, tensors, ctx.needs_input_grad, grad_output)


class _MaxPool2d(_Operation):
    @staticmethod
    def forward(ctx: Any, input: Any, window: Any, return_indices: Any, backward_follows: Any) -> Any:
        if return_indices:
            output, marks = F.max_pool2d(_array(input), *window, return_indices=True)
        elif backward_follows:
            output, marks = F.max_pool2d_taps(_array(input), *window)
        else:
            return _tensor(F.max_pool2d(_array(input), *window))
        output, marks = _tensor(output), _tensor(marks)
        ctx.save_for_backward(marks)
        ctx.window, ctx.return_indices, ctx.size = window, return_indices, tuple(input.shape)
        if return_indices:
            ctx.mark_non_differentiable(marks)
            return output, marks
        return output

    @staticmethod
    def by_torch(input: Any, window: Any, return_indices: Any, backward_follows: Any) -> Any:
        return nn.functional.max_pool2d(input, *window, return_indices=return_indices)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        marks, grad_output = _array(*ctx.saved_tensors), _array(grad_output)
        if ctx.return_indices:
            return (_tensor(F.max_pool2d_backward(grad_output, marks, ctx.size)),)
        return (_tensor(F.max_pool2d_taps_backward(grad_output, marks, ctx.size, *ctx.window)),)

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        (indices,) = ctx.saved_tensors
        if not ctx.return_indices:
            indices = _indices_of_taps(indices, ctx.size[-1], ctx.window)
        pixels = *indices.shape[:-2], indices.shape[-2] * indices.shape[-1]
        planes = grad_output.new_zeros((*ctx.size[:-2], ctx.size[-2] * ctx.size[-1]))
        planes = planes.scatter_add(-1, indices.reshape(pixels), grad_output.reshape(pixels))
        return (planes.reshape(ctx.size),)


def _indices_of_taps(taps: Tensor, width: int, window: tuple) -> Tensor:
    """Return the indices in their plane that window indices stand for."""
    kernel_size, stride, padding, dilation, _ = window
    stride = kernel_size if stride is None else stride
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = (
        np.broadcast_to(v, 2).tolist() for v in (kernel_size, stride, padding, dilation)
    )
    taps = taps.long()
    rows = torch.arange(taps.shape[-2])[:, None] * sh - ph + taps // kw * dh
    return rows * width + torch.arange(taps.shape[-1]) * sw - pw + taps % kw * dw


def _in_order(array: np.ndarray, channels_last: bool) -> np.ndarray:
    """A gradient in the memory order of the input; strides say which even where it has but one pixel."""
    if array.ndim == 3:
        return array
    if not channels_last:
        return np.ascontiguousarray(array)
    n, c, h, w = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).reshape(-1).reshape(n, h, w, c).transpose(0, 3, 1, 2)


class _AvgPool2d(_Operation):
    @staticmethod
    def forward(ctx: Any, input: Any, window: Any) -> Any:
        input = _array(input)
        ctx.window, ctx.size = window, input.shape
        ctx.channels_last = input.ndim == 4 and is_channels_last(input)
        return _tensor(F.avg_pool2d(input, *window))

    @staticmethod
    def by_torch(input: Any, window: Any) -> Any:
        return nn.functional.avg_pool2d(input, *window)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        grad_output = _in_order(_array(grad_output), ctx.channels_last)
        return (_tensor(F.avg_pool2d_backward(grad_output, ctx.size, *ctx.window)),)

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        input = _zeros(ctx.size, grad_output.dtype)
        return _differentiate(
            lambda input: nn.functional.avg_pool2d(input, *ctx.window), (input,), (True,), grad_output
        )


class _AdaptiveAvgPool2d(_Operation):
    @staticmethod
    def forward(ctx: Any, input: Any, output_size: Any) -> Any:
        input = _array(input)
        ctx.size, ctx.channels_last = input.shape, input.ndim == 4 and is_channels_last(input)
        return _tensor(F.adaptive_avg_pool2d(input, output_size))

    by_torch = staticmethod(nn.functional.adaptive_avg_pool2d)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        grad_output = _in_order(_array(grad_output), ctx.channels_last)
        return (_tensor(F.adaptive_avg_pool2d_backward(grad_output, ctx.size)),)

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        input, output_size = _zeros(ctx.size, grad_output.dtype), grad_output.shape[-2:]
        return _differentiate(
            lambda input: nn.functional.adaptive_avg_pool2d(input, output_size), (input,), (True,), grad_output
        )


class _BatchNorm(_Operation):
    @staticmethod
    def forward(
        ctx: Any,
        input: Any,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        training: Any,
        momentum: Any,
        eps: Any,
    ) -> Any:
        output, mean, invstd = F.batch_norm(
            _array(input), _array(running_mean), _array(running_var), _array(weight), _array(bias),
            training, momentum, eps, return_saved=True,
        )  # fmt: skip
        if training and running_mean is not None:
            for statistic in (running_mean, running_var):  # autograd is to know that they changed
                if not statistic.is_inference():
                    increment_version(statistic)
        ctx.save_for_backward(input, weight, _tensor(mean), _tensor(invstd))
        ctx.training, ctx.eps = training, eps
        return _tensor(output)

    @staticmethod
    def by_torch(
        input: Any,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        training: Any,
        momentum: Any,
        eps: Any,
    ) -> Any:
        return nn.functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        saved, sums = [_array(tensor) for tensor in ctx.saved_tensors], None
        if not ctx.training and not any(ctx.needs_input_grad[1:3]):  # only those gradients need sums then
            sums = np.zeros((2, len(saved[2])))
        grads = F.batch_norm_backward(_array(grad_output), *saved, ctx.training, sums=sums)
        return tuple(
            _tensor(grad) if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)
        )

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        input, weight, mean, invstd = ctx.saved_tensors
        channels = (slice(None), *(None,) * (input.dim() - 2))

        def normalize(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            if ctx.training:
                return nn.functional.batch_norm(input, None, None, weight, bias, True, 0.0, ctx.eps)
            return (input - mean[channels]) * (invstd * weight)[channels] + bias[channels]

        tensors = input, torch.ones_like(mean) if weight is None else weight, _zeros(mean.shape, mean.dtype)
        return _differentiate(normalize, tensors, ctx.needs_input_grad[:3], grad_output)


class _ReLU(_Operation):
    @staticmethod
    def forward(ctx: Any, input: Any) -> Any:
        output = _tensor(F.relu(_array(input)))
        ctx.save_for_backward(output)
        return output

    by_torch = staticmethod(torch.relu)

    @staticmethod
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        return (_tensor(F.relu_backward(_array(grad_output), _array(*ctx.saved_tensors))),)

    @staticmethod
    def gradients_by_torch(ctx: Any, grad_output: Tensor) -> tuple:
        (output,) = ctx.saved_tensors
        return (torch.ops.aten.threshold_backward(grad_output, output, 0),)


# --- functions ------------------------------------------------------------------------------------------------------


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve a batch of sequences, as `torch.nn.functional.conv1d`.

    Parameters
    ----------
    input : Tensor of shape (N, C, L) or (C, L)
        float32 or float64, on the CPU.
    weight : Tensor of shape (O, C/groups, k)
    bias : Tensor of shape (O,), optional
    stride, dilation : int or tuple of one int
    padding : int, tuple of one int, 'same' or 'valid'
    groups : int

    Returns
    -------
    Tensor of shape (N, O, Lout) or (O, Lout)

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> weight = torch.tensor([[[0.3, 0.5]]], requires_grad=True)
    >>> output = fastcnn.torch.conv1d(torch.tensor([[[1.0, 2.0, 3.0]]]), weight)
    >>> output.backward(torch.tensor([[[-0.1, 0.2]]]))
    >>> output, weight.grad
    (tensor([[[1.3000, 2.1000]]], grad_fn=<_ConvolutionBackward>), tensor([[[0.3000, 0.4000]]]))
    """
    _tensors(input=input, weight=weight, bias=bias)
    geometry = stride, padding, dilation, groups
    return _apply(_Convolution, input, weight, bias, geometry, "conv1d")


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve a batch of images, as `torch.nn.functional.conv2d`.

    Parameters
    ----------
    input : Tensor of shape (N, C, H, W) or (C, H, W)
        float32 or float64, on the CPU.
    weight : Tensor of shape (O, C/groups, kh, kw)
    bias : Tensor of shape (O,), optional
    stride, dilation : int or pair of int
    padding : int, pair of int, 'same' or 'valid'
    groups : int

    Returns
    -------
    Tensor of shape (N, O, Hout, Wout) or (O, Hout, Wout)
        Channels-last where `input` or `weight` is, else contiguous.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> image = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> fastcnn.torch.conv2d(image, torch.ones(1, 1, 2, 2))
    tensor([[[[ 8., 12.],
              [20., 24.]]]])
    """
    _tensors(input=input, weight=weight, bias=bias)
    if input.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        input = input.contiguous(memory_format=torch.channels_last)
    geometry = stride, padding, dilation, groups
    return _apply(_Convolution, input, weight, bias, geometry, "conv2d")


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias, as `torch.nn.functional.linear`.

    Parameters
    ----------
    input : Tensor of shape (..., in_features)
        float32 or float64, on the CPU.
    weight : Tensor of shape (out_features, in_features)
    bias : Tensor of shape (out_features,), optional

    Returns
    -------
    Tensor of shape (..., out_features)

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or shape.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> fastcnn.torch.linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]))
    tensor([11.])
    """
    _tensors(input=input, weight=weight, bias=bias)
    return _apply(_Linear, input, weight, bias)


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...
@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Take the maximum of each window of an image, as `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    input : Tensor of shape (N, C, H, W) or (C, H, W)
        float32 or float64, on the CPU.
    kernel_size, dilation : int or pair of int
    stride : int or pair of int, optional
        `kernel_size` if not given.
    padding : int or pair of int
        At most half of `kernel_size`.
    ceil_mode : bool
        Keep last windows that overhang the edge, unless they would start in the padding there.
    return_indices : bool
        Return where each maximum was as well.

    Returns
    -------
    output : Tensor of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        In the memory format of `input`.
    indices : Tensor of int64, of the same shape
        Only with `return_indices`: place of the maximum in its plane. Without, where a backward pass may follow, one
        byte is kept for each output.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> fastcnn.torch.max_pool2d(torch.tensor([[[1.0, 5.0, 0.0], [3.0, 2.0, 4.0]]]), 2, stride=1)
    tensor([[[5., 5.]]])
    """
    _tensors(input=input)
    window = kernel_size, stride, padding, dilation, ceil_mode
    backward_follows = torch.is_grad_enabled() and input.requires_grad
    return _apply(_MaxPool2d, input, window, return_indices, backward_follows)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Take the mean of each window of an image, as `torch.nn.functional.avg_pool2d`.

    Parameters
    ----------
    input : Tensor of shape (N, C, H, W) or (C, H, W)
        float32 or float64, on the CPU.
    kernel_size : int or pair of int
    stride : int or pair of int, optional
        `kernel_size` if not given.
    padding : int or pair of int
        At most half of `kernel_size`.
    ceil_mode : bool
        Keep last windows that overhang the edge, unless they would start in the padding there.
    count_include_pad : bool
        Count the padding in what a sum is divided by.
    divisor_override : int, optional
        Divide every sum by this instead.

    Returns
    -------
    Tensor of shape (N, C, Hout, Wout) or (C, Hout, Wout)
        In the memory format of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> fastcnn.torch.avg_pool2d(torch.tensor([[[1.0, 5.0], [3.0, 2.0]]]), 2)
    tensor([[[2.7500]]])
    """
    _tensors(input=input)
    window = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    return _apply(_AvgPool2d, input, window)


def adaptive_avg_pool2d(input: Tensor, output_size: Size | tuple[int | None, int | None]) -> Tensor:
    """Take the means of windows that cover an image evenly, as `torch.nn.functional.adaptive_avg_pool2d`.

    Parameters
    ----------
    input : Tensor of shape (N, C, H, W) or (C, H, W)
        float32 or float64, on the CPU.
    output_size : int or pair of int or None
        Height and width of the output; None in a pair for the input's own.

    Returns
    -------
    Tensor of shape (N, C, height, width) or (C, height, width)
        In the memory format of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> fastcnn.torch.adaptive_avg_pool2d(torch.tensor([[[1.0, 5.0], [3.0, 2.0]]]), (2, 1))
    tensor([[[3.0000],
             [2.5000]]])
    """
    _tensors(input=input)
    return _apply(_AdaptiveAvgPool2d, input, output_size)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel, as `torch.nn.functional.batch_norm`.

    Parameters
    ----------
    input : Tensor of shape (N, C), (N, C, L) or (N, C, H, W)
        float32 or float64, on the CPU.
    running_mean, running_var : Tensor of shape (C,), or None
        The statistics used where `training` is False. Where it is True they are updated in place, or None.
    weight, bias : Tensor of shape (C,), optional
        1 and 0 if not given.
    training : bool
        Whether mean and (biased) variance are those of this batch.
    momentum : float
        Part of this batch in the updated running statistics.
    eps : float

    Returns
    -------
    Tensor
        Of the shape and memory format of `input`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, shape or range, or if training is asked for one value per channel.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> fastcnn.torch.batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True, eps=0)
    tensor([[-1.],
            [ 1.]])
    """
    _tensors(input=input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    return _apply(_BatchNorm, input, weight, bias, running_mean, running_var, training, momentum, eps)


def relu(input: Tensor) -> Tensor:
    """Return max(input, 0), as `torch.nn.functional.relu`.

    Parameters
    ----------
    input : Tensor of any shape
        float32 or float64, on the CPU.

    Returns
    -------
    Tensor
        Of the shape and memory format of `input`.

    Raises
    ------
    TypeError
        If `input` is not such a tensor.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> fastcnn.torch.relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    _tensors(input=input)
    return _apply(_ReLU, input)


# --- layers ---------------------------------------------------------------------------------------------------------


def _ours(*tensors: Tensor | None) -> bool:
    """Whether a layer with these tensors is fastcnn's to compute, now that it is called."""
    dtype = tensors[0].dtype if isinstance(tensors[0], Tensor) else None
    return (
        dtype in _FLOATS
        and all(
            t is None or (type(t) in _PLAIN and t.dtype is dtype and t.is_cpu and t.layout is torch.strided)
            for t in tensors
        )
        and not torch.is_autocast_enabled("cpu")
    )


class Conv1d(nn.Conv1d):
    """`torch.nn.Conv1d` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or not _ours(input, self.weight, self.bias):
            return super().forward(input)
        return conv1d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or not _ours(input, self.weight, self.bias):
            return super().forward(input)
        return conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Linear(nn.Linear):
    """`torch.nn.Linear` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias) if _ours(input, self.weight, self.bias) else super().forward(input)


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        if not _ours(input):
            return super().forward(input)
        window = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return max_pool2d(input, *window, self.return_indices)


class AvgPool2d(nn.AvgPool2d):
    """`torch.nn.AvgPool2d` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        if not _ours(input):
            return super().forward(input)
        rule = self.ceil_mode, self.count_include_pad, self.divisor_override
        return avg_pool2d(input, self.kernel_size, self.stride, self.padding, *rule)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        return adaptive_avg_pool2d(input, self.output_size) if _ours(input) else super().forward(input)


class _BatchNormForward:
    """The forward pass of both batch-norm layers; the bookkeeping is that of `torch.nn.modules.batchnorm`."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias, mean, var = self.weight, self.bias, self.running_mean, self.running_var
        if not _ours(input, weight, bias, mean, var):
            return super().forward(input)
        self._check_input_dim(input)
        momentum, training = self.momentum, self.training
        if training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        if training and not self.track_running_stats:
            mean = var = None
        return batch_norm(input, mean, var, weight, bias, training or mean is None, momentum or 0.0, self.eps)


class BatchNorm1d(_BatchNormForward, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over fastcnn."""


class BatchNorm2d(_BatchNormForward, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over fastcnn."""


class ReLU(nn.ReLU):
    """`torch.nn.ReLU` over fastcnn."""

    def forward(self, input: Tensor) -> Tensor:
        return relu(input) if not self.inplace and _ours(input) else super().forward(input)


_LAYERS = {
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.MaxPool2d: MaxPool2d,
    nn.AvgPool2d: AvgPool2d,
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.ReLU: ReLU,
}
_TORCH_LAYERS = {ours: theirs for theirs, ours in _LAYERS.items()}


# --- models ---------------------------------------------------------------------------------------------------------


def _refusal(module: nn.Module) -> str | None:
    """Why a layer stays torch's; None if fastcnn can take it."""
    kind = type(module)
    if kind not in _LAYERS:
        base = next((layer.__name__ for layer in _LAYERS if isinstance(module, layer)), None)
        return f"{kind.__name__} is a {base} with ways of its own" if base else f"fastcnn has no {kind.__name__}"
    if "forward" in vars(module):
        return "its forward has been replaced"
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if type(tensor) not in _PLAIN:
            return f"it holds a {type(tensor).__name__}"
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return f"it holds a tensor that is {tensor.layout} on {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
            return f"it holds a tensor of {tensor.dtype}"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding_mode is {module.padding_mode!r}"
    if getattr(module, "inplace", False):
        return "it works in place, where torch is as fast"
    return None


@dataclass
class Acceleration:
    """What `accelerate` did; printed, a line for each layer.

    Attributes
    ----------
    taken : dict of str to str
        Name and kind of each layer that fastcnn computes now.
    left : dict of str to str
        Name of each layer that stays torch's, and why. Containers are not listed.
    """

    taken: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    _modules: list[nn.Module] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Give back to torch the layers that this call of `accelerate` took."""
        for module in self._modules:
            _restore(module)

    def __str__(self) -> str:
        lines = [f"{len(self.taken)} layers by fastcnn, {len(self.left)} by torch"]
        lines += [f"  {name or '(the model)'}: {kind}" for name, kind in self.taken.items()]
        lines += [f"  {name or '(the model)'} stays torch's: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module) -> Acceleration:
    """Let fastcnn compute the layers of a model, in place.

    Each layer of a known kind gets fastcnn's class of the same name, a subclass of torch's own. Nothing else about it
    changes: parameters, buffers, hooks, names in the state dict and the training flag are the objects they were, and
    `isinstance`, `repr`, `copy.deepcopy` and pickling work as before (a pickled model needs fastcnn to be loaded; its
    state dict does not). A call that fastcnn cannot take (another device or type, autocast) is torch's, each time anew.

    Nothing is converted either. Channels-last models, `model.to(memory_format=torch.channels_last)`, are the faster
    ones, as they are with torch itself.

    Parameters
    ----------
    model : torch.nn.Module
        Its Conv1d, Conv2d, Linear, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, BatchNorm1d, BatchNorm2d and ReLU layers
        are taken; subclasses of them (parametrized, lazy or quantised layers among them) are not.

    Returns
    -------
    Acceleration
        Which layers were taken and which were not, and why; its `undo()` gives them back.

    Raises
    ------
    TypeError
        If `model` is not a module.

    See Also
    --------
    restore : undoes it for any model, copies and loaded ones included.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(inplace=True), torch.nn.Softmax(1))
    >>> print(fastcnn.torch.accelerate(model))
    1 layers by fastcnn, 2 by torch
      0: Conv2d
      1 stays torch's: it works in place, where torch is as fast
      2 stays torch's: fastcnn has no Softmax
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    done = Acceleration()
    for name, module in model.named_modules():
        kind = type(module)
        if kind in _TORCH_LAYERS:
            done.taken[name] = kind.__name__
            continue
        reason = _refusal(module)
        if reason is None:
            module.__class__ = _LAYERS[kind]
            done.taken[name] = kind.__name__
            done._modules.append(module)
        elif not any(module.children()):
            done.left[name] = reason
    return done


def restore(model: nn.Module) -> None:
    """Give every layer that fastcnn computes back to torch, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model after `accelerate`, or a copy of one.

    Raises
    ------
    TypeError
        If `model` is not a module.

    Examples
    --------
    >>> import torch, fastcnn.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    >>> _ = fastcnn.torch.accelerate(model)
    >>> fastcnn.torch.restore(model)
    >>> type(model[0]) is torch.nn.Linear
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        _restore(module)


def _restore(module: nn.Module) -> None:
    module.__class__ = _TORCH_LAYERS.get(type(module), type(module))

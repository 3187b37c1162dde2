"""Which neighbouring layers run as one: the one place that knows more than one kind of layer.

A pass over an activation costs as much as its convolution, and an array that only the next layer reads need not be.
`runs` looks at the layers of a `Sequential` and puts together

- batch norm, ReLU and a convolution: what is convolved is made where the convolution reads it, or a few images at a
  time, forward and backward,
- batch norm and ReLU,
- a residual sum whose body ends with batch norm, and ReLU,
- a convolution, ReLU and max-pool: what is pooled, and its gradient, are made a few images at a time,
- ReLU and max-pool, in this order,
- a linear layer and ReLU.

A run whose convolution is followed by batch norm takes that one's statistics as it makes its output, and the next run
asks for them.

Where no gradient is asked for, the layers are cut in another way: batch norm, a residual and ReLU go with the
convolution before them, which does them, by running statistics, to each row of places as it makes it.

Only layers of exactly these classes run as one, and only while no instance has a `forward` or `backward` of its own,
as within `watch`. `structure` tells when that must be looked at again. What is computed is the same at the precision
'highest', to the bit except for the gradients of a convolution's weight and bias, which may be summed in parts, and all
of its gradients before a max-pool, which may be summed over the places that won alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcnn import functional as F
from fastcnn.functional.fused import conv_size
from fastcnn.nn.activation import ReLU
from fastcnn.nn.conv import Conv2d
from fastcnn.nn.linear import Linear
from fastcnn.nn.module import Module, is_grad_enabled
from fastcnn.nn.norm import BatchNorm1d, BatchNorm2d
from fastcnn.nn.pooling import MaxPool2d

if TYPE_CHECKING:
    from fastcnn.nn.container import Residual

__all__ = ["Run", "runs"]

NORMS = (BatchNorm1d, BatchNorm2d)


def runs(layers: Sequence[Module], grads: bool = True) -> list[Module | Run]:
    """Cut the layers of a container into what runs as one: layers that run alone, and groups.

    Parameters
    ----------
    layers : sequence of Module
        In the order in which they run.
    grads : bool, default True
        Whether `backward` may follow.

    Returns
    -------
    list of Module or Run
        Called in this order, and `backward` in the opposite one, they do what the layers do.
    """
    from fastcnn.nn.container import Residual, Sequential  # they import this module

    found: list[Module | Run] = []
    rest = list(layers)
    while rest:
        kinds = [_kind(layer) for layer in rest[:4]] + [None] * 3
        maker = found[-1] if found and _makes_its_output(found[-1]) else None
        if not grads and kinds[:2] == [Conv2d, BatchNorm2d]:
            run: Module | Run = ConvNorm(rest[: 3 if kinds[2] is ReLU else 2])
        elif kinds[:3] == [BatchNorm2d, ReLU, Conv2d] and (grads or kinds[3] is not BatchNorm2d):
            run = NormConv(rest[:3])
        elif kinds[0] in NORMS and kinds[1] is ReLU and kinds[2] is not MaxPool2d:
            run = NormReLU(rest[:2], maker is not None)
        elif kinds[:2] == [Residual, ReLU] and _kind(rest[0].body) is Sequential and _ends_with_norm(rest[0].body):
            run = ResidualReLU(rest[0], rest[1])
        elif kinds[:3] == [Conv2d, ReLU, MaxPool2d]:
            run = ConvPool(rest[:3])
        elif kinds[:2] == [ReLU, MaxPool2d]:
            run = ReLUPool(rest[:2])
        elif kinds[:2] == [Linear, ReLU]:
            run = LinearReLU(rest[:2])
        else:
            run = rest[0]
        if type(run) in (NormConv, NormReLU) and type(maker) is NormConv:
            run.source = maker.serves(run.norm)
        found.append(run)
        rest = rest[len(run.layers) if isinstance(run, Run) else 1 :]
    return found


def _kind(layer: Module) -> type | None:
    """The class of a layer, or None if the instance has a `forward` or `backward` of its own."""
    own = layer.__dict__
    return None if "forward" in own or "backward" in own else type(layer)


def _makes_its_output(run: Module | Run) -> bool:
    """Whether the output, and the gradient of the input, are new arrays that nothing else refers to."""
    return type(run) is NormConv or (isinstance(run, Module) and _kind(run) is Conv2d)


def _ends_with_norm(body: Module) -> bool:
    layers = list(body.children())
    return len(layers) > 1 and _kind(layers[-1]) in NORMS


class Run:
    """Layers that run as one.

    Parameters
    ----------
    layers : sequence of Module
        The layers it stands for.
    """

    source: NormConv | None = None  # what makes the input, if it takes the statistics of it that batch norm here needs

    def __init__(self, layers: Sequence[Module]) -> None:
        self.layers = tuple(layers)
        self._saved: Any = None

    def __call__(self, input: np.ndarray) -> np.ndarray:
        """Return what the last layer makes of `input`."""
        grads = is_grad_enabled()
        output, saved = self.forward(input, grads)
        if grads:
            for layer in self.layers:
                layer.__dict__["_saved"] = None
            self._saved = saved
        return output

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Return the gradient of what was given last; see `Module.backward`."""
        if self._saved is None:  # they did not run, which the last of them says
            grad: np.ndarray | None = grad_output
            for layer in reversed(self.layers):
                grad = layer.backward(grad)
            return grad
        return self.gradient(grad_output)

    def saved(self) -> tuple[Any, ...]:
        """Return what `forward` gave for `gradient`, and let go of it."""
        saved, self._saved = self._saved, None
        return saved

    def statistics(self, input: np.ndarray) -> np.ndarray | None:
        """Return mean and variance of the input's channels if they are known."""
        return None if self.source is None or not self.source.hands_on() else self.source.known(input)

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        """Return the output, and what `gradient` will find in `saved` where `grads` may be asked for."""
        raise NotImplementedError

    def gradient(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Add to the gradients of the parameters and return the input's."""
        raise NotImplementedError


class NormReLU(Run):
    """Batch norm and ReLU. Whether ReLU lets a gradient through is computed again.

    Where what comes before made the input and keeps nothing of it, its memory serves for the output or the gradient.
    """

    def __init__(self, layers: Sequence[Module], owned: bool) -> None:
        super().__init__(layers)
        self.norm, self.owned = layers[0], owned

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        (mean, invstd, scale, shift), from_batch = self.norm.factors(input, self.statistics(input))
        out = input if self.owned and not grads else None
        output = F.batch_norm_apply(input, mean, scale, shift, relu=True, out=out)
        return output, ((input, mean, invstd, from_batch), (scale, shift))

    def gradient(self, grad_output: np.ndarray) -> np.ndarray:
        saved, mask = self.saved()
        out = saved[0] if self.owned else None
        return self.norm.gradients(grad_output, *saved, relu=mask, out=out)[0]


class NormConv(Run):
    """Batch norm, ReLU and a convolution. What is convolved is not kept, but made again.

    Where another batch norm comes next, its statistics are taken as the output is made, and kept here for it.
    """

    def __init__(self, layers: Sequence[Module]) -> None:
        super().__init__(layers)
        self.norm, _, self.conv = layers
        self.next: Module | None = None
        self._known: tuple[np.ndarray, np.ndarray] | None = None

    def serves(self, norm: Module) -> NormConv:
        """Say which batch norm comes next; return self."""
        self.next = norm
        return self

    def hands_on(self) -> bool:
        """Whether the statistics of the output are those that the next batch norm takes."""
        return self.next is not None and (self.next.training or not self.next.track_running_stats)

    def known(self, output: np.ndarray) -> np.ndarray | None:
        """Return the statistics of what `forward` made last, if that is it, and let go of both."""
        known, self._known = self._known, None
        return known[1] if known is not None and known[0] is output else None

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        (mean, invstd, scale, shift), from_batch = self.norm.factors(input, self.statistics(input))
        weight, bias = self.conv.weight.data, None if self.conv.bias is None else self.conv.bias.data
        arguments = input, mean, scale, shift, weight, bias, *self.conv._geometry()
        saved = (input, mean, invstd, from_batch), (scale, shift)
        if not self.hands_on():
            return F.norm_conv2d(*arguments, relu=True), saved
        output, statistics = F.norm_conv2d(*arguments, relu=True, statistics=True)
        self._known = output, statistics
        return output, saved

    def gradient(self, grad_output: np.ndarray) -> np.ndarray:
        saved, mask = self.saved()
        conv, (input, mean, _, _) = self.conv, saved
        grad, grad_weight, grad_bias, sums = F.norm_conv2d_backward(
            grad_output,
            input,
            mean,
            *mask,
            conv.weight.data,
            *conv._geometry(),
            relu=True,
            needs=(True, True, conv.bias is not None),
            sums=True,
        )
        conv.weight.accumulate(grad_weight)
        if conv.bias is not None:
            conv.bias.accumulate(grad_bias)
        return self.norm.gradients(grad, *saved, relu=mask, sums=sums, out=grad)[0]


class ConvNorm(Run):
    """A convolution, batch norm and perhaps ReLU, where no gradient is asked for."""

    def __init__(self, layers: Sequence[Module]) -> None:
        super().__init__(layers)
        self.conv, self.norm, self.relu = layers[0], layers[1], len(layers) > 2

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        return self.output(input, None, self.relu), None

    def size(self, input: np.ndarray) -> tuple[int, ...]:
        """Return the shape of what `output` makes of the input."""
        return conv_size(input, self.conv.weight.data, self.conv._geometry())

    def output(self, input: np.ndarray, residual: np.ndarray | None, relu: bool) -> np.ndarray:
        """Return the sum of what the norm makes and the residual, behind ReLU where that is wanted."""
        conv, norm = self.conv, self.norm
        weight, bias = conv.weight.data, None if conv.bias is None else conv.bias.data
        geometry = conv._geometry()
        if norm.training or not norm.track_running_stats:  # the factors are those of what the convolution makes
            made = F.conv2d(input, weight, bias, *geometry)
            (mean, _, scale, shift), _ = norm.factors(made)
            return F.batch_norm_apply(made, mean, scale, shift, residual=residual, relu=relu, out=made)
        like = np.empty((1, conv.out_channels, 1, 1), weight.dtype)  # of the output, all that the norm looks at
        (mean, _, scale, shift), _ = norm.factors(like)
        return F.conv2d_norm(input, weight, bias, mean, scale, shift, *geometry, residual=residual, relu=relu)


class ResidualReLU(Run):
    """A residual sum whose body ends with batch norm, and ReLU. Where its output is 0, no gradient goes through."""

    def __init__(self, residual: Residual, relu: Module) -> None:
        self.residual = residual
        *first, self.norm = residual.body.children()
        self.first = runs(first)
        if type(self.first[-1]) is NormConv:
            self.source = self.first[-1].serves(self.norm)
        self.owned = _makes_its_output(self.first[-1])
        # The first layer's gradient is a new array, to which the other branch's may be added.
        self.adds = _makes_its_output(self.first[0])
        # Without gradients: what comes before the convolution that does the rest, and that one.
        self.before = runs(first[:-1], grads=False)
        self.last = None
        if (_kind(first[-1]), type(self.norm)) == (Conv2d, BatchNorm2d):
            self.last = ConvNorm((first[-1], self.norm))
        super().__init__((residual, relu))

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        made = input
        if self.last is not None and not grads:
            for run in self.before:
                made = run(made)
            other = self.residual.shortcut_of(input, self.last.size(made))
            return self.last.output(made, other, True), None
        for run in self.first:
            made = run(made)
        (mean, invstd, scale, shift), from_batch = self.norm.factors(made, self.statistics(made))
        other = self.residual.shortcut_of(input, made.shape)
        out = made if self.owned and not grads else None
        output = F.batch_norm_apply(made, mean, scale, shift, residual=other, relu=True, out=out)
        return output, (output, (made, mean, invstd, from_batch))

    def gradient(self, grad_output: np.ndarray) -> np.ndarray | None:
        output, saved = self.saved()
        out = saved[0] if self.owned else None
        grad, other = self.norm.gradients(grad_output, *saved, relu=output, return_masked=True, out=out)
        del output, saved, out  # what is not needed any more should not wait for the end
        for run in reversed(self.first):
            grad = run.backward(grad)
        if self.residual.shortcut is not None:
            other = self.residual.shortcut.backward(other)
        if not self.residual.needs_input_grad:
            return None
        return F.add(grad, other, out=grad if self.adds else None)


class ReLUPool(Run):
    """ReLU and max-pool. A window whose maximum is not above 0 has no tap that a gradient goes to."""

    def __init__(self, layers: Sequence[Module]) -> None:
        super().__init__(layers)
        self.pool = layers[1]

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        output, taps = F.max_pool2d_taps(input, *self.pool._geometry(), relu=True)
        return output, (input.shape, taps)

    def gradient(self, grad_output: np.ndarray) -> np.ndarray:
        shape, taps = self.saved()
        return F.max_pool2d_taps_backward(grad_output, taps, shape, *self.pool._geometry(), relu=True)


class ConvPool(Run):
    """A convolution, ReLU and max-pool. What is between them is not kept, nor its gradient ever whole."""

    def __init__(self, layers: Sequence[Module]) -> None:
        super().__init__(layers)
        self.conv, _, self.pool = layers

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        conv, bias = self.conv, self.conv.bias
        output, taps = F.conv2d_max_pool(
            input,
            conv.weight.data,
            None if bias is None else bias.data,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            pool=self.pool._geometry(),
            relu=True,
            taps=grads,
        )
        return output, (input, taps)

    def gradient(self, grad_output: np.ndarray) -> np.ndarray | None:
        input, taps = self.saved()
        conv, weight, bias = self.conv, self.conv.weight, self.conv.bias
        grads = F.conv2d_max_pool_backward(
            grad_output,
            taps,
            input,
            weight.data,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            pool=self.pool._geometry(),
            relu=True,
            needs=(conv.needs_input_grad, True, bias is not None),
            out=(None, weight.grad_memory(), None if bias is None else bias.grad_memory()),
        )
        weight.accumulate(grads[1])
        if bias is not None:
            bias.accumulate(grads[2])
        return grads[0]


class LinearReLU(Run):
    """A linear layer and ReLU. Where its output is 0, no gradient goes through."""

    def __init__(self, layers: Sequence[Module]) -> None:
        super().__init__(layers)
        self.linear = layers[0]

    def forward(self, input: np.ndarray, grads: bool) -> tuple[np.ndarray, Any]:
        weight, bias = self.linear.weight, self.linear.bias
        output = F.linear(input, weight.data, None if bias is None else bias.data, relu=True)
        return output, (input, output)

    def gradient(self, grad_output: np.ndarray) -> np.ndarray | None:
        input, output = self.saved()
        weight, bias = self.linear.weight, self.linear.bias
        needs = (self.linear.needs_input_grad, True, bias is not None)
        out = (None, weight.grad_memory(), None if bias is None else bias.grad_memory())
        grads = F.linear_backward(grad_output, input, weight.data, relu=output, needs=needs, out=out)
        weight.accumulate(grads[1])
        if bias is not None:
            bias.accumulate(grads[2])
        return grads[0]

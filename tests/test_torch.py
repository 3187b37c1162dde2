"""The bridge for PyTorch: each operation against torch's own, gradients against finite differences, whole models."""

import copy
import doctest
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from windows import geometries  # noqa: E402

import fastcnn.torch as ft  # noqa: E402

# torch on even kernels: that it copies; and on switching oneDNN off: that there is no Intel GPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration"),
]

FORMATS = [torch.contiguous_format, torch.channels_last]
formats = st.sampled_from(FORMATS)


def normal(*size, dtype=torch.float32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size)).to(dtype)


def in_format(tensor, memory_format):
    return tensor.contiguous(memory_format=memory_format) if tensor.dim() == 4 else tensor


def close(got, want, terms=1e-3):
    """Equal up to float32's rounding of sums of a few thousand terms that may cancel, as large as `terms`."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    scale = float(want.detach().abs().max()) if want.numel() else 0.0
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * max(scale, terms))


def agree(ours, theirs, *tensors, memory_format=torch.contiguous_format, terms=1e-3):
    """Outputs and gradients of two functions of the same tensors, which are copied; formats are kept."""
    sides = []
    for function in (ours, theirs):
        copies = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
        output = function(*copies)
        grad_output = in_format(normal(*output.shape, dtype=output.dtype, seed=9), memory_format)
        sides.append((output, *torch.autograd.grad(output, copies, grad_output)))
    for got, want in zip(*sides, strict=True):
        close(got, want, terms)
    if tensors[0].dim() == 4 and min(tensors[0].shape) > 0 and tensors[0].shape[1] > 1 < tensors[0][0, 0].numel():
        for tensor in sides[0][:2]:
            assert tensor.is_contiguous(memory_format=memory_format)


# --- drawn geometries -----------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw, dims=2, fewest=0, largest=12, most=40):
    """Sizes of input and weight, whether there is a bias, and the keyword arguments."""
    kernel, stride, padding, dilation, size = draw(geometries(dims, largest))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 9]))
    inputs, outputs = (draw(st.integers(1, most if groups == 1 else 4)) for _ in range(2))
    if draw(st.integers(0, 4)) == 0:
        groups, inputs, outputs = draw(st.integers(2, 20)), 1, 1
    if draw(st.integers(0, 5)) == 0:
        padding, stride = draw(st.sampled_from(["same", "valid"])), (1,) * dims
        size = tuple(max(n, d * (k - 1) + 1) for n, d, k in zip(size, dilation, kernel, strict=True))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    n = draw(st.integers(fewest, 3))
    return (n, groups * inputs, *size), (groups * outputs, inputs, *kernel), draw(st.booleans()), arguments


@st.composite
def pools(draw, largest=12, dilated=True):
    """Size of the input, and the keyword arguments of a pooling window that fits it."""
    kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, most)] * 2)) for most in (4, 5, 3 if dilated else 1))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(draw(st.integers(n, max(n, largest))) for n in least)
    arguments = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    if dilated:
        arguments["dilation"] = dilation
    return (draw(st.integers(0, 3)), draw(st.integers(1, 20)), *size), arguments


def torch_conv2d(*tensors, **arguments):
    """torch's own kernels: oneDNN of torch 2.13 reads beyond its arrays for some (channels-last, grouped, dilated)."""
    with torch.backends.mkldnn.flags(enabled=False):
        return nn.functional.conv2d(*tensors, **arguments)


@settings(max_examples=300)
@given(convolutions(), formats, formats)
def test_conv2d_agrees_with_torch(case, memory_format, weight_format):
    size, kernel, bias, arguments = case
    x, weight = in_format(normal(*size), memory_format), in_format(normal(*kernel, seed=1), weight_format)
    if not weight.is_contiguous():
        memory_format = torch.channels_last
    tensors = (x, weight, normal(kernel[0], seed=2)) if bias else (x, weight)
    agree(
        lambda *t: ft.conv2d(*t, **arguments), lambda *t: torch_conv2d(*t, **arguments), *tensors,
        memory_format=memory_format,
    )  # fmt: skip


@settings(max_examples=100)
@given(convolutions(dims=1))
def test_conv1d_agrees_with_torch(case):
    size, kernel, bias, arguments = case
    tensors = (normal(*size), normal(*kernel, seed=1), *([normal(kernel[0], seed=2)] if bias else []))
    agree(lambda *t: ft.conv1d(*t, **arguments), lambda *t: nn.functional.conv1d(*t, **arguments), *tensors)


@settings(max_examples=200)
@given(pools(), formats)
def test_max_pool2d_agrees_with_torch(case, memory_format):
    size, arguments = case
    x = in_format(normal(*size), memory_format)
    agree(
        lambda x: ft.max_pool2d(x, **arguments), lambda x: nn.functional.max_pool2d(x, **arguments), x,
        memory_format=memory_format,
    )  # fmt: skip
    both = [module.max_pool2d(x, return_indices=True, **arguments) for module in (ft, nn.functional)]
    assert torch.equal(both[0][1], both[1][1])
    agree(
        lambda x: ft.max_pool2d(x, return_indices=True, **arguments)[0],
        lambda x: nn.functional.max_pool2d(x, **arguments), x, memory_format=memory_format,
    )  # fmt: skip


@settings(max_examples=200)
@given(pools(dilated=False), formats, st.booleans(), st.sampled_from([None, None, 3, -2]))
def test_avg_pool2d_agrees_with_torch(case, memory_format, count_include_pad, divisor_override):
    size, arguments = case
    arguments |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    x = in_format(normal(*size), memory_format)
    agree(
        lambda x: ft.avg_pool2d(x, **arguments), lambda x: nn.functional.avg_pool2d(x, **arguments), x,
        memory_format=memory_format,
    )  # fmt: skip


@settings(max_examples=100)
@given(st.tuples(*map(st.integers, (0, 1, 1, 1), (3, 20, 9, 9))), formats, st.sampled_from([1, 3, (2, 5), (None, 1)]))
def test_adaptive_avg_pool2d_agrees_with_torch(size, memory_format, output_size):
    x = in_format(normal(*size), memory_format)
    agree(
        lambda x: ft.adaptive_avg_pool2d(x, output_size), lambda x: nn.functional.adaptive_avg_pool2d(x, output_size),
        x, memory_format=memory_format,
    )  # fmt: skip


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    formats, st.booleans(), st.booleans(), st.floats(0, 1),
)  # fmt: skip
def test_batch_norm_agrees_with_torch(size, memory_format, training, affine, momentum):
    size[0] += 1
    x = in_format(normal(*size) + 3, memory_format)
    affine = (normal(size[1], seed=1), normal(size[1], seed=2)) if affine else ()
    running = [(normal(size[1], seed=3), normal(size[1], seed=4).abs() + 0.5) for _ in range(2)]
    agree(
        lambda x, *a: ft.batch_norm(x, *running[0], *(a or (None, None)), training, momentum, 1e-3),
        lambda x, *a: nn.functional.batch_norm(x, *running[1], *(a or (None, None)), training, momentum, 1e-3),
        x, *affine, memory_format=memory_format, terms=1,  # of two values, the gradient is what is left of 1 - 1
    )  # fmt: skip
    for got, want in zip(*running, strict=True):
        close(got, want)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), max_size=4), formats)
def test_relu_agrees_with_torch(size, memory_format):
    agree(ft.relu, nn.functional.relu, in_format(normal(*size), memory_format), memory_format=memory_format)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 5), max_size=3), st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_linear_agrees_with_torch(leading, features, outputs, bias):
    tensors = [
        normal(*leading, features),
        normal(outputs, features, seed=1),
        *([normal(outputs, seed=2)] if bias else []),
    ]
    # With one output or one image a whole gradient may be a single sum of products that cancel.
    agree(ft.linear, nn.functional.linear, *tensors, terms=1)


# --- gradients in float64 against finite differences -----------------------------------------------------------------


def gradcheck(function, *tensors):
    assert torch.autograd.gradcheck(function, [t.detach().requires_grad_() for t in tensors])


def double(*size, seed=0, memory_format=torch.contiguous_format):
    return in_format(normal(*size, dtype=torch.float64, seed=seed), memory_format)


def separate(*size, memory_format=torch.contiguous_format):
    """Values so far apart that a small step changes no maximum and no sign."""
    values = torch.arange(1.0, 1 + int(np.prod(size)), dtype=torch.float64)
    signs = torch.where(torch.arange(len(values)) % 3 == 0, -1.0, 1.0)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(values)))
    return in_format((values * signs)[order].reshape(size), memory_format)


@settings(max_examples=50)
@given(convolutions(fewest=1, largest=5, most=3), formats)
def test_conv2d_gradcheck(case, memory_format):
    size, kernel, bias, arguments = case
    bias = [double(kernel[0], seed=2)] if bias else []
    x = double(*size, memory_format=memory_format)
    gradcheck(lambda *t: ft.conv2d(*t, **arguments), x, double(*kernel, seed=1), *bias)


@settings(max_examples=25)
@given(convolutions(dims=1, fewest=1, largest=6, most=3))
def test_conv1d_gradcheck(case):
    size, kernel, bias, arguments = case
    bias = [double(kernel[0], seed=2)] if bias else []
    gradcheck(lambda *t: ft.conv1d(*t, **arguments), double(*size), double(*kernel, seed=1), *bias)


@settings(max_examples=25)
@given(pools(largest=6), formats)
def test_pooling_gradcheck(case, memory_format):
    (n, c, *size), arguments = case
    x = separate(max(n, 1), min(c, 3), *size, memory_format=memory_format)
    gradcheck(lambda x: ft.max_pool2d(x, **arguments), x)
    gradcheck(lambda x: ft.max_pool2d(x, return_indices=True, **arguments)[0], x)
    arguments.pop("dilation")
    gradcheck(lambda x: ft.avg_pool2d(x, **arguments, count_include_pad=False), x)
    gradcheck(lambda x: ft.adaptive_avg_pool2d(x, (2, 3)), x)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(4, 3), (3, 2, 4), (3, 2, 3, 4)])
def test_batch_norm_gradcheck(size, training, memory_format):
    x, weight, bias = double(*size, memory_format=memory_format), double(size[1], seed=1), double(size[1], seed=2)
    running = (None, None) if training else (double(size[1], seed=3), double(size[1], seed=4).abs() + 1)
    gradcheck(lambda x, w, b: ft.batch_norm(x, *running, w, b, training), x, weight, bias)
    gradcheck(lambda x: ft.batch_norm(x, *running, None, None, training), x)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_element_wise_and_linear_gradcheck(memory_format):
    gradcheck(ft.relu, separate(2, 3, 4, 5, memory_format=memory_format))
    gradcheck(ft.linear, double(3, 2, 5), double(4, 5, seed=1), double(4, seed=2))
    gradcheck(ft.linear, double(5), double(4, 5, seed=1))


# --- autograd -------------------------------------------------------------------------------------------------------

X, W, B = normal(2, 4, 6, 6), normal(3, 4, 3, 3, seed=1), normal(3, seed=2)
ONES = torch.ones(4)
CALLS = {
    "conv1d": lambda x: ft.conv1d(x[:, :, 0], W[:, :, 0]),
    "conv2d": lambda x: ft.conv2d(x, W, B),
    "linear": lambda x: ft.linear(x, normal(5, 6)),
    "max_pool2d": lambda x: ft.max_pool2d(x, 2),
    "avg_pool2d": lambda x: ft.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: ft.adaptive_avg_pool2d(x, 2),
    "batch_norm": lambda x: ft.batch_norm(x, None, None, training=True),
    "relu": ft.relu,
}


@pytest.mark.parametrize("name", CALLS)
def test_without_gradient(name):
    expected = CALLS[name](X)
    assert not expected.requires_grad
    x = X.clone().requires_grad_()
    recorded = CALLS[name](x)
    assert recorded.requires_grad
    assert torch.equal(recorded, expected)
    with torch.no_grad():
        assert not CALLS[name](x).requires_grad
        assert torch.equal(CALLS[name](x), expected)
    with torch.inference_mode():
        assert CALLS[name](x).is_inference()
        assert torch.equal(CALLS[name](x.clone()), expected)


# Small tensors of double, and a call of each function in `module`, ours or torch's.
IMAGES, STATISTICS = double(2, 4, 5, 5), (double(4, seed=3), double(4, seed=4).abs() + 1)
AFFINE = double(4, seed=5), double(4, seed=6)
DIFFERENTIATED = {
    "conv1d": ((IMAGES[0], double(3, 5, 3, seed=1), double(3, seed=2)), lambda m, *t: m.conv1d(*t, stride=2)),
    "conv2d": ((IMAGES, double(3, 4, 3, 3, seed=1), double(3, seed=2)), lambda m, *t: m.conv2d(*t, padding=1)),
    "conv2d grouped": ((IMAGES, double(4, 2, 2, 2, seed=1)), lambda m, *t: m.conv2d(*t, stride=2, groups=2)),
    "conv2d channels-last": (
        (in_format(IMAGES, torch.channels_last), double(3, 4, 3, 3, seed=1)),
        lambda m, *t: m.conv2d(*t, padding="same"),
    ),
    "linear": ((IMAGES[0], double(3, 5, seed=1), double(3, seed=2)), lambda m, *t: m.linear(*t)),
    "linear without bias": ((IMAGES[0, 0], double(3, 5, seed=1)), lambda m, *t: m.linear(*t)),
    "max_pool2d": ((IMAGES,), lambda m, x: m.max_pool2d(x, 2)),
    "max_pool2d dilated": ((IMAGES,), lambda m, x: m.max_pool2d(x, (2, 3), (1, 2), (1, 1), (3, 2), True)),
    "max_pool2d indices": ((IMAGES[0],), lambda m, x: m.max_pool2d(x, 3, 2, 1, return_indices=True)[0]),
    "avg_pool2d": ((IMAGES,), lambda m, x: m.avg_pool2d(x, 3, 2, 1, True, False)),
    "adaptive_avg_pool2d": ((IMAGES,), lambda m, x: m.adaptive_avg_pool2d(x, (3, None))),
    "batch_norm": ((IMAGES, *AFFINE), lambda m, x, *a: m.batch_norm(x, None, None, *a, True)),
    "batch_norm plain": ((IMAGES,), lambda m, x: m.batch_norm(x, None, None, training=True, eps=0.1)),
    "batch_norm eval": ((IMAGES, *AFFINE), lambda m, x, *a: m.batch_norm(x, *STATISTICS, *a)),
    "batch_norm eval plain": ((IMAGES[:, :, 0],), lambda m, x: m.batch_norm(x, *STATISTICS, eps=0.1)),
    "relu": ((IMAGES,), lambda m, x: m.relu(x)),
}
differentiated = pytest.mark.parametrize("case", DIFFERENTIATED.values(), ids=DIFFERENTIATED)


def leaves(*values):
    """The tensors in tuples, lists and dictionaries of them."""
    return torch.utils._pytree.tree_leaves(values)


def same_as_torch(case, derivative):
    """`derivative` of one of `DIFFERENTIATED`, ours beside torch's."""
    tensors, call = case
    sides = []
    for module in (ft, nn.functional):
        copies = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
        sides.append(leaves(derivative(lambda *t, m=module: call(m, *t), *copies)))
    for got, want in zip(*sides, strict=True):
        if want is None:  # nothing depends on it
            assert got is None or not got.any()
        else:
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def second_derivatives(function, *tensors):
    """Of a gradient of each tensor alone and of all: the derivatives by every tensor and by grad_output."""
    results = []
    for chosen in [[t] for t in tensors] + [list(tensors)]:
        for grad_needed in (False, True):
            output = function(*tensors) ** 2
            grad_output = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
            grad_output.requires_grad_(grad_needed)
            grads = torch.autograd.grad(output, chosen, grad_output, create_graph=True)
            again = [*tensors, grad_output] if grad_needed else tensors
            total = sum((grad * grad.detach().cos()).sum() for grad in grads)
            results.append((grads, torch.autograd.grad(total, again, allow_unused=True)))
    return results


@differentiated
def test_second_derivatives(case):
    same_as_torch(case, second_derivatives)


@differentiated
def test_third_derivative(case):
    def third(function, x, *others):
        (first,) = torch.autograd.grad((function(x, *others) ** 3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), x, create_graph=True)
        return torch.autograd.grad((second**2).sum(), (x, *others), allow_unused=True)

    if any(case is DIFFERENTIATED[name] for name in ("batch_norm", "batch_norm plain")):
        with pytest.raises(RuntimeError, match="does not support 3rd"):  # nor does torch's
            third(lambda *t: case[1](ft, *t), *(t.clone().requires_grad_() for t in case[0]))
    else:
        same_as_torch(case, third)


@differentiated
def test_second_derivatives_by_differences(case):
    tensors, call = case
    x = separate(*tensors[0].shape) / 10
    tensors = [t.clone().requires_grad_() for t in (x, *tensors[1:])]
    assert torch.autograd.gradgradcheck(lambda *t: call(ft, *t), tensors)


def cubed(function):
    return lambda *tensors: (function(*tensors) ** 3).sum()


def every(tensors):
    return tuple(range(len(tensors)))


def tangents(tensors):
    return tuple(t.detach().cos() for t in tensors)


def dual(function, *tensors):
    """Forward mode without a gradient to record, as in `torch.no_grad`."""
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        duals = [
            torch.autograd.forward_ad.make_dual(t.detach(), v) for t, v in zip(tensors, tangents(tensors), strict=True)
        ]
        return tuple(torch.autograd.forward_ad.unpack_dual(function(*duals)))


def dual_gradient(function, *tensors):
    """The derivative of a gradient along a tangent of grad_output."""
    output = function(*tensors)
    with torch.autograd.forward_ad.dual_level():
        grad_output = torch.autograd.forward_ad.make_dual(output.detach().sin(), output.detach().cos())
        grads = torch.autograd.grad(output, tensors, grad_output)
        return [tuple(torch.autograd.forward_ad.unpack_dual(grad)) for grad in grads]


def batched_gradient(function, *tensors):
    output = function(*tensors)
    grad_outputs = torch.linspace(-1, 1, 2 * output.numel(), dtype=output.dtype).reshape(2, *output.shape)
    return torch.autograd.grad(output, tensors, grad_outputs, is_grads_batched=True)


def batched(function, x, *others):
    return torch.func.vmap(function, (0, *(None for _ in others)))(torch.stack([x, -x]), *others)


AF, TF = torch.autograd.functional, torch.func
TRANSFORMS = {
    "hessian": lambda f, *t: AF.hessian(cubed(f), t),
    "hessian vectorized": lambda f, *t: AF.hessian(cubed(f), t, vectorize=True),
    "jacobian": lambda f, *t: AF.jacobian(f, t, vectorize=True),
    "hvp": lambda f, *t: AF.hvp(cubed(f), t, tangents(t)),
    "vhp": lambda f, *t: AF.vhp(cubed(f), t, tangents(t)),
    "jvp": lambda f, *t: AF.jvp(f, t, tangents(t)),
    "func.grad": lambda f, *t: TF.grad(cubed(f), every(t))(*t),
    "func.vjp": lambda f, *t: TF.vjp(f, *t)[1](torch.ones_like(f(*t))),
    "func.jvp": lambda f, *t: TF.jvp(f, t, tangents(t)),
    "func.jacrev": lambda f, *t: TF.jacrev(f, every(t))(*t),
    "func.jacfwd": lambda f, *t: TF.jacfwd(f, every(t))(*t),
    "func.hessian": lambda f, *t: TF.hessian(cubed(f), every(t))(*t),
    "vmap": batched,
    "vmap of grad": lambda f, *t: batched(TF.grad(cubed(f), every(t)), *t),
    "forward mode": dual,
    "forward mode through backward": dual_gradient,
    "batched grad_output": batched_gradient,
}


@pytest.mark.filterwarnings("ignore")  # torch's own, where a batching rule is a loop, or as it loads its forward mode
@pytest.mark.parametrize("transform", TRANSFORMS)
@differentiated
def test_transforms(case, transform):
    same_as_torch(case, TRANSFORMS[transform])


def test_gradient_stops_at_each_argument():
    """Where one argument was computed from another, or is another, each has its own part."""
    for derived in (torch.sin, lambda x: x):

        def twice(function, x, derived=derived):
            weight = derived(x)
            (grad,) = torch.autograd.grad((function(x, weight, weight[0]) ** 3).sum(), x, create_graph=True)
            return grad, torch.autograd.grad((grad**2).sum(), x)

        same_as_torch(((double(4, 4),), lambda m, *t: m.linear(*t)), lambda f, x: twice(f, x))


def penalised(model, x):
    """The gradients of a loss with a gradient penalty."""
    x = x.clone().requires_grad_()
    score = model(x)
    (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    loss = score.mean() + 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_penalty_of_a_model(training):
    plain = resnet().double().train(training)
    model = copy.deepcopy(plain)
    ft.accelerate(model)
    x = INPUTS.double()
    want = penalised(plain, x)
    checkpointed = nn.Sequential(model)
    checkpointed.forward = lambda x: torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    for network in (model, checkpointed):
        torch.testing.assert_close(penalised(network, x), want, rtol=1e-7, atol=1e-9)
    with torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(penalised(model, x), want, rtol=1e-7, atol=1e-9)


def test_per_sample_gradients_of_a_model():
    plain = resnet().double().eval()
    model = copy.deepcopy(plain)
    ft.accelerate(model)

    def gradients(model):
        def loss(parameters, image, target):
            output = torch.func.functional_call(model, parameters, (image[None],))
            return nn.functional.cross_entropy(output, target[None])

        parameters = dict(model.named_parameters())
        return torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, INPUTS.double(), TARGETS)

    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-9, atol=1e-9)


class Tagged(torch.Tensor):
    """A subclass that is to survive."""


@pytest.mark.filterwarnings("ignore")  # that jit.trace is deprecated
@differentiated
def test_what_watches_operations_sees_torchs(case):
    tensors, call = case
    want = call(nn.functional, *tensors)
    sum_of = lambda *t: call(ft, *t) + 1  # noqa: E731
    others = [t.flip(0) for t in tensors]
    for trace in (torch.jit.trace(sum_of, tensors), make_fx(sum_of)(*tensors)):
        close(trace(*others), call(nn.functional, *others) + 1)
    tagged = [t.as_subclass(Tagged) for t in tensors]
    assert type(call(ft, *tagged)) is Tagged
    close(call(ft, *tagged).as_subclass(torch.Tensor), want)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = call(ft, *map(mode.from_tensor, tensors))
    assert type(fake) is torch._subclasses.FakeTensor
    assert fake.shape == want.shape
    counts = []
    for module in (ft, nn.functional):
        copies = [t.clone().requires_grad_() for t in tensors]
        with FlopCounterMode(display=False) as counter:
            call(module, *copies).sum()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


@differentiated
def test_backward_again(case):
    """With retain_graph the same gradients again, and those with a graph of their own have the same values."""
    tensors, call = case
    tensors = [t.clone().requires_grad_() for t in tensors]
    output = call(ft, *tensors)
    grad_output = torch.sin(output.detach())
    first = torch.autograd.grad(output, tensors, grad_output, retain_graph=True)
    assert all(not grad.requires_grad for grad in first)
    for expanded in (grad_output, grad_output.transpose(-1, -2).contiguous().transpose(-1, -2)):
        torch.testing.assert_close(torch.autograd.grad(output, tensors, expanded, retain_graph=True), first)
    torch.testing.assert_close(torch.autograd.grad(output, tensors, grad_output, create_graph=True), first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(torch.autograd.grad(output, tensors, grad_output, create_graph=True), first)
    ones = torch.autograd.grad(output, tensors, torch.ones_like(output), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(output.sum(), tensors), ones)  # a gradient with strides of 0


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "avg_pool2d", "batch_norm eval", "relu"])
def test_second_derivatives_of_nothing(name):
    tensors, call = DIFFERENTIATED[name]
    same_as_torch(((tensors[0][:0], *tensors[1:]), call), second_derivatives)


NEEDING = {
    "conv1d": ((X[:, :, 0], W[:, :, 0], B), lambda *t: ft.conv1d(*t)),
    "conv2d": ((X, W, B), lambda *t: ft.conv2d(*t)),
    "linear": ((X, normal(5, 6, seed=1), normal(5, seed=2)), lambda *t: ft.linear(*t)),
}
NEEDS = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]


@pytest.mark.parametrize("needed", NEEDS)
@pytest.mark.parametrize("name", NEEDING)
def test_only_the_gradients_that_are_needed(name, needed, monkeypatch):
    tensors, call = NEEDING[name]
    made = []
    backward = getattr(ft.F, f"{name}_backward")

    def watched(*args, **options):
        made.append(backward(*args, **options))
        return made[-1]

    monkeypatch.setattr(ft.F, f"{name}_backward", watched)
    tensors = [t.clone().requires_grad_(bool(n)) for t, n in zip(tensors, needed, strict=True)]
    call(*tensors).sum().backward()
    assert [[grad is not None for grad in grads] for grads in made] == [list(map(bool, needed))]
    assert [t.grad is not None for t in tensors] == list(map(bool, needed))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("needed", NEEDS)
def test_batch_norm_takes_sums_only_for_the_gradients_that_need_them(needed, training, monkeypatch):
    taken = []
    backward = ft.F.batch_norm_backward

    def watched(*args, sums=None):
        taken.append(sums is None)
        return backward(*args, sums=sums)

    monkeypatch.setattr(ft.F, "batch_norm_backward", watched)
    statistics = (None, None) if training else (normal(4, seed=3), normal(4, seed=4).abs() + 1)
    sides = []
    for every_gradient in (False, True):
        tensors = [
            t.clone().requires_grad_(bool(n) or every_gradient) for t, n in zip((X, ONES, ONES), needed, strict=True)
        ]
        (ft.batch_norm(tensors[0], *statistics, *tensors[1:], training) ** 2).sum().backward()
        sides.append([t.grad for t in tensors])
    assert taken == [training or needed != (1, 0, 0), True]
    for grad, want, n in zip(*sides, needed, strict=True):
        assert torch.equal(grad, want) if n else grad is None


def test_no_backward_runs_where_nothing_needs_a_gradient(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError

    for name in dir(ft.F):
        if name.endswith("_backward"):
            monkeypatch.setattr(ft.F, name, refuse)
    bias = torch.ones((), requires_grad=True)
    for name, call in CALLS.items():
        (call(X) * bias).sum().backward()
        assert bias.grad is not None, name


def test_tensors_of_any_layout():
    x, weight = normal(4, 9, 8, 12), normal(3, 4, 5, 5)
    views = [x[::2, ::2, 1:, ::3][:, :4], x.transpose(2, 3)[:, 1:5], x[:1, :4].expand(3, 4, 8, 12), x[:0, :4]]
    for view in [*views, x[0, :4], torch.imag(torch.conj(torch.complex(x, x)))[:, :4]]:
        for kernel in (weight[..., :3, :3], weight.transpose(2, 3)[..., ::2, ::2]):
            agree(lambda x, w: ft.conv2d(x, w, padding=1), lambda x, w: nn.functional.conv2d(x, w, padding=1),
                  view, kernel, memory_format=torch.preserve_format) if view.dim() == 3 else close(
                  ft.conv2d(view, kernel, padding=1), nn.functional.conv2d(view, kernel, padding=1))  # fmt: skip
        close(ft.relu(view), torch.relu(view))
        close(ft.max_pool2d(view, 2), nn.functional.max_pool2d(view, 2))


def test_nothing_is_copied():
    for memory_format in FORMATS:
        x = in_format(X, memory_format)
        assert ft._array(x).__array_interface__["data"][0] == x.data_ptr()
        output = ft.relu(x)
        assert output.numpy().base is not None
        assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("given", FORMATS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_of_means_have_the_format_of_the_input(memory_format, given):
    """Whatever format the gradient of the output comes in; `x.grad` would hide it."""
    x = in_format(normal(2, 4, 6, 8), memory_format).requires_grad_()
    for function in (lambda x: ft.avg_pool2d(x, 2), lambda x: ft.adaptive_avg_pool2d(x, (3, 4))):
        output = function(x)
        (grad,) = torch.autograd.grad(output, x, in_format(normal(*output.shape), given))
        assert grad.is_contiguous(memory_format=memory_format)
        (expected,) = torch.autograd.grad(nn.functional.avg_pool2d(x, 2), x, normal(*output.shape))
        close(grad, expected)


def test_changes_in_place_are_noticed():
    weight = W.clone().requires_grad_()
    output = ft.conv2d(X, weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
    mean, var = torch.zeros(4), torch.ones(4)
    ft.batch_norm(X, mean, var, training=True)
    assert mean._version == var._version == 1


WRONG = [
    (lambda: ft.conv2d(X.numpy(), W), TypeError, "input: expected a tensor, got ndarray"),
    (lambda: ft.conv2d(X, W.half()), TypeError, r"weight: expected a tensor of float32 or float64, got torch.float16"),
    (lambda: ft.conv2d(X, W.double()), TypeError, "weight: expected float32 as input, got float64"),
    (lambda: ft.conv2d(X, W.to("meta")), TypeError, "weight: expected a dense tensor on the CPU, got torch.strided on"),
    (lambda: ft.conv2d(X.to_sparse(), W), TypeError, "input: expected a dense tensor on the CPU, got torch.sparse_coo"),
    (lambda: ft.conv2d(X, W, None, 0), ValueError, "stride: expected a positive int, got 0"),
    (lambda: ft.conv2d(X, W, torch.ones(4)), ValueError, r"bias: expected shape \(3,\), got \(4,\)"),
    (lambda: ft.max_pool2d(X.long(), 2), TypeError, "input: expected a tensor of float32 or float64, got torch.int64"),
    (lambda: ft.max_pool2d(X, 2, padding=2), ValueError, "padding: expected at most half of kernel_size"),
    (lambda: ft.avg_pool2d(X, 9), ValueError, "kernel_size: expected a window that fits"),
    (lambda: ft.batch_norm(X, None, None), ValueError, "running_mean: expected an array, as training is False"),
    (lambda: ft.linear(X, None), TypeError, "weight: expected a NumPy array"),
    (lambda: ft.relu([1.0]), TypeError, "input: expected a tensor, got list"),
    (lambda: ft.accelerate(X), TypeError, "model: expected a torch.nn.Module, got Tensor"),
    (lambda: ft.restore(None), TypeError, "model: expected a torch.nn.Module, got NoneType"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_failed_call_leaves_the_running_statistics():
    mean, var = torch.zeros(4), torch.ones(4)
    with pytest.raises(ValueError, match="eps"):
        ft.batch_norm(X, mean, var, training=True, eps=-1)
    assert not mean.any()
    assert mean._version == 0


# --- models ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


def resnet(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.MaxPool2d(2),
        Block(8, 8, 1), Block(8, 16, 2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Dropout(0.0), nn.Linear(12, 5),
    ).to(memory_format=memory_format)  # fmt: skip


INPUTS, TARGETS = normal(6, 3, 16, 16), torch.tensor([0, 4, 2, 1, 3, 0])


def losses(model, steps=6, inputs=INPUTS):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), TARGETS)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def same_state(a, b):
    for (name, got), (other, want) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_accelerated_training_follows_torch(memory_format):
    theirs, ours = resnet(memory_format), resnet(memory_format)
    before = {name: id(tensor) for name, tensor in [*ours.named_parameters(), *ours.named_buffers()]}
    ft.accelerate(ours)
    assert before == {name: id(tensor) for name, tensor in [*ours.named_parameters(), *ours.named_buffers()]}
    inputs = in_format(INPUTS, memory_format)
    np.testing.assert_allclose(losses(ours, inputs=inputs), losses(theirs, inputs=inputs), rtol=1e-4)
    same_state(ours, theirs)
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-3, atol=1e-4)


def test_training_in_double_follows_torch():
    theirs, ours = resnet().double(), resnet().double()
    ft.accelerate(ours)
    np.testing.assert_allclose(losses(ours, inputs=INPUTS.double()), losses(theirs, inputs=INPUTS.double()), rtol=1e-9)


def test_channels_last_stays_in_every_layer():
    model, seen = resnet(torch.channels_last), []
    ft.accelerate(model)

    def look(module, inputs, output):
        if output.dim() == 4:
            seen.append(output.is_contiguous(memory_format=torch.channels_last))
            output.register_hook(lambda grad: seen.append(grad.is_contiguous(memory_format=torch.channels_last)))

    for module in model.modules():
        module.register_forward_hook(look)
    model(INPUTS).sum().backward()  # from a contiguous input: the weights decide, as in torch
    assert len(seen) > 30
    assert all(seen)


def test_what_is_taken_and_undone():
    model = resnet()
    kinds = [type(module) for module in model.modules()]
    text = repr(model)
    done = ft.accelerate(model)
    assert repr(model) == text
    assert done.taken["0"] == "Conv2d"
    assert done.taken["5.shortcut.1"] == "BatchNorm2d"
    assert done.left == {"4.shortcut": "fastcnn has no Sequential", "8": "fastcnn has no Flatten",
                         "11": "fastcnn has no Dropout"}  # fmt: skip
    assert type(model[0]) is ft.Conv2d
    assert isinstance(model[0], nn.Conv2d)
    again = ft.accelerate(model)
    assert again.taken == done.taken
    again.undo()  # it took nothing itself
    assert type(model[0]) is ft.Conv2d
    done.undo()
    assert [type(module) for module in model.modules()] == kinds
    ft.accelerate(model)
    ft.restore(model)
    assert [type(module) for module in model.modules()] == kinds
    layer = nn.Linear(2, 3)
    assert str(ft.accelerate(layer)) == "1 layers by fastcnn, 0 by torch\n  (the model): Linear"
    ft.restore(layer)
    assert type(layer) is nn.Linear


class OwnConv(nn.Conv2d):
    pass


def replaced_forward():
    layer = nn.ReLU()
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(1, 1, 3, padding_mode="reflect"), "padding_mode is 'reflect'"),
        (nn.Conv2d(1, 1, 3).half(), "it holds a tensor of torch.float16"),
        (nn.Conv2d(1, 1, 3, device="meta"), "it holds a tensor that is torch.strided on meta"),
        (nn.LazyConv2d(1, 3), "LazyConv2d is a Conv2d with ways of its own"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "ParametrizedLinear is a Linear with ways of its own"),
        (OwnConv(1, 1, 3), "OwnConv is a Conv2d with ways of its own"),
        (replaced_forward(), "its forward has been replaced"),
        (nn.ReLU(inplace=True), "it works in place, where torch is as fast"),
        (nn.Conv3d(1, 1, 3), "fastcnn has no Conv3d"),
    ],
)
def test_what_stays_torchs(layer, reason):
    kind = type(layer)
    done = ft.accelerate(nn.ModuleList([layer]))
    assert not done.taken
    assert type(layer) is kind
    if not any(layer.children()):
        assert done.left == {"0": reason}


def test_calls_that_stay_torchs():
    """A layer that was taken leaves to torch each call that fastcnn has no way for."""
    layers = {
        "conv2d": nn.Conv2d(4, 3, 3), "bn": nn.BatchNorm2d(4), "relu": nn.ReLU(), "linear": nn.Linear(6, 2),
        "max": nn.MaxPool2d(2), "avg": nn.AvgPool2d(2), "adaptive": nn.AdaptiveAvgPool2d(1),
        "conv1d": nn.Conv1d(6, 2, 3),
    }  # fmt: skip
    for name, layer in layers.items():
        x = X[:, 0] if name == "conv1d" else X
        plain = copy.deepcopy(layer)
        assert ft.accelerate(layer).taken == {"": type(plain).__name__}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(x), plain(x))
        assert torch.equal(layer.to(torch.bfloat16)(x.bfloat16()), plain.to(torch.bfloat16)(x.bfloat16()))
        assert layer.to("meta")(x.bfloat16().to("meta")).is_meta
    mixed = nn.Conv2d(4, 3, 3).double()
    ft.accelerate(mixed)
    with pytest.raises(RuntimeError):  # torch's own words
        mixed(X)


def test_a_relu_in_place_stays_in_place():
    """`accelerate` leaves it to torch; fastcnn's own class, or an attribute set later, must too."""
    x = normal(2, 4, 3, 3)
    expected = torch.relu(x)
    layer = ft.ReLU(inplace=True)
    assert layer(x).data_ptr() == x.data_ptr()
    assert torch.equal(x, expected)


def test_hooks_run_and_stay():
    model, seen = resnet(), []
    handles = [
        model[0].register_forward_pre_hook(lambda m, i: seen.append("before")),
        model[0].register_forward_hook(lambda m, i, o: o * 2),
        model[1].register_full_backward_hook(lambda m, gi, go: seen.append("backward")),
        model[0].weight.register_hook(lambda g: seen.append("weight")),
    ]
    want = model(INPUTS)
    ft.accelerate(model)
    seen.clear()
    got = model(INPUTS)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    got.sum().backward()
    assert sorted(seen) == ["backward", "before", "weight"]
    ft.restore(model)
    assert len(model[0]._forward_hooks) == 1
    for handle in handles:
        handle.remove()


def test_copies_and_pickles():
    model = resnet()
    ft.accelerate(model)
    expected = model.eval()(INPUTS)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):
        assert type(other[0]) is ft.Conv2d
        assert not other.training
        assert torch.equal(other(INPUTS), expected)
        ft.restore(other)
        assert type(other[0]) is nn.Conv2d
    assert type(model[0]) is ft.Conv2d
    plain = resnet()
    plain.load_state_dict(model.state_dict())
    assert list(plain.state_dict()) == list(model.state_dict())


def test_shared_layers_and_train_flag():
    relu = nn.ReLU()
    model = nn.Sequential(nn.BatchNorm2d(4), relu, nn.Conv2d(4, 4, 1), relu).eval()
    ft.accelerate(model)
    assert model[1] is model[3]
    assert not model[0].training
    model.train()(X)
    assert model[0].num_batches_tracked == 1


def test_batch_norm_without_statistics_or_weights():
    for options in ({"track_running_stats": False}, {"affine": False}, {"momentum": None}):
        plain = nn.BatchNorm2d(4, **options)
        layer = copy.deepcopy(plain)
        ft.accelerate(layer)
        for _ in range(3):
            close(layer(X), plain(X))
        close(layer.eval()(X), plain.eval()(X))
    with pytest.raises(ValueError, match="4D input"):
        layer(X[0])


@pytest.mark.filterwarnings("ignore")
def test_compile_breaks_its_graph():
    torch.compiler.reset()
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 5)
    plain = nn.Sequential(*layers)
    model = copy.deepcopy(plain)
    assert len(ft.accelerate(model).taken) == 4
    compiled = torch.compile(model, backend="aot_eager")
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-4)
    x = X.clone().requires_grad_()
    torch.compile(lambda x: ft.max_pool2d(x * 2, 2).sin(), backend="aot_eager")(x).sum().backward()
    want = torch.autograd.grad(nn.functional.max_pool2d(x * 2, 2).sin().sum(), x)[0]
    close(x.grad, want)
    with torch.no_grad():
        close(compiled.eval()(INPUTS), plain.eval()(INPUTS))
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
def test_compiled_second_derivatives_and_transforms():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()).eval()
    model = copy.deepcopy(plain)
    ft.accelerate(model)
    x = INPUTS[:2, :, :6, :6]
    torch.compiler.reset()
    got = penalised(torch.compile(model, backend="aot_eager"), x)
    torch.testing.assert_close(got, penalised(plain, x), rtol=1e-4, atol=1e-5)
    for transform in (lambda f: torch.func.vmap(lambda x: f(x[None])), lambda f: torch.func.grad(cubed(f))):
        close(torch.compile(transform(model), backend="aot_eager")(x), transform(plain)(x))
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        (model(x) ** 2).sum().backward()
    (plain(x) ** 2).sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        close(ours.grad, theirs.grad)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
def test_tracers_see_torchs_layers():
    model = resnet().eval()
    want = model(INPUTS)
    ft.accelerate(model)
    for traced in (torch.jit.trace(model, INPUTS), torch.export.export(model, (INPUTS,)).module()):
        torch.testing.assert_close(traced(INPUTS), want, rtol=1e-4, atol=1e-4)


def test_checkpointing():
    model, plain = resnet(), resnet()
    ft.accelerate(model)
    for network in (model, plain):
        x = INPUTS.clone().requires_grad_()
        torch.utils.checkpoint.checkpoint_sequential(network, 3, x, use_reentrant=False).sum().backward()
    for got, want in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-4)


def test_without_torch_the_error_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\ntry: import fastcnn.torch\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "fastcnn.torch needs PyTorch: pip install 'fastcnn[torch]'\n"


PAGE = Path(__file__).parents[1] / "docs" / "torch.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the page is not part of an installed package")
def test_the_page_is_true():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted >= 5
    assert result.failed == 0

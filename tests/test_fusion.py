"""Neighbouring layers that run as one: against the layers one by one, and what must not change by it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from layouts import normal
from windows import in_order

from fastcnn import functional as F
from fastcnn import models, nn, optim, random
from fastcnn.functional import fused
from fastcnn.nn import fusion
from fastcnn.training import Trainer

every_order = pytest.mark.parametrize("order", ["NCHW", "NHWC"])
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(autouse=True)
def _seed():
    random.manual_seed(0)


def conv(c, o, kernel=3, **options):
    return nn.Conv2d(c, o, kernel, padding=kernel // 2, bias=False, **options)


def plain_block(**options):
    body = nn.Sequential(conv(4, 4, **options), nn.BatchNorm2d(4, **options))
    return nn.Sequential(nn.Residual(body), nn.ReLU())


def shortcut_block(**options):
    body = nn.Sequential(nn.Tanh(), nn.BatchNorm2d(4, **options))
    return nn.Sequential(nn.Residual(body, conv(4, 4, 1, **options)), nn.ReLU())


NETWORKS = {
    "norm, relu": lambda **o: nn.Sequential(nn.BatchNorm2d(4, **o), nn.ReLU()),
    "norm without weight, relu": lambda **o: nn.Sequential(nn.BatchNorm2d(4, affine=False, **o), nn.ReLU()),
    "norm of its batches, relu": lambda **o: nn.Sequential(
        nn.BatchNorm2d(4, track_running_stats=False, **o), nn.ReLU()
    ),
    "conv, norm, relu": lambda **o: nn.Sequential(conv(4, 8, **o), nn.BatchNorm2d(8, **o), nn.ReLU()),
    "conv, norm of its batches, relu": lambda **o: nn.Sequential(
        conv(4, 8, **o), nn.BatchNorm2d(8, track_running_stats=False, **o), nn.ReLU()
    ),
    "norm, relu, conv": lambda **o: nn.Sequential(
        nn.BatchNorm2d(4, momentum=None, **o), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, (1, 0), groups=2, **o)
    ),
    "conv, norm, relu, conv, norm, relu": lambda **o: nn.Sequential(
        conv(4, 8, **o), nn.BatchNorm2d(8, **o), nn.ReLU(), conv(8, 4, 1, **o), nn.BatchNorm2d(4, **o), nn.ReLU()
    ),
    "conv, relu, pool": lambda **o: nn.Sequential(nn.Conv2d(4, 8, 3, **o), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "conv, relu, pool of little": lambda **o: nn.Sequential(
        nn.Conv2d(4, 6, 3, padding="valid", bias=False, **o), nn.ReLU(), nn.MaxPool2d(2, 1)
    ),
    "linear, relu": lambda **o: nn.Sequential(nn.AdaptiveAvgPool2d((3, 5)), nn.Linear(5, 6, **o), nn.ReLU()),
    "linear without bias, relu": lambda **o: nn.Sequential(
        nn.AdaptiveAvgPool2d((3, 5)), nn.Linear(5, 6, bias=False, **o), nn.ReLU()
    ),
    "norm, relu, pool": lambda **o: nn.Sequential(nn.BatchNorm2d(4, **o), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
    "depthwise conv, norm, conv, norm, relu": lambda **o: nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, **o), nn.BatchNorm2d(4, **o), conv(4, 6, **o), nn.BatchNorm2d(6, **o), nn.ReLU()
    ),
    "residual": plain_block,
    "residual with a shortcut": shortcut_block,
    "block": lambda **o: models.BasicBlock(4, 4, **o),
    "block that downsamples": lambda **o: models.BasicBlock(4, 8, 2, **o),
}


def bits(arrays):
    return [(array.shape, np.ascontiguousarray(array).tobytes()) for array in arrays]


def one_by_one(model):
    """A context in which every layer runs alone, as its forward is not its class's."""
    return nn.watch(model, lambda name, layer, output: None)


def passes(model, x, dy, train=True):
    """Output, gradients and buffers of two passes forward and backward."""
    model.train(train)
    found = []
    for _ in range(2):
        model.zero_grad()
        output = model(x)
        found += [output.copy(), model.backward(dy).copy(), *(p.grad.copy() for p in model.parameters())]
    return found + [array.copy() for array in model.buffers()]


def away_from_the_start(model):
    """Give the parameters of batch norm values other than ones and zeros."""
    for number, parameter in enumerate(model.parameters()):
        if parameter.data.ndim == 1:
            parameter.data = normal(parameter.shape, parameter.dtype, number)
    return model


def grouped(model):
    return any(isinstance(run, fusion.Run) for m in model.modules() for run in getattr(m, "_runs", list)()) or any(
        isinstance(run, fusion.Run) for run in model._whole._runs()
    )


# --- the same results -----------------------------------------------------------------------------------------------


@every_dtype
@every_order
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_to_the_bit(name, train, order, dtype, threads):
    model = away_from_the_start(NETWORKS[name](dtype=dtype))
    assert grouped(model)
    x = in_order(normal((6, 4, 9, 8), dtype), order)
    with nn.no_grad():
        dy = in_order(normal(model(x).shape, dtype, 1), order)
    other, kept = copy.deepcopy(model), x.copy()
    results = []
    for count in (1, 3):
        threads(count)
        results.append(passes(copy.deepcopy(model), x, dy, train))
    with one_by_one(other):
        expected = passes(other, x, dy, train)
    assert bits(results[0]) == bits(results[1]) == bits(expected)
    assert bits([x]) == bits([kept])


@every_order
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_without_gradients(name, train, order):
    model = away_from_the_start(NETWORKS[name]()).train(train)
    x = in_order(normal((6, 4, 9, 8), np.float32), order)
    with one_by_one(model):
        expected = model(x)
    with nn.no_grad():
        assert bits([model(x)]) == bits([expected])
    assert bits([model(x)]) == bits([expected])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_of_what_is_not_finite(name):
    model, x = away_from_the_start(NETWORKS[name]()), normal((4, 4, 8, 8), np.float32)
    with nn.no_grad():
        dy = normal(model(x).shape, np.float32, 1)
    x[0, 1, 2, 3], x[1, 2, 0, 0], x[2, 2, 7, 7], dy[1, 0, 1, 1], dy[2, 3, 0, 0] = (
        np.nan,
        np.inf,
        -np.inf,
        np.inf,
        np.nan,
    )
    other = copy.deepcopy(model)
    with np.errstate(all="ignore"):
        got = passes(model, x, dy, train=False)
        with one_by_one(other):
            expected = passes(other, x, dy, train=False)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@every_order
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_in_several_parts(name, order, monkeypatch):
    """But for the rounding of sums that are taken in parts."""
    monkeypatch.setattr(fused, "PART", 2000)
    model = away_from_the_start(NETWORKS[name]())
    x = in_order(normal((7, 4, 9, 8), np.float32), order)
    with nn.no_grad():
        dy = in_order(normal(model(x).shape, np.float32, 1), order)
    other = copy.deepcopy(model)
    got = passes(model, x, dy)
    with one_by_one(other):
        expected = passes(other, x, dy)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@every_order
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name, order):
    model = away_from_the_start(NETWORKS[name](dtype=np.float64))
    assert nn.gradcheck(model, in_order(normal((2, 4, 5, 4)), order))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_batch(name):
    model = NETWORKS[name]()
    output = model(np.zeros((0, 4, 8, 8), np.float32))
    assert output.shape[0] == 0
    assert model.backward(output).shape == (0, 4, 8, 8)


@pytest.mark.parametrize("build", [models.lenet5, models.resnet20, models.vgg_small, models.digits_cnn])
def test_the_same_losses(build):
    size = {models.lenet5: (1, 28, 28), models.digits_cnn: (1, 8, 8)}.get(build, (3, 32, 32))
    rng = np.random.default_rng(1)
    batches = [(rng.standard_normal((8, *size), np.float32), rng.integers(0, 10, 8)) for _ in range(3)]
    losses = []
    for apart in (False, True):
        random.manual_seed(0)
        model = build(rng=np.random.default_rng(0))
        trainer = Trainer(model, optim.SGD(model.parameters(), 0.01, 0.9))
        if apart:
            with one_by_one(model):
                losses.append([trainer.step(*batch) for batch in batches])
        else:
            losses.append([trainer.step(*batch) for batch in batches])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert len(set(losses[0])) == 3


# --- which layers ---------------------------------------------------------------------------------------------------


class OwnReLU(nn.ReLU):
    def forward(self, input):
        return super().forward(input) + 1


class OwnSequential(nn.Sequential):
    pass


def kinds(*layers, grads=True):
    return [type(run).__name__ for run in fusion.runs(layers, grads)]


def test_what_runs_as_one():
    norm, relu, pool = nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    body = nn.Sequential(conv(4, 4), nn.BatchNorm2d(4))
    assert kinds(conv(4, 4), norm, relu) == ["Conv2d", "NormReLU"]
    assert kinds(nn.Linear(4, 4), nn.BatchNorm1d(4), relu) == ["Linear", "NormReLU"]
    assert kinds(conv(4, 4), norm, relu, conv(4, 4), nn.BatchNorm2d(4)) == ["Conv2d", "NormConv", "BatchNorm2d"]
    assert kinds(conv(4, 4), norm, relu, pool) == ["Conv2d", "BatchNorm2d", "ReLUPool"]
    assert kinds(conv(4, 4), relu, pool, conv(4, 4), relu) == ["ConvPool", "Conv2d", "ReLU"]
    assert kinds(nn.Residual(body), relu, relu) == ["ResidualReLU", "ReLU"]
    assert kinds(nn.Residual(conv(4, 4)), nn.ReLU()) == ["Residual", "ReLU"]
    assert kinds(nn.Residual(OwnSequential(conv(4, 4), norm)), relu) == ["Residual", "ReLU"]
    assert kinds(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), OwnReLU()) == ["LinearReLU", "Linear", "OwnReLU"]
    assert kinds(norm, OwnReLU()) == ["BatchNorm2d", "OwnReLU"]
    assert kinds(norm, OwnReLU(), pool) == ["BatchNorm2d", "OwnReLU", "MaxPool2d"]
    assert kinds(relu, nn.MaxPool1d(2)) == ["ReLU", "MaxPool1d"]
    assert kinds() == []


def test_what_runs_as_one_without_gradients():
    norm, relu, pool = nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    body = nn.Sequential(conv(4, 4), norm)
    assert kinds(conv(4, 4), norm, relu, pool, grads=False) == ["ConvNorm", "MaxPool2d"]
    assert kinds(conv(4, 4), norm, conv(4, 4), nn.BatchNorm2d(4), grads=False) == ["ConvNorm", "ConvNorm"]
    assert kinds(norm, relu, conv(4, 4), relu, grads=False) == ["NormConv", "ReLU"]
    assert kinds(norm, relu, conv(4, 4), norm, relu, grads=False) == ["NormReLU", "ConvNorm"]
    assert kinds(nn.Residual(body), relu, relu, grads=False) == ["ResidualReLU", "ReLU"]
    assert kinds(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), relu, grads=False) == ["Conv1d", "NormReLU"]
    assert kinds(conv(4, 4), norm, OwnReLU(), grads=False) == ["ConvNorm", "OwnReLU"]


def test_a_layer_of_ones_own_runs():
    model = nn.Sequential(nn.BatchNorm2d(2), OwnReLU())
    assert model(normal((2, 2, 3, 3), np.float32)).min() == 1


@pytest.mark.parametrize("place", range(4))
def test_a_method_put_in_a_layers_place_is_called(place):
    model = nn.Sequential(conv(2, 2), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 2), nn.BatchNorm2d(2), nn.ReLU())
    x, called = normal((2, 2, 4, 4), np.float32), []
    layer = model[place]
    forward, backward = layer.forward, layer.backward
    layer.forward = lambda input: called.append("forward") or forward(input)
    layer.backward = lambda grad: called.append("backward") or backward(grad)
    grads = model.backward(model(x))
    assert called == ["forward", "backward"]
    del layer.forward, layer.backward
    assert bits([model.backward(model(x))]) == bits([grads])


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("method", ["forward", "backward"])
def test_one_method_put_in_a_layers_place_is_called(method, place):
    model = nn.Sequential(conv(2, 2), nn.BatchNorm2d(2), nn.ReLU(), conv(2, 2), nn.BatchNorm2d(2), nn.ReLU())
    x, called = normal((2, 2, 4, 4), np.float32), []
    own = getattr(model[place], method)
    setattr(model[place], method, lambda array: called.append(method) or own(array))
    model.backward(model(x))
    assert called == [method]


def test_another_body():
    block = plain_block()
    block[0].body = nn.Identity()
    x = normal((2, 4, 3, 3), np.float32)
    np.testing.assert_array_equal(block(x), F.relu(2 * x))


def test_watch_sees_every_layer():
    model, seen = models.resnet20(), []
    with nn.watch(model, lambda name, layer, output: seen.append((name, output.min()))), nn.no_grad():
        model(normal((2, 3, 8, 8), np.float32))
    names = [name for name, module in model.named_modules() if not isinstance(module, nn.Sequential)]
    assert {name for name, _ in seen} >= set(names)
    assert dict(seen)["layer1.0.bn1"] < 0 == dict(seen)["layer1.0.relu1"]


# --- what is kept, and whose it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_backward_needs_a_forward_pass(name):
    model, x = NETWORKS[name](), normal((2, 4, 8, 8), np.float32)
    with nn.no_grad():
        output = model(x)
    with pytest.raises(RuntimeError, match="backward: expected a forward pass before it, outside no_grad"):
        model.backward(output)
    model.backward(model(x))
    with pytest.raises(RuntimeError, match="got none since the last backward"):
        model.backward(output)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_forward_pass_counts(name):
    """Whether it ran as one or not, and whatever was left over from the one before."""
    model, x, other = NETWORKS[name](), normal((2, 4, 8, 8), np.float32), normal((2, 4, 8, 8), np.float32, 1)
    output = model(x)
    expected = model.backward(output).copy()
    for apart_first in (True, False):
        if apart_first:
            with one_by_one(model):
                model(other)
            got = model.backward(model(x))
        else:
            model(other)
            with one_by_one(model):
                got = model.backward(model(x))
        assert bits([got]) == bits([expected])
        with pytest.raises(RuntimeError, match="got none since the last backward"):
            model.backward(output)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_others_hold_stays_as_it_is(name):
    model, x = NETWORKS[name](), normal((3, 4, 8, 8), np.float32)
    output = model(x)
    dy = normal(output.shape, np.float32, 1)
    held = [x, output, dy]
    before = bits(held)
    grad = model.backward(dy)
    with nn.no_grad():
        model.eval()(x)
    assert bits(held) == before
    assert not any(np.shares_memory(grad, array) for array in held)


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_are_apart(name):
    model, x = NETWORKS[name](), normal((3, 4, 8, 8), np.float32)
    model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for parameter in other.parameters():
            parameter.data = parameter.data * 2
        dy = other(x)
        other.backward(dy)
        again = copy.deepcopy(other)
        with one_by_one(again):
            assert bits([again.eval()(x)]) == bits([other.eval()(x)])


def test_the_input_gradient_that_is_not_needed():
    pool = NETWORKS["conv, relu, pool"]
    for build in (lambda: models.BasicBlock(4, 4), lambda: models.BasicBlock(4, 8, 2), plain_block, pool):
        model, x = build(), normal((2, 4, 8, 8), np.float32)
        other = copy.deepcopy(model)
        output = model(x)
        assert model.backward(output) is not None
        other.requires_input_grad(False)
        assert other.backward(other(x)) is None
        assert bits(p.grad for p in model.parameters()) == bits(p.grad for p in other.parameters())


@pytest.mark.parametrize("layers", [(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), (nn.MaxPool2d(2),)])
def test_taps_are_made_only_for_backward(layers, monkeypatch):
    model, x, asked = nn.Sequential(*layers), normal((2, 1, 8, 8), np.float32), []
    conv2d_max_pool, max_pool2d_taps = F.conv2d_max_pool, F.max_pool2d_taps

    def pool_of_conv(*args, taps=True, **options):
        asked.append(taps)
        return conv2d_max_pool(*args, taps=taps, **options)

    def pool(*args, **options):
        asked.append(True)
        return max_pool2d_taps(*args, **options)

    monkeypatch.setattr(F, "conv2d_max_pool", pool_of_conv)
    monkeypatch.setattr(F, "max_pool2d_taps", pool)
    output = model(x)
    assert asked == [True]
    with nn.no_grad():
        assert bits([model(x)]) == bits([output])
    assert asked in ([True], [True, False])
    assert model.backward(output) is not None  # what the first pass saved is there


def chain(dtype=np.float64):
    parts = [[nn.BatchNorm2d(4, dtype=dtype), nn.ReLU(), conv(4, 4, dtype=dtype)] for _ in range(2)]
    body = nn.Sequential(conv(4, 4, dtype=dtype), *parts[1], nn.BatchNorm2d(4, dtype=dtype))
    return nn.Sequential(*parts[0], nn.BatchNorm2d(4, dtype=dtype), nn.ReLU(), nn.Residual(body), nn.ReLU())


def test_what_a_convolution_knows_is_not_computed_again(monkeypatch):
    """Statistics of its output, and sums for the gradients of the batch norm before it."""
    given, taken = [], []
    factors, backward = F.batch_norm_factors, F.batch_norm_backward

    def record_factors(*args, statistics=None, **options):
        given.append(statistics is not None)
        return factors(*args, statistics=statistics, **options)

    def record_backward(*args, sums=None, **options):
        taken.append(sums is not None)
        return backward(*args, sums=sums, **options)

    monkeypatch.setattr(F, "batch_norm_factors", record_factors)
    monkeypatch.setattr(F, "batch_norm_backward", record_backward)
    model = chain()
    model.backward(model(normal((2, 4, 5, 6))))
    assert given == [False, True, False, True]  # the second and the fourth have such a convolution before them
    assert taken == [False, True, False, True]  # from the last to the first
    model[3].eval()  # whose factors are not the batch's
    del given[:]
    model(normal((2, 4, 5, 6)))
    assert given == [False, False, False, True]

"""Layers, losses and containers: gradients, modes, saved state, names, initialisation, and wrong use."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import math
import threading
import weakref

import numpy as np
import pytest

from fastcnn import functional as F
from fastcnn import nn, random, reference
from fastcnn.functional import _checks as check

F64 = {"dtype": np.float64}


@pytest.fixture(autouse=True)
def _seed():
    random.manual_seed(0)


def spread(shape: tuple[int, ...]) -> np.ndarray:
    """Distinct values at least 0.05 apart and none near zero: no ties, no kinks."""
    size = math.prod(shape)
    values = (np.arange(size) - size // 2 + 0.5) * 0.1
    return np.random.default_rng(1).permutation(values).reshape(shape)


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def is_channels_last(array: np.ndarray) -> bool:
    return np.moveaxis(array, 1, -1).flags.c_contiguous and not array.flags.c_contiguous


def same_state(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


# --- gradients of every layer ---------------------------------------------------------------------------------------

LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, **F64), (2, 4, 9)),
    "Conv1d same, no bias": (lambda: nn.Conv1d(2, 3, 4, padding="same", bias=False, **F64), (2, 2, 5)),
    "Conv1d unbatched": (lambda: nn.Conv1d(2, 3, 2, **F64), (2, 5)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2, **F64), (2, 4, 5, 6)),
    "Conv2d same, no bias": (lambda: nn.Conv2d(2, 3, (2, 3), padding="same", bias=False, **F64), (2, 2, 4, 3)),
    "Conv2d valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid", **F64), (1, 2, 3, 4)),
    "Conv2d unbatched": (lambda: nn.Conv2d(2, 3, 2, **F64), (2, 3, 4)),
    "Linear": (lambda: nn.Linear(5, 3, **F64), (4, 5)),
    "Linear, no bias, 3-D": (lambda: nn.Linear(5, 3, bias=False, **F64), (2, 3, 5)),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, stride=2, padding=1, dilation=2, ceil_mode=True), (2, 3, 9)),
    "MaxPool1d unbatched": (lambda: nn.MaxPool1d(2), (3, 6)),
    "MaxPool2d": (lambda: nn.MaxPool2d((3, 2), (1, 2), (1, 0), (1, 2), ceil_mode=True), (2, 2, 5, 6)),
    "MaxPool2d unbatched": (lambda: nn.MaxPool2d(2), (3, 4, 4)),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 2, 8)),
    "AvgPool2d": (lambda: nn.AvgPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True, count_include_pad=False), (2, 2, 6, 5)),
    "AvgPool2d divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), (1, 2, 4, 4)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 2, 7)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 2, 5, 4)),
    "BatchNorm1d features": (lambda: nn.BatchNorm1d(3, **F64), (5, 3)),
    "BatchNorm1d signals": (lambda: nn.BatchNorm1d(3, **F64), (2, 3, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3, **F64), (2, 3, 3, 2)),
    "BatchNorm2d not affine": (lambda: nn.BatchNorm2d(3, affine=False, **F64), (2, 3, 3, 2)),
    "BatchNorm2d no running": (lambda: nn.BatchNorm2d(3, track_running_stats=False, **F64), (2, 3, 3, 2)),
    "BatchNorm2d cumulative": (lambda: nn.BatchNorm2d(3, momentum=None, **F64), (2, 3, 3, 2)),
    "ReLU": (nn.ReLU, (3, 4)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), (3, 4)),
    "Sigmoid": (nn.Sigmoid, (3, 4)),
    "Tanh": (nn.Tanh, (3, 4)),
    "GELU": (nn.GELU, (3, 4)),
    "GELU tanh": (lambda: nn.GELU("tanh"), (3, 4)),
    "SiLU": (nn.SiLU, (3, 4)),
    "Softmax": (nn.Softmax, (3, 4)),
    "Softmax over channels": (lambda: nn.Softmax(1), (2, 3, 2, 2)),
    "LogSoftmax": (lambda: nn.LogSoftmax(dim=1), (2, 3, 2, 2)),
    "Dropout": (lambda: nn.Dropout(0.4), (3, 4)),
    "Dropout of its own rng": (lambda: nn.Dropout(0.4, rng=np.random.default_rng(5)), (3, 4)),
    "Flatten": (nn.Flatten, (2, 3, 2, 2)),
    "Flatten some": (lambda: nn.Flatten(0, 2), (2, 3, 2, 2)),
    "Identity": (nn.Identity, (2, 3)),
    "Residual": (lambda: nn.Residual(nn.Linear(3, 3, **F64)), (2, 3)),
    "Residual shortcut": (lambda: nn.Residual(nn.Linear(3, 2, **F64), nn.Linear(3, 2, **F64)), (4, 3)),
}


IMAGE_LAYERS = [name for name, (_, shape) in LAYERS.items() if len(shape) == 4 and not name.startswith("Flatten")]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", ["C", "channels-last"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, order, training):
    make, shape = LAYERS[name]
    layer = make().train(training)
    for parameter in layer.parameters():  # away from the ones and zeros that batch norm starts with
        parameter.data = parameter.data + spread(parameter.shape)
    input = spread(shape)
    assert nn.gradcheck(layer, channels_last(input) if order == "channels-last" else input)


@pytest.mark.parametrize("order", ["C", "channels-last"])
@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_memory_order_is_kept(name, order):
    make, shape = LAYERS[name]
    layer = make()
    input = channels_last(spread(shape)) if order == "channels-last" else spread(shape)
    output = layer(input)
    grad = layer.backward(channels_last(output) if order == "channels-last" else np.ascontiguousarray(output))
    assert is_channels_last(output) == is_channels_last(input)
    assert is_channels_last(grad) == is_channels_last(input)


def test_whole_network_gradients():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, **F64),
        nn.BatchNorm2d(4, **F64),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, **F64), nn.SiLU()), nn.Conv2d(4, 4, 1, **F64)),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, 3, **F64),
        nn.LogSoftmax(),
    )
    assert nn.gradcheck(model, channels_last(spread((3, 2, 4, 4))))


LOSSES = [
    *[(nn.CrossEntropyLoss(reduction=r), (4, 3), np.array([0, 2, 1, 1])) for r in ("mean", "sum", "none")],
    (nn.CrossEntropyLoss(np.array([0.5, 1.0, 2.0]), 1, "mean", 0.1), (4, 3), np.array([0, 2, 1, 2])),
    (nn.CrossEntropyLoss(label_smoothing=0.3), (2, 3, 2), np.array([[0, 1], [2, 2]])),
    *[(nn.MSELoss(r), (3, 2), np.ones((3, 2))) for r in ("mean", "sum", "none")],
]


@pytest.mark.parametrize(("loss", "shape", "target"), LOSSES, ids=[repr(loss) for loss, _, _ in LOSSES])
def test_loss_gradients(loss, shape, target):
    assert nn.gradcheck(loss, spread(shape), target)


def test_loss_values():
    scores = np.array([[0.0, math.log(3)], [0.0, 0.0]])
    target = np.array([1, 0])
    assert nn.CrossEntropyLoss()(scores, target)[0] == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert nn.CrossEntropyLoss(ignore_index=1)(scores, target)[0] == pytest.approx(math.log(2))
    weighted = nn.CrossEntropyLoss(weight=np.array([3.0, 1.0]))(scores, target)[0]
    assert weighted == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4)
    np.testing.assert_allclose(
        nn.CrossEntropyLoss(reduction="none")(scores, target)[0], [math.log(4 / 3), math.log(2)], rtol=1e-12
    )
    smooth = nn.CrossEntropyLoss(label_smoothing=0.5)(scores[:1], target[:1])[0]
    assert smooth == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert nn.MSELoss("sum")(scores, np.zeros((2, 2)))[0] == pytest.approx(math.log(3) ** 2)


# --- gradcheck itself -----------------------------------------------------------------------------------------------


class Cube(nn.Module):
    """A layer whose backward can be wrong in chosen places."""

    def __init__(self, input_error=0.0, weight_error=0.0):
        super().__init__()
        self.weight = nn.Parameter(np.array([2.0, 3.0]))
        self.errors = input_error, weight_error

    def forward(self, input):
        self.save(input)
        return input**3 * self.weight.data

    def backward(self, grad_output):
        (input,) = self.saved()
        grad = grad_output * 3 * input**2 * self.weight.data
        grad[1, 0] += self.errors[0]
        self.weight.accumulate((grad_output * input**3).sum(0) + np.array([0, self.errors[1]]))
        return grad


def test_gradcheck_names_the_worst_element():
    input = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert nn.gradcheck(Cube(), input)
    with pytest.raises(nn.GradientError, match=r"^input\[1, 0\]: expected -?[\d.]+ \(finite difference\), got "):
        nn.gradcheck(Cube(input_error=0.5), input)
    with pytest.raises(AssertionError, match=r"^weight\[1\]: expected"):
        nn.gradcheck(Cube(weight_error=0.5), input)
    with pytest.raises(nn.GradientError, match=r"^input\[1, 0\]: expected .* got nan \(backward\)$"):
        nn.gradcheck(Cube(input_error=np.nan), input)
    with pytest.raises(nn.GradientError, match=r"^weight\[1\]"):
        nn.gradcheck(nn.Sequential({"a": Cube(weight_error=1.0)})["a"], input)


def test_gradcheck_tolerances():
    input = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert nn.gradcheck(Cube(input_error=0.5), input, atol=1.0)
    assert nn.gradcheck(Cube(input_error=0.5), input, rtol=1.0)
    with pytest.raises(nn.GradientError):
        nn.gradcheck(Cube(), input, eps=1.0)


def test_gradcheck_rejects_a_wrong_shape():
    class Scalar(nn.ReLU):
        def backward(self, grad_output):
            return super().backward(grad_output).sum()

    with pytest.raises(nn.GradientError, match=r"^input: expected a gradient of shape \(2, 3\), got \(\)$"):
        nn.gradcheck(Scalar(), np.ones((2, 3)))


def test_gradcheck_leaves_everything_as_it_was():
    model = nn.Sequential(
        nn.Linear(3, 4, **F64), nn.BatchNorm1d(4, **F64), nn.Dropout(0.5, rng=np.random.default_rng(2))
    )
    model[0].weight.grad = np.ones((4, 3))
    input = spread((5, 3))
    before = copy.deepcopy(model)
    kept, random_state = input.copy(), random.get_state()
    nn.gradcheck(model, input)
    assert same_state(model.state_dict(), before.state_dict())
    assert all(np.array_equal(a.grad, b.grad) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert model[2].rng.bit_generator.state == before[2].rng.bit_generator.state
    assert random.get_state() == random_state
    assert np.array_equal(input, kept)


def test_gradcheck_without_input_gradient_checks_the_parameters():
    layer = nn.Linear(3, 2, **F64).requires_input_grad(False)
    assert nn.gradcheck(layer, spread((4, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nn.gradcheck(nn.ReLU(), np.ones(3, np.float32)),
            "input: expected a float64 array (differences of float32 are too coarse), got float32",
        ),
        (
            lambda: nn.gradcheck(nn.ReLU(), [1.0]),
            "input: expected a float64 array (differences of float32 are too coarse), got list",
        ),
        (
            lambda: nn.gradcheck(nn.Sequential(nn.Linear(1, 1)), np.ones((1, 1))),
            "layer: expected float64 parameters (dtype=np.float64), as 0.weight, got float32",
        ),
        (lambda: nn.gradcheck(3, np.ones(3)), "layer: expected a Module or a loss, got 3"),
    ],
)
def test_gradcheck_wrong_arguments(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


# --- parameters -----------------------------------------------------------------------------------------------------


def test_parameter_copies_and_accumulates():
    source = np.ones((2, 3), np.float32)
    p = nn.Parameter(source)
    source[:] = 5
    assert p.data[0, 0] == 1
    data, grad = p.data, p.grad
    p.grad += np.float32(2)
    p.accumulate(np.full((2, 3), 3, np.float32))
    p.data = np.zeros((2, 3))
    assert p.data is data
    assert p.grad is grad
    assert (grad == 5).all()
    assert (data == 0).all()
    p.zero_grad()
    assert (grad == 0).all()
    assert (p.shape, p.size, p.dtype) == ((2, 3), 6, np.float32)
    assert repr(p) == "Parameter(shape=(2, 3), dtype=float32)"


def test_parameter_is_c_contiguous():
    assert nn.Parameter(np.ones((2, 3)).T).data.flags.c_contiguous


def test_parameter_errors():
    with pytest.raises(TypeError, match=r"^data: expected float32 or float64, got int64$"):
        nn.Parameter(np.arange(3))
    p = nn.Parameter(np.ones(3))
    with pytest.raises(ValueError, match=r"^data: expected shape \(3,\), got \(2,\)$"):
        p.data = np.ones(2)
    with pytest.raises(ValueError, match=r"^grad: expected shape \(3,\), got \(1,\)$"):
        p.grad = np.ones(1)
    assert (p.data == 1).all()
    assert (p.grad == 0).all()


# --- modules --------------------------------------------------------------------------------------------------------


def network(**options) -> nn.Sequential:
    return nn.Sequential(
        {
            "stem": nn.Sequential(nn.Conv2d(1, 4, 3, bias=False, **options), nn.BatchNorm2d(4, **options), nn.ReLU()),
            "block": nn.Residual(nn.Conv2d(4, 4, 3, padding=1, **options), nn.Conv2d(4, 4, 1, **options)),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(4, 3, **options),
        }
    )


def test_names_and_shapes_are_torchs():
    # What torch gives the same layers in a torch.nn.Sequential(OrderedDict(...)).
    expected = {
        "stem.0.weight": (4, 1, 3, 3),
        "stem.1.weight": (4,),
        "stem.1.bias": (4,),
        "stem.1.running_mean": (4,),
        "stem.1.running_var": (4,),
        "stem.1.num_batches_tracked": (),
        "block.body.weight": (4, 4, 3, 3),
        "block.body.bias": (4,),
        "block.shortcut.weight": (4, 4, 1, 1),
        "block.shortcut.bias": (4,),
        "fc.weight": (3, 4),
        "fc.bias": (3,),
    }
    state = network().state_dict()
    assert {name: array.shape for name, array in state.items()} == expected
    assert list(state) == list(expected)
    assert state["stem.1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), {"weight": (6, 2, 3), "bias": (6,)}),
        (nn.Conv2d(4, 6, (3, 5), bias=False), {"weight": (6, 4, 3, 5)}),
        (nn.Linear(3, 2), {"weight": (2, 3), "bias": (2,)}),
        (nn.BatchNorm1d(2, affine=False), {"running_mean": (2,), "running_var": (2,), "num_batches_tracked": ()}),
        (nn.BatchNorm2d(2, track_running_stats=False), {"weight": (2,), "bias": (2,)}),
        (nn.Dropout(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layer_parameter_names(layer, expected):
    assert {name: array.shape for name, array in layer.state_dict().items()} == expected


def test_traversal():
    model = network()
    names = [name for name, _ in model.named_modules()]
    assert names == [
        "", "stem", "stem.0", "stem.1", "stem.2", "block", "block.body", "block.shortcut", "pool", "flatten", "fc"
    ]  # fmt: skip
    assert [name for name, _ in model.named_children()] == ["stem", "block", "pool", "flatten", "fc"]
    assert list(model.children()) == list(model)
    assert len(list(model.modules())) == len(names)
    assert len(list(model.parameters())) == 9
    assert [name for name, _ in model.named_buffers()] == [
        "stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked"
    ]  # fmt: skip
    assert len(list(model.buffers())) == 3
    assert model["fc"] is model[4] is model[-1]
    assert len(model) == 5


def test_layers_look_functions_up_when_they_run(monkeypatch):
    """So that another implementation can be put in their place, as the benchmarks do with the reference."""
    model = network(**F64)
    input = channels_last(spread((3, 1, 6, 6)))
    output = model(input)
    grads = [model.backward(output), *(p.grad.copy() for p in model.parameters())]
    model.zero_grad()
    called = set()

    def recorded(name):
        def call(*args, **options):
            called.add(name)
            return getattr(reference, name)(*args, **options)

        return call

    for name in F.__all__:
        if hasattr(reference, name):
            monkeypatch.setattr(F, name, recorded(name))
    np.testing.assert_allclose(model(input), output, rtol=1e-9)
    again = [model.backward(output), *(p.grad for p in model.parameters())]
    for grad, other in zip(grads, again, strict=True):
        np.testing.assert_allclose(grad, other, rtol=1e-7, atol=1e-12)
    both = {"conv2d", "adaptive_avg_pool2d", "flatten", "linear"}
    norm = {"batch_norm_factors", "batch_norm_apply", "batch_norm_backward"}
    assert called == both | {f"{name}_backward" for name in both} | norm | {"add"}


def test_shared_parameter_is_listed_once_and_gets_the_sum():
    first, second = nn.Linear(2, 2, bias=False, **F64), nn.Linear(2, 2, bias=False, **F64)
    second.weight = first.weight
    model = nn.Sequential(first, nn.Tanh(), second)
    assert [name for name, _ in model.named_parameters()] == ["0.weight"]
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    assert nn.gradcheck(model, spread((3, 2)))


def test_train_and_eval_reach_every_module():
    model = network()
    assert all(module.training for module in model.modules())
    assert model.eval() is model
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())


def test_zero_grad():
    model = network()
    model.backward(np.ones_like(model(np.ones((2, 1, 6, 6), np.float32))))
    assert any(p.grad.any() for p in model.parameters())
    model.zero_grad()
    assert not any(p.grad.any() for p in model.parameters())


def test_gradients_accumulate():
    layer = nn.Linear(3, 2)
    input, grad = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    layer(input)
    layer.backward(grad)
    once = layer.weight.grad.copy()
    layer(input)
    layer.backward(grad)
    np.testing.assert_array_equal(layer.weight.grad, 2 * once)


def test_state_round_trip():
    source, target = network(), network()
    source(np.random.default_rng(0).normal(size=(4, 1, 6, 6)).astype(np.float32))
    assert not same_state(source.state_dict(), target.state_dict())
    places = [p.data for p in target.parameters()]
    assert target.load_state_dict(source.state_dict()) == ([], [])
    assert same_state(source.state_dict(), target.state_dict())
    assert all(p.data is place for p, place in zip(target.parameters(), places, strict=True))
    assert target["stem"][1].num_batches_tracked == 1


def test_state_dict_copies():
    model = nn.Linear(2, 2)
    model.state_dict()["weight"].fill(7)
    assert not (model.weight.data == 7).any()


def test_load_float64_into_float32():
    source, target = network(**F64), network()
    target.load_state_dict(source.state_dict())
    np.testing.assert_array_equal(target["fc"].weight.data, source["fc"].weight.data.astype(np.float32))


def test_load_lists_every_problem_and_changes_nothing():
    model = network()
    before = model.state_dict()
    state = network().state_dict()
    del state["fc.bias"], state["stem.0.weight"]
    state["fc.scale"] = np.ones(1)
    state["block.body.weight"] = np.ones((4, 4, 1, 1))
    state["stem.1.num_batches_tracked"] = np.ones(())
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    assert str(caught.value) == (
        "state: expected the names and shapes of this Sequential, got differences:\n"
        "  missing: stem.0.weight\n"
        "  missing: fc.bias\n"
        "  unexpected: fc.scale\n"
        "  wrong type: stem.1.num_batches_tracked, expected int64, got float64\n"
        "  wrong shape: block.body.weight, expected (4, 4, 3, 3), got (4, 4, 1, 1)"
    )
    assert same_state(model.state_dict(), before)


def test_load_not_strict():
    model, other = network(), network()
    state = {"fc.weight": other["fc"].weight.data, "extra": np.ones(1)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert "fc.bias" in missing
    assert len(missing) == 11
    assert unexpected == ["extra"]
    assert np.array_equal(model["fc"].weight.data, other["fc"].weight.data)
    with pytest.raises(ValueError, match=r"wrong shape: fc\.weight, expected \(3, 4\), got \(4, 3\)$"):
        model.load_state_dict({"fc.weight": np.ones((4, 3))}, strict=False)


def test_no_grad_saves_nothing():
    layer = nn.Linear(2, 2)
    x = np.ones((1, 2), np.float32)
    with nn.no_grad():
        assert not nn.is_grad_enabled()
        layer(x)
    assert nn.is_grad_enabled()
    with pytest.raises(RuntimeError) as caught:
        layer.backward(x)
    assert str(caught.value) == (
        "Linear.backward: expected a forward pass before it, outside no_grad(), got none since the last backward"
    )


def test_no_grad_keeps_an_earlier_forward():
    layer = nn.Linear(2, 2)
    layer(np.ones((1, 2), np.float32))
    with nn.no_grad():
        layer(np.full((1, 2), 9, np.float32))
    layer.backward(np.ones((1, 2), np.float32))
    assert (layer.weight.grad == 1).all()


def test_no_grad_ends_with_an_exception_and_nests():
    with pytest.raises(KeyError), nn.no_grad():
        raise KeyError
    assert nn.is_grad_enabled()
    with nn.no_grad():
        with nn.no_grad():
            pass
        assert not nn.is_grad_enabled()
    again = nn.no_grad()
    with again:
        with again:
            pass
        assert not nn.is_grad_enabled()
    assert nn.is_grad_enabled()


def test_no_grad_decorates():
    @nn.no_grad()
    def enabled():
        """Say."""
        return nn.is_grad_enabled()

    assert enabled.__doc__ == "Say."
    assert not enabled()
    assert not enabled()
    assert nn.is_grad_enabled()


def test_no_grad_belongs_to_its_thread():
    seen = []
    with nn.no_grad():
        thread = threading.Thread(target=lambda: seen.append(nn.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Identity" and not name.startswith("Residual")])
def test_backward_needs_a_forward_each_time(name):
    make, shape = LAYERS[name]
    layer = make()
    grad = np.ones_like(layer(spread(shape)))
    layer.backward(grad)
    with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}\.backward: expected a forward pass before it"):
        layer.backward(grad)


def test_backward_drops_what_was_saved():
    layer = nn.Linear(2, 2)
    x = np.ones((1, 2), np.float32)
    watched = weakref.ref(x)
    grad = np.ones_like(layer(x))
    del x
    gc.collect()
    assert watched() is not None
    layer.backward(grad)
    gc.collect()
    assert watched() is None


def test_abstract_module():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(np.ones(1))
    with pytest.raises(NotImplementedError, match="Module has no backward"):
        nn.Module().backward(np.ones(1))


# --- containers -----------------------------------------------------------------------------------------------------


def test_sequential_of_nothing_is_the_identity():
    x = np.ones((1, 2))
    model = nn.Sequential().requires_input_grad(False)
    assert model(x) is x
    assert model.backward(x) is x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda r: nn.Sequential(r, nn.Tanh(), r), ValueError,
         "layers: expected each layer object once, got the same ReLU as '0' and '2'"),
        (lambda r: nn.Sequential(r, nn.Sequential({"a": nn.Residual(r)})), ValueError,
         "layers: expected each layer object once, got the same ReLU as '0' and '1.a.body'"),
        (lambda r: nn.Residual(r, r), ValueError,
         "layers: expected each layer object once, got the same ReLU as 'body' and 'shortcut'"),
        (lambda r: nn.Sequential(r, abs), TypeError,
         "layers: expected modules, got <built-in function abs> as '1'"),
        (lambda r: nn.Sequential([nn.ReLU()]), TypeError, "layers: expected modules, got [ReLU()] as '0'"),
        (lambda r: nn.Sequential({"a.b": r}), ValueError,
         "layers: expected names that are not empty and have no dot, got 'a.b'"),
        (lambda r: nn.Sequential({"": r}), ValueError,
         "layers: expected names that are not empty and have no dot, got ''"),
        (lambda r: nn.Sequential({1: r}), TypeError, "layers: expected strings as names, got 1"),
        (lambda r: nn.Residual(None), TypeError, "body: expected a module, got None"),
        (lambda r: nn.Residual(r, 3), TypeError, "shortcut: expected a module, got 3"),
    ],
)  # fmt: skip
def test_container_errors(make, error, message):
    with pytest.raises(error) as caught:
        make(nn.ReLU())
    assert str(caught.value) == message


def test_residual_shapes_must_agree():
    with pytest.raises(ValueError) as caught:
        nn.Residual(nn.Linear(3, 1))(np.ones((2, 3), np.float32))
    assert str(caught.value) == "body: expected an output of the shortcut's shape (2, 3), got (2, 1)"


@pytest.mark.parametrize("grads", [True, False])
def test_residual_shapes_must_agree_where_layers_run_as_one(grads):
    body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))
    block = nn.Sequential(nn.Residual(body), nn.ReLU()).eval()
    with contextlib.nullcontext() if grads else nn.no_grad(), pytest.raises(ValueError) as caught:
        block(np.ones((1, 4, 5, 5), np.float32))
    assert str(caught.value) == "body: expected an output of the shortcut's shape (1, 4, 5, 5), got (1, 8, 5, 5)"


def test_residual_leaves_saved_outputs_alone():
    body = nn.ReLU()
    block = nn.Residual(body)
    block(np.array([[-1.0, 2.0]]))
    np.testing.assert_array_equal(block.backward(np.array([[1.0, 1.0]])), [[1.0, 2.0]])


def test_requires_input_grad_skips_the_first_layer_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    x = np.random.default_rng(0).normal(size=(3, 1, 4, 4)).astype(np.float32)
    grad = np.ones_like(model(x))
    assert model.backward(grad).shape == x.shape
    full = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    assert model.requires_input_grad(False) is model
    model(x)
    assert model.backward(grad) is None
    assert all(np.array_equal(p.grad, g) for p, g in zip(model.parameters(), full, strict=True))
    model.requires_input_grad(True)
    model(x)
    assert model.backward(grad).shape == x.shape


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)])
def test_requires_input_grad_of_layers(layer):
    shape = {"Conv1d": (1, 2, 3), "Conv2d": (1, 2, 3, 3), "Linear": (1, 2)}[type(layer).__name__]
    layer.requires_input_grad(False)
    assert layer.backward(layer(np.ones(shape, np.float32))) is None
    assert layer.weight.grad.any()


@pytest.mark.parametrize("shortcut", [None, "conv"])
def test_requires_input_grad_of_a_residual(shortcut):
    block = nn.Residual(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1) if shortcut else None)
    model = nn.Sequential(block).requires_input_grad(False)
    assert model.backward(model(np.ones((1, 2, 3, 3), np.float32))) is None
    assert block.body.weight.grad.any()


def test_empty_batch():
    model = network().eval()
    out = model(np.ones((0, 1, 6, 6), np.float32))
    assert out.shape == (0, 3)
    assert model.backward(out).shape == (0, 1, 6, 6)


# --- single layers --------------------------------------------------------------------------------------------------


def test_flatten_has_torchs_element_order():
    x = channels_last(np.arange(24.0).reshape(1, 2, 3, 4))
    flatten = nn.Flatten()
    out = flatten(x)
    np.testing.assert_array_equal(out, [np.arange(24.0)])
    grad = flatten.backward(out)
    np.testing.assert_array_equal(grad, x)
    assert is_channels_last(grad)
    flatten(np.ascontiguousarray(x))
    assert flatten.backward(out).flags.c_contiguous


def test_the_memory_order_that_flatten_keeps():
    """Told by numbers alone, as by NumPy's flags."""
    for shape in itertools.product((0, 1, 2, 3), repeat=4):
        for axes in itertools.permutations(range(4)):
            x = np.zeros(shape, np.float32).transpose(axes)
            expected = not x.flags.c_contiguous and x.transpose(0, 2, 3, 1).flags.c_contiguous
            assert check.channels_run_fastest(x) == expected


def test_flatten_axes():
    x = np.ones((2, 3, 4, 5))
    assert nn.Flatten(2)(x).shape == (2, 3, 20)
    assert nn.Flatten(0, 1)(x).shape == (6, 4, 5)
    assert nn.Flatten(-2, -1)(x).shape == (2, 3, 20)
    assert nn.Flatten(0)(x).shape == (120,)
    with pytest.raises(ValueError, match=r"^input: expected axes 2 to 1, in that order, got shape \(2, 3, 4, 5\)$"):
        nn.Flatten(2, 1)(x)
    with pytest.raises(ValueError, match=r"^input: expected axes 4 to -1, in that order, got shape"):
        nn.Flatten(4)(x)
    layer = nn.Flatten()
    layer(x)
    with pytest.raises(ValueError, match=r"^grad_output: expected shape \(2, 60\), got \(60, 2\)$"):
        layer.backward(np.ones((60, 2)))


def test_max_pool_saves_one_byte_for_each_output():
    for layer, shape in ((nn.MaxPool1d(2), (2, 3, 8)), (nn.MaxPool2d(2), (2, 3, 8, 8))):
        out = layer(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        arrays = [value for value in layer._saved if isinstance(value, np.ndarray)]
        assert [array.nbytes for array in arrays] == [out.size]


def test_batch_norm_statistics():
    rng = np.random.default_rng(0)
    layer = nn.BatchNorm2d(3, momentum=0.25, **F64)
    layer.weight.data, layer.bias.data = [1.0, 2.0, 3.0], [0.5, 0.0, -0.5]
    x = rng.normal(2, 3, (4, 3, 5, 2))
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    column = (slice(None), None, None)
    expected = (x - mean[column]) / np.sqrt(var + 1e-5)[column] * layer.weight.data[column] + layer.bias.data[column]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(layer.running_mean, 0.25 * mean)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * var * 40 / 39)
    layer.eval()
    before = layer.state_dict()
    scale = (layer.weight.data / np.sqrt(layer.running_var + 1e-5))[column]
    np.testing.assert_allclose(layer(x), (x - layer.running_mean[column]) * scale + layer.bias.data[column])
    assert same_state(layer.state_dict(), before)


def test_batch_norm_cumulative_average():
    layer = nn.BatchNorm1d(2, momentum=None, **F64)
    batches = np.random.default_rng(0).normal(size=(3, 6, 2))
    for batch in batches:
        layer(batch)
    np.testing.assert_allclose(layer.running_mean, batches.mean((0, 1)), rtol=1e-10)
    np.testing.assert_allclose(layer.running_var, batches.var(1, ddof=1).mean(0), rtol=1e-10)
    assert layer.num_batches_tracked == 3


def test_batch_norm_without_running_statistics_uses_the_batch():
    layer = nn.BatchNorm1d(2, track_running_stats=False, **F64)
    x = np.random.default_rng(0).normal(5, 2, (8, 2))
    np.testing.assert_array_equal(layer(x), layer.eval()(x))
    assert abs(layer(x).mean()) < 1e-10


def test_batch_norm_ranks():
    with pytest.raises(ValueError, match=r"^input: expected 4-D array, got shape \(2, 3\)$"):
        nn.BatchNorm2d(3)(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"^input: expected 2-D or 3-D array, got shape \(2, 3, 4, 4\)$"):
        nn.BatchNorm1d(3)(np.ones((2, 3, 4, 4), np.float32))


def test_failed_batch_norm_counts_nothing():
    layer = nn.BatchNorm1d(3)
    before = layer.state_dict()
    with pytest.raises(ValueError):
        layer(np.ones((4, 5), np.float32))
    assert same_state(layer.state_dict(), before)


def test_dropout_modes():
    x = np.ones((50, 40), np.float32)
    layer = nn.Dropout(0.25)
    out = layer(x)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.2 < (out == 0).mean() < 0.3
    np.testing.assert_array_equal(layer.backward(x), out)
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer.backward(x), x)
    assert not nn.Dropout(1.0)(x).any()
    np.testing.assert_array_equal(nn.Dropout(0.0)(x), x)


def test_dropout_repeats_from_a_seed():
    x = np.ones((10, 10), np.float32)
    layer = nn.Dropout()
    random.manual_seed(3)
    first = layer(x)
    assert not np.array_equal(first, layer(x))
    random.manual_seed(3)
    np.testing.assert_array_equal(layer(x), first)
    own = [nn.Dropout(rng=np.random.default_rng(9))(x) for _ in range(2)]
    np.testing.assert_array_equal(own[0], own[1])


WRONG = [
    (lambda: nn.Conv2d(0, 1, 1), ValueError, "in_channels: expected a positive int, got 0"),
    (lambda: nn.Conv2d(1, 2.0, 1), TypeError, "out_channels: expected a positive int, got 2.0"),
    (lambda: nn.Conv2d(1, 1, (3, 0)), ValueError, "kernel_size: expected a positive int, got 0"),
    (lambda: nn.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size: expected an int or 2 of them, got (3, 3, 3)"),
    (lambda: nn.Conv1d(1, 1, 3, stride=0), ValueError, "stride: expected a positive int, got 0"),
    (lambda: nn.Conv1d(1, 1, 3, dilation=-1), ValueError, "dilation: expected a positive int, got -1"),
    (lambda: nn.Conv2d(1, 1, 3, padding=-1), ValueError, "padding: expected a non-negative int, got -1"),
    (lambda: nn.Conv2d(1, 1, 3, padding="full"), ValueError,
     "padding: expected an int, 2 of them, 'same' or 'valid', got 'full'"),
    (lambda: nn.Conv2d(4, 6, 3, groups=3), ValueError, "groups: expected a divisor of 4 and 6 channels, got 3"),
    (lambda: nn.Conv2d(1, 1, 1, dtype=np.int32), TypeError, "dtype: expected float32 or float64, got int32"),
    (lambda: nn.Conv2d(1, 1, 1, rng=5), TypeError, "rng: expected a numpy.random.Generator or None, got 5"),
    (lambda: nn.Conv2d(1, 1, 1, bias=0), TypeError, "bias: expected a bool, got 0"),
    (lambda: nn.Linear(1, 1, bias="no"), TypeError, "bias: expected a bool, got 'no'"),
    (lambda: nn.MaxPool2d(2, ceil_mode=1), TypeError, "ceil_mode: expected a bool, got 1"),
    (lambda: nn.AvgPool2d(2, count_include_pad=0), TypeError, "count_include_pad: expected a bool, got 0"),
    (lambda: nn.BatchNorm2d(1, affine=1), TypeError, "affine: expected a bool, got 1"),
    (lambda: nn.BatchNorm2d(1, track_running_stats=None), TypeError, "track_running_stats: expected a bool, got None"),
    (lambda: nn.Linear(0, 1), ValueError, "in_features: expected a positive int, got 0"),
    (lambda: nn.Linear(1, -1), ValueError, "out_features: expected a positive int, got -1"),
    (lambda: nn.MaxPool2d(0), ValueError, "kernel_size: expected a positive int, got 0"),
    (lambda: nn.MaxPool1d(2, stride=0), ValueError, "stride: expected a positive int, got 0"),
    (lambda: nn.MaxPool2d(2, dilation=0), ValueError, "dilation: expected a positive int, got 0"),
    (lambda: nn.AvgPool1d(2, padding=-1), ValueError, "padding: expected a non-negative int, got -1"),
    (lambda: nn.AvgPool2d((1, 2, 3)), ValueError, "kernel_size: expected an int or 2 of them, got (1, 2, 3)"),
    (lambda: nn.BatchNorm2d(0), ValueError, "num_features: expected a positive int, got 0"),
    (lambda: nn.BatchNorm2d(1, eps=-1e-5), ValueError, "eps: expected a finite number of at least 0, got -1e-05"),
    (lambda: nn.BatchNorm2d(1, momentum=1.5), ValueError, "momentum: expected a number from 0 to 1, got 1.5"),
    (lambda: nn.BatchNorm1d(1, momentum="0.1"), TypeError, "momentum: expected a number from 0 to 1, got '0.1'"),
    (lambda: nn.Dropout(1.1), ValueError, "p: expected a number from 0 to 1, got 1.1"),
    (lambda: nn.Dropout(math.nan), ValueError, "p: expected a number from 0 to 1, got nan"),
    (lambda: nn.Dropout("half"), TypeError, "p: expected a number from 0 to 1, got 'half'"),
    (lambda: nn.Dropout(rng=1), TypeError, "rng: expected a numpy.random.Generator or None, got 1"),
    (lambda: nn.LeakyReLU(math.inf), ValueError, "negative_slope: expected a finite number, got inf"),
    (lambda: nn.GELU("erf"), ValueError, "approximate: expected 'none' or 'tanh', got 'erf'"),
    (lambda: nn.Flatten(1.0), TypeError, "start_dim: expected an int, got 1.0"),
    (lambda: nn.CrossEntropyLoss(reduction="avg"), ValueError,
     "reduction: expected 'mean', 'sum' or 'none', got 'avg'"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2), ValueError,
     "label_smoothing: expected a number from 0 to 1, got 2"),
    (lambda: nn.MSELoss("avg"), ValueError, "reduction: expected 'mean', 'sum' or 'none', got 'avg'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_layer_arguments(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


# --- initialisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(nn.Conv2d(8, 64, (3, 5), groups=2), 60), (nn.Conv1d(16, 64, 5), 80), (nn.Linear(100, 200), 100)],
    ids=["Conv2d", "Conv1d", "Linear"],
)
def test_default_initialisation_is_torchs(layer, fan_in):
    bound = 1 / math.sqrt(fan_in)
    values = layer.weight.data.ravel()
    assert np.abs(values).max() <= bound
    assert np.abs(layer.bias.data).max() <= bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # of an even distribution
    assert np.unique(layer.bias.data).size == layer.bias.size


def test_initialisation_depends_on_the_rng_alone():
    def make(**options):
        return nn.Conv2d(2, 3, 3, rng=np.random.default_rng(4), **options)

    single, double = make(), make(**F64)
    random.manual_seed(4)
    default = nn.Conv2d(2, 3, 3)
    for name in ("weight", "bias"):
        value = getattr(single, name).data
        np.testing.assert_array_equal(value, getattr(double, name).data.astype(np.float32))
        np.testing.assert_array_equal(value, getattr(default, name).data)


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (lambda p: nn.init.kaiming_normal_(p), math.sqrt(2 / 90)),
        (lambda p: nn.init.kaiming_normal_(p, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 900)),
        (lambda p: nn.init.kaiming_uniform_(p, a=math.sqrt(5)), 1 / math.sqrt(3 * 90)),
        (lambda p: nn.init.kaiming_uniform_(p, nonlinearity="tanh"), 5 / 3 / math.sqrt(90)),
        (lambda p: nn.init.xavier_normal_(p), math.sqrt(2 / 990)),
        (lambda p: nn.init.xavier_uniform_(p, gain=2.0), 2 * math.sqrt(2 / 990)),
        (lambda p: nn.init.normal_(p, 0, 0.3), 0.3),
        (lambda p: nn.init.uniform_(p, -3, 3), math.sqrt(3)),
    ],
    ids=["he", "he fan-out", "he uniform sqrt5", "he tanh", "glorot", "glorot uniform", "normal", "uniform"],
)
def test_named_initialisations(fill, std):
    p = nn.Parameter(np.zeros((100, 10, 3, 3)))
    assert fill(p) is p
    assert p.data.std() == pytest.approx(std, rel=0.03)
    assert abs(p.data.mean()) < 0.05 * std


def test_constant_initialisations():
    p = nn.Parameter(np.zeros(3))
    assert nn.init.ones_(p).data.tolist() == [1, 1, 1]
    assert nn.init.constant_(p, 2.5).data.tolist() == [2.5, 2.5, 2.5]
    assert nn.init.zeros_(p).data.tolist() == [0, 0, 0]


def test_gains():
    gains = {"linear": 1, "conv2d": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    for name, gain in gains.items():
        assert nn.init.calculate_gain(name) == pytest.approx(gain)
    assert nn.init.calculate_gain("leaky_relu") == pytest.approx(math.sqrt(2 / (1 + 0.01**2)))
    assert nn.init.calculate_gain("leaky_relu", 0.2) == pytest.approx(math.sqrt(2 / 1.04))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: nn.init.kaiming_normal_(np.ones((2, 2))), TypeError, "tensor: expected a Parameter, got array"),
        (lambda p: nn.init.xavier_normal_(nn.Parameter(np.ones(2))), ValueError,
         "tensor: expected a weight of at least 2 dimensions, got shape (2,)"),
        (lambda p: nn.init.kaiming_uniform_(p, mode="fan"), ValueError,
         "mode: expected 'fan_in' or 'fan_out', got 'fan'"),
        (lambda p: nn.init.kaiming_uniform_(p, nonlinearity="swish"), ValueError,
         "nonlinearity: expected one of linear, conv1d, conv2d, sigmoid, tanh, relu, leaky_relu, selu, got 'swish'"),
        (lambda p: nn.init.zeros_(1), TypeError, "tensor: expected a Parameter, got 1"),
    ],
)  # fmt: skip
def test_wrong_initialisations(call, error, message):
    p = nn.Parameter(np.ones((2, 2)))
    with pytest.raises(error) as caught:
        call(p)
    assert str(caught.value).startswith(message)
    assert (p.data == 1).all()


# --- looking at networks --------------------------------------------------------------------------------------------


def test_summary_table():
    assert str(network().summary((1, 6, 6))) == (
        "Layer           Type               Output shape  Parameters  Output bytes\n"
        "-------------------------------------------------------------------------\n"
        "stem.0          Conv2d             (N, 4, 4, 4)          36           256\n"
        "stem.1          BatchNorm2d        (N, 4, 4, 4)           8           256\n"
        "stem.2          ReLU               (N, 4, 4, 4)           0           256\n"
        "block.body      Conv2d             (N, 4, 4, 4)         148           256\n"
        "block.shortcut  Conv2d             (N, 4, 4, 4)          20           256\n"
        "block           Residual           (N, 4, 4, 4)           0           256\n"
        "pool            AdaptiveAvgPool2d  (N, 4, 1, 1)           0            16\n"
        "flatten         Flatten            (N, 4)                 0            16\n"
        "fc              Linear             (N, 3)                15            12\n"
        "-------------------------------------------------------------------------\n"
        "Parameters: 227 (908 bytes)\n"
        "Layer outputs for N = 1: 1,580 bytes"
    )


def test_summary_leaves_everything_as_it_was():
    model = nn.Sequential(nn.Linear(2, 3, **F64), nn.BatchNorm1d(3, **F64).eval(), nn.Dropout())
    before, random_state = model.state_dict(), random.get_state()
    x = spread((4, 2))
    out = model(x)
    grad = copy.deepcopy(model).backward(out)
    random.set_state(random_state)
    table = model.summary((2,))
    assert table.rows[0].output_bytes == 3 * 8
    assert same_state(model.state_dict(), before)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert random.get_state() == random_state
    assert "forward" not in vars(model[0])
    np.testing.assert_array_equal(model.backward(out), grad)


def test_summary_failing_restores_the_modes():
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ValueError):
        model.summary((5,))
    assert model.training
    assert "forward" not in vars(model[0])


def test_summary_errors():
    with pytest.raises(TypeError, match=r"^module: expected a Module, got 3$"):
        nn.summary(3, (1,))
    with pytest.raises(ValueError, match=r"^input_shape: expected a positive int, got 0$"):
        nn.summary(nn.ReLU(), (0, 2))
    with pytest.raises(TypeError, match=r"^input_shape: expected a tuple of ints, got 5$"):
        nn.summary(nn.ReLU(), 5)


def test_watch_sees_every_module_and_ends():
    model = network()
    seen = []
    x = np.ones((2, 1, 6, 6), np.float32)
    with nn.watch(model, lambda name, layer, output: seen.append((name, type(layer).__name__, output.shape))):
        out = model(x)
    assert [name for name, _, _ in seen] == [
        "stem.0", "stem.1", "stem.2", "stem", "block.body", "block.shortcut", "block", "pool", "flatten", "fc", ""
    ]  # fmt: skip
    assert seen[-1] == ("", "Sequential", out.shape)
    model(x)
    assert len(seen) == 11


def test_watch_ends_with_an_exception():
    model = network()

    def stop(name, layer, output):
        raise KeyError(name)

    with pytest.raises(KeyError), nn.watch(model, stop):
        model(np.ones((2, 1, 6, 6), np.float32))
    assert model(np.ones((2, 1, 6, 6), np.float32)).shape == (2, 3)


def test_repr():
    model = nn.Sequential(nn.Linear(2, 3), nn.Residual(nn.ReLU()), nn.Dropout(0.1))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(in_features=2, out_features=3)\n"
        "  (1): Residual(\n"
        "    (body): ReLU()\n"
        "  )\n"
        "  (2): Dropout(p=0.1)\n"
        ")"
    )


def test_deepcopy_is_independent():
    model = network()
    other = copy.deepcopy(model)
    other["fc"].weight.data[:] = 0
    assert model["fc"].weight.data.any()


def test_every_public_name_has_a_docstring():
    for name in nn.__all__:
        assert getattr(nn, name).__doc__, name


def test_a_number_of_batches_that_is_assigned():
    layer = nn.BatchNorm1d(3)
    layer.num_batches_tracked = 4
    layer(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32))
    assert layer.state_dict()["num_batches_tracked"] == 5

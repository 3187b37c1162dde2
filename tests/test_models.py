"""The ready networks: sizes, names, shapes, gradients, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest

from fastcnn import models, nn, optim, random

MODELS = {
    "lenet5": (models.lenet5, (1, 28, 28)),
    "resnet20": (models.resnet20, (3, 32, 32)),
    "vgg_small": (models.vgg_small, (3, 32, 32)),
    "digits_cnn": (models.digits_cnn, (1, 8, 8)),
}


@pytest.fixture(autouse=True)
def _seed():
    random.manual_seed(0)


def conv(o: int, i: int, k: int, bias: bool = False) -> int:
    return o * i * k * k + o * bias


def norm(c: int) -> int:
    return 2 * c


def linear(o: int, i: int) -> int:
    return o * i + o


def block(i: int, o: int) -> int:
    projection = conv(o, i, 1) + norm(o) if i != o else 0
    return conv(o, i, 3) + norm(o) + conv(o, o, 3) + norm(o) + projection


COUNTS = {
    "lenet5": conv(6, 1, 5, True) + conv(16, 6, 5, True) + linear(120, 400) + linear(84, 120) + linear(10, 84),
    "resnet20": conv(16, 3, 3) + norm(16) + 3 * block(16, 16) + block(16, 32) + 2 * block(32, 32)
    + block(32, 64) + 2 * block(64, 64) + linear(10, 64),
    "vgg_small": sum(conv(o, i, 3) + norm(o) for i, o in zip((3, 64, 64, 128, 128, 256), (64, 64, 128, 128, 256, 256),
                                                            strict=True)) + linear(10, 256),
    "digits_cnn": conv(32, 1, 3) + norm(32) + conv(64, 32, 3) + norm(64) + linear(10, 256),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts(name):
    assert sum(p.size for p in MODELS[name][0]().parameters()) == COUNTS[name]


def test_counts_of_the_literature():
    assert COUNTS["lenet5"] == 61_706
    assert COUNTS["resnet20"] == 272_474  # 0.27 million in He et al. 2016, table 6


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward_shapes(name):
    make, shape = MODELS[name]
    channels = shape[0] + 1
    model = make(7, channels)
    x = np.random.default_rng(0).normal(size=(2, *shape[1:], channels)).astype(np.float32).transpose(0, 3, 1, 2)
    out = model(x)
    assert out.shape == (2, 7)
    assert out.dtype == np.float32
    grad = model.backward(np.ones_like(out))
    assert grad.shape == x.shape
    assert grad.dtype == np.float32
    assert all(np.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.any() for name, p in model.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize("name", MODELS)
def test_float64_and_seed(name):
    make, _ = MODELS[name]
    double = make(rng=np.random.default_rng(3), dtype=np.float64).state_dict()
    single = make(rng=np.random.default_rng(3)).state_dict()
    assert {array.dtype for key, array in double.items() if "tracked" not in key} == {np.dtype(np.float64)}
    for key, array in single.items():
        np.testing.assert_array_equal(array, double[key].astype(array.dtype))
    random.manual_seed(3)
    default = make().state_dict()
    assert all(np.array_equal(default[key], single[key]) for key in single)


@pytest.mark.parametrize("name", MODELS)
def test_a_few_steps_lower_the_loss(name):
    make, (channels, size, _) = MODELS[name]
    size = min(size, 28 if name == "lenet5" else 16)  # the others end in a mean over the image
    model = make().requires_input_grad(False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, size, size, channels)).astype(np.float32).transpose(0, 3, 1, 2)
    y = rng.integers(0, 10, 8)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = nn.CrossEntropyLoss()
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        value, grad = loss(model(x), y)
        model.backward(grad)
        optimizer.step()
        values.append(value)
    assert values[-1] < values[0]


def test_resnet_block_gradients():
    block = models.BasicBlock(2, 3, 2, dtype=np.float64)
    assert nn.gradcheck(block, np.random.default_rng(0).normal(size=(2, 2, 5, 4)))
    assert nn.gradcheck(models.BasicBlock(2, 2, dtype=np.float64), np.random.default_rng(1).normal(size=(2, 2, 3, 3)))


def test_resnet_block_without_input_gradient():
    block = models.BasicBlock(2, 2).requires_input_grad(False)
    assert block.backward(block(np.ones((1, 2, 3, 3), np.float32))) is None


def test_resnet_block_modes():
    block = models.BasicBlock(2, 4, 2).eval()
    assert not any(module.training for module in block.modules())
    before = block.state_dict()
    block(np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32))
    assert all(np.array_equal(before[name], array) for name, array in block.state_dict().items())


def test_lenet_names_are_torchs():
    assert {name: array.shape for name, array in models.lenet5().state_dict().items()} == {
        "conv1.weight": (6, 1, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }


def test_resnet_names_are_torchvisions():
    def norm_names(prefix: str, c: int) -> dict:
        buffers = {f"{prefix}.running_mean": (c,), f"{prefix}.running_var": (c,), f"{prefix}.num_batches_tracked": ()}
        return {f"{prefix}.weight": (c,), f"{prefix}.bias": (c,), **buffers}

    expected = {"conv1.weight": (16, 3, 3, 3), **norm_names("bn1", 16)}
    channels = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for i in range(3):
            prefix = f"layer{stage}.{i}"
            expected |= {f"{prefix}.conv1.weight": (width, channels, 3, 3), **norm_names(f"{prefix}.bn1", width)}
            expected |= {f"{prefix}.conv2.weight": (width, width, 3, 3), **norm_names(f"{prefix}.bn2", width)}
            if channels != width:
                expected |= {f"{prefix}.downsample.0.weight": (width, channels, 1, 1)}
                expected |= norm_names(f"{prefix}.downsample.1", width)
            channels = width
    expected |= {"fc.weight": (10, 64), "fc.bias": (10,)}
    state = models.resnet20().state_dict()
    assert {name: array.shape for name, array in state.items()} == expected
    assert list(state) == list(expected)


def test_vgg_names_are_numbered_layers():
    names = list(models.vgg_small().state_dict())
    assert names[0] == "features.0.weight"
    assert [name for name in names if name.endswith("running_mean")] == [
        f"features.{i}.running_mean" for i in (1, 4, 8, 11, 15, 18)
    ]
    assert names[-2:] == ["classifier.weight", "classifier.bias"]


def test_he_initialisation_of_convolutions():
    for name in ("resnet20", "vgg_small", "digits_cnn"):
        for module in MODELS[name][0]().modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * np.prod(module.kernel_size)
                tolerance = 4 / np.sqrt(2 * module.weight.size)  # four standard errors
                assert module.weight.data.std() == pytest.approx(np.sqrt(2 / fan_out), rel=tolerance)


def test_resnet_summary_totals():
    table = models.resnet20().summary((3, 32, 32))
    assert table.parameters == COUNTS["resnet20"] == sum(row.parameters for row in table.rows)
    assert table.rows[0][:3] == ("conv1", "Conv2d", (16, 32, 32))
    assert table.rows[-1][:3] == ("fc", "Linear", (10,))


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"^rng: expected a numpy\.random\.Generator or None, got 3$"):
        models.lenet5(rng=3)
    with pytest.raises(TypeError, match=r"^dtype: expected float32 or float64, got float16$"):
        models.resnet20(dtype=np.float16)
    with pytest.raises(ValueError, match=r"^in_channels: expected a positive int, got 0$"):
        models.vgg_small(in_channels=0)
    with pytest.raises(ValueError, match=r"^out_features: expected a positive int, got 0$"):
        models.digits_cnn(num_classes=0)

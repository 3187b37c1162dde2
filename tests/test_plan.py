"""The memory of a training step: what `plan` says before, and what the step then takes."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastcnn
from fastcnn import models, nn, optim, random
from fastcnn.kernels import memory
from fastcnn.training import Trainer

MODELS = {
    "lenet5": (models.lenet5, (64, 1, 28, 28)),
    "resnet20": (models.resnet20, (16, 3, 32, 32)),
    "vgg_small": (models.vgg_small, (8, 3, 32, 32)),
}


@pytest.fixture(autouse=True)
def _seed():
    random.manual_seed(0)


def batch(size):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size[0], *size[2:], size[1]), np.float32)
    return np.moveaxis(images, -1, 1), rng.integers(0, 10, size[0])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_takes_what_was_planned(name, count, threads):
    threads(count)
    build, size = MODELS[name]
    model = build()
    planned = model.plan(size)
    trainer, arrays = Trainer(model, optim.SGD(model.parameters(), 0.01, momentum=0.9)), batch(size)
    for _ in range(2):
        before, _ = memory.used_bytes()
        memory.restart_peak()
        trainer.step(*arrays)
        taken = memory.used_bytes()[1] - before
        assert planned.total - planned.parameters == pytest.approx(taken, rel=0.05)
    own = [array for p in model.parameters() for array in (p.data, p.grad)] + list(model.buffers())
    assert planned.parameters == sum(array.nbytes for array in own)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of the process from /proc")
def test_the_process_grows_by_what_was_planned():
    code = """
        import numpy as np
        from fastcnn import models, optim
        from fastcnn.training import Trainer

        def peak(name):
            with open("/proc/self/status") as file:
                return int(dict(line.split(":", 1) for line in file)[name].split()[0]) * 1024

        model = models.resnet20()
        trainer = Trainer(model, optim.SGD(model.parameters(), 0.01, momentum=0.9))
        x = np.moveaxis(np.random.default_rng(0).standard_normal((96, 32, 32, 3), np.float32), -1, 1)
        trainer.step(x[:2], np.arange(2))
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = peak("VmRSS")
        for _ in range(3):
            trainer.step(x, np.arange(96) % 10)
        grown = peak("VmHWM") - before
        planned = model.plan(x.shape)
        print(grown / (planned.total - planned.parameters))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(1, abs=0.05)


def test_a_block_keeps_three_arrays():
    """What both batch norms read, and the output, which the next block reads; not what the second convolution reads."""
    found = models.BasicBlock(8, 8).plan((4, 8, 16, 16))
    array = 4 * 8 * 16 * 16 * 4
    assert 3 * array <= found.activations <= 3 * array + 4096
    assert found.indices == 0


def test_masks_and_taps_are_indices():
    model = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.5))
    found = model.plan((4, 8, 16, 16))
    assert found.indices == 2 * 4 * 8 * 8 * 8
    assert found.activations == 0
    assert nn.ReLU().plan((300, 20)).activations == 300 * 20 * 4


def test_a_model_is_left_as_it_was():
    model = models.digits_cnn().eval()
    model["pool1"].training = True
    model["fc"].weight.grad = np.ones(model["fc"].weight.shape)
    before, state = copy.deepcopy(model), random.get_state()
    model.plan((16, 1, 8, 8))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before.state_dict()[name])
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        np.testing.assert_array_equal(a.grad, b.grad)
    for mode in ("training", "needs_input_grad"):
        assert [getattr(m, mode) for m in model.modules()] == [getattr(m, mode) for m in before.modules()]
    assert random.get_state() == state
    with pytest.raises(RuntimeError, match="expected a forward pass before it"):
        model.backward(np.zeros((16, 10), np.float32))


def test_a_model_is_left_as_it_was_by_an_error():
    model = models.resnet20().eval()
    for parameter in model.parameters():
        parameter.grad = np.ones(parameter.shape)
    with pytest.raises(ValueError, match="channels"):
        model.plan((4, 1, 32, 32))
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_the_table():
    found = nn.Plan(1_000_000, 2000, 300, 40)
    assert found.total == 1_002_340
    assert str(found).splitlines() == [
        "Activations       1,000,000 bytes",
        "Indices               2,000 bytes",
        "Scratch                 300 bytes",
        "Parameters               40 bytes",
        "Total             1,002,340 bytes",
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.plan(3, (1, 2)), TypeError, "module: expected a Module, got 3"),
        (lambda: nn.ReLU().plan(4), TypeError, "input_shape: expected a tuple of ints, got 4"),
        (lambda: nn.ReLU().plan((4, 0)), ValueError, "input_shape: expected a positive int, got 0"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_nothing_waits_that_was_never_used():
    """Free memory of one size serves arrays of another, so that what waits is no more than a step took."""
    model, arrays = models.resnet20(), batch((16, 3, 32, 32))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01))
    fastcnn.empty_cache()
    for _ in range(3):
        trainer.step(*arrays)
    planned = model.plan((16, 3, 32, 32))
    assert memory.cached_bytes() <= 1.15 * (planned.total - planned.parameters)

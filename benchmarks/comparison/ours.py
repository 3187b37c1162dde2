"""fastcnn's side: functions that a worker calls, each of which returns what is timed.

It may run over an older or a newer build than this file belongs to, and so uses documented names of fastcnn alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np

import fastcnn
from comparison.problems import (
    MOMENTUM,
    PASSES,
    RATE,
    TEST_BATCH,
    TIMED_RATE,
    Images,
    Layer,
    Recipe,
    classes,
    normal,
    ordered,
    peak_of,
    tensors,
    weights,
)
from fastcnn import functional, models, nn, optim, reference
from fastcnn.training import Augment, DataLoader, Trainer
from fastcnn.training.datasets import ImageDataset

Call = Callable[[], Any]


def about(threads: int, precision: str) -> dict[str, str]:
    """Set threads and precision; return what this build is."""
    fastcnn.set_num_threads(threads)
    fastcnn.set_float32_matmul_precision(precision)
    return {"file": fastcnn.__file__, **fastcnn.show_config(mode="dicts")}


# --- networks -------------------------------------------------------------------------------------------------------


def mobilenet_small(num_classes: int = 10, *, rng: np.random.Generator | None = None) -> nn.Sequential:
    """A network of depthwise-separable convolutions, in the manner of MobileNet, for 32x32 images.

    References
    ----------
    A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017.
    """

    def convolution(c: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(c, o, kernel, stride, kernel // 2, groups=groups, bias=False, rng=rng)
        return [layer, nn.BatchNorm2d(o), nn.ReLU()]

    layers, channels = convolution(3, 32, 3), 32
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers += convolution(channels, channels, 3, stride, channels) + convolution(channels, width, 1)
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes, rng=rng))


NETWORKS = {
    "LeNet-5": models.lenet5,
    "ResNet-20": models.resnet20,
    "VGG-small": models.vgg_small,
    "depthwise-separable net": mobilenet_small,
}


def network(name: str) -> nn.Module:
    """Return a network with the weights that every side begins with."""
    model = NETWORKS[name]()
    model.load_state_dict(weights(model.state_dict()))
    return model


def step(name: str, size: tuple[int, ...], order: str, rate: float) -> Call:
    """A training step, which returns the loss."""
    model = network(name)
    trainer = Trainer(model, optim.SGD(model.parameters(), rate, MOMENTUM))
    return partial(trainer.step, ordered(normal(*size), order), classes(size[0]))


def evaluation(name: str, size: tuple[int, ...], order: str) -> Call:
    """A forward pass without gradients, which returns the class scores."""
    model, inputs = network(name).eval(), ordered(normal(*size), order)

    def evaluate() -> np.ndarray:
        with nn.no_grad():
            return model(inputs)

    return evaluate


# --- convolutions ---------------------------------------------------------------------------------------------------


def convolution(layer: Layer, which: str, order: str) -> Call:
    """One of a convolution's three passes."""
    x, weight, grad = layer.arrays()
    x, grad = ordered(x, order), ordered(grad, order)
    geometry = layer.s, layer.p, 1, layer.g
    if which == "forward":
        return partial(getattr(functional, f"conv{layer.dims}d"), x, weight, None, *geometry)
    backward = getattr(functional, f"conv{layer.dims}d_backward")
    needs = (which == "data", which == "weight", False)
    return lambda: backward(grad, x, weight, *geometry, needs=needs)[PASSES.index(which) - 1]


def exact(layer: Layer, which: str, images: int) -> np.ndarray:
    """The result of one pass in float64 by NumPy: of the first images, or of all for the gradient of the weight."""
    x, weight, grad = (array.astype(np.float64) for array in layer.arrays())
    geometry = layer.s, layer.p, 1, layer.g

    def piece(i: int) -> np.ndarray:
        part = slice(i, i + images)
        if which == "forward":
            return getattr(reference, f"conv{layer.dims}d")(x[part], weight, None, *geometry)
        backward = getattr(reference, f"conv{layer.dims}d_backward")
        needs = (which == "data", which == "weight", False)
        return backward(grad[part], x[part], weight, *geometry, needs=needs)[PASSES.index(which) - 1]

    return sum(map(piece, range(0, layer.n, images))) if which == "weight" else piece(0)


def memory_of_convolution(layer: Layer, order: str) -> int:
    """Peak of a forward pass and both gradients, with their results, over input, weight and output gradient."""
    x, weight, grad = layer.arrays()
    x, grad = ordered(x, order), ordered(grad, order)
    geometry = layer.s, layer.p, 1, layer.g
    forward = getattr(functional, f"conv{layer.dims}d")
    backward = getattr(functional, f"conv{layer.dims}d_backward")
    needs = True, True, False
    return peak_of(lambda: (forward(x, weight, None, *geometry), backward(grad, x, weight, *geometry, needs=needs)))


def memory_of_step(name: str, size: tuple[int, ...], order: str) -> int:
    """Peak of a training step over what model, optimizer and batch take."""
    step(name, (1, *size[1:]), order, RATE)()  # loads what is loaded at the first call
    call = step(name, size, order, RATE)
    return peak_of(lambda: [call() for _ in range(3)])


# --- layers and optimizers ------------------------------------------------------------------------------------------

LAYERS = {
    "max-pool 2x2": lambda channels: nn.MaxPool2d(2),
    "max-pool 3x3 /2": lambda channels: nn.MaxPool2d(3, 2, 1),
    "batch norm and ReLU": lambda channels: nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()),
}


def layer(name: str, size: tuple[int, ...], order: str) -> Call:
    """Forward and backward pass of a layer."""
    module, inputs = LAYERS[name](size[1]), ordered(normal(*size), order)
    module.load_state_dict(weights(module.state_dict()))
    grad = ordered(normal(*module(inputs).shape), order)

    def run() -> tuple[np.ndarray, ...]:
        module.zero_grad()
        return module(inputs), module.backward(grad), *(parameter.grad for parameter in module.parameters())

    return run


def adam() -> Call:
    """An update of Adam, which returns the parameters."""
    parameters = [nn.Parameter(array) for array in tensors()]
    optimizer = optim.Adam(parameters, 1e-3)
    for parameter in parameters:
        parameter.grad = parameter.data / 8
    learnt = tuple(parameter.data for parameter in parameters)

    def update() -> tuple[np.ndarray, ...]:
        optimizer.step()
        return learnt

    return update


# --- training -------------------------------------------------------------------------------------------------------


def _trainer(recipe: Recipe, updates: int) -> Trainer:
    model = network(recipe.network)
    sgd = optim.SGD(model.parameters(), recipe.rate, MOMENTUM, weight_decay=recipe.weight_decay, nesterov=True)
    return Trainer(model, sgd, schedule=optim.OneCycleLR(sgd, recipe.rate, updates, cycle_momentum=False))


def training(recipe: Recipe, images: Images, epochs: int) -> Call:
    """An epoch of training and the evaluation after it: each call is the next one, and returns seconds and accuracy."""
    normalise = {"mean": images.mean, "std": images.std, "scale": images.scale}
    augment = Augment(crop_padding=recipe.padding, horizontal_flip=True) if recipe.padding else None
    train = DataLoader(ImageDataset(images.train, images.train_classes, **normalise), recipe.batch, True, augment)
    test = DataLoader(ImageDataset(images.test, images.test_classes, **normalise), TEST_BATCH)
    warm = _trainer(recipe, len(train))
    for batch in islice(train.epoch(0), 3):
        warm.step(*batch)
    warm.evaluate(test)
    trainer, numbers = _trainer(recipe, epochs * len(train)), count()

    def epoch() -> tuple[float, float]:
        start = time.perf_counter()
        for batch in train.epoch(next(numbers)):
            trainer.step(*batch)
        accuracy = trainer.evaluate(test)["accuracy"]
        return time.perf_counter() - start, accuracy

    return epoch


def trained_hash(steps: int, batch: int) -> str:
    """SHA-256 of LeNet-5's weights after a short training."""
    rng = np.random.default_rng(0)
    model = models.lenet5(rng=rng)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.05, momentum=0.9))
    for _ in range(steps):
        inputs, targets = rng.standard_normal((batch, 1, 28, 28), np.float32), rng.integers(0, 10, batch)
        trainer.step(inputs, targets)
    digest = hashlib.sha256()
    for array in model.state_dict().values():
        digest.update(array.tobytes())
    return digest.hexdigest()


# --- the loader -----------------------------------------------------------------------------------------------------

IMAGES = 8192


def _batches(size: tuple[int, ...], batch: int, padding: int, flip: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, *size[1:], size[0]), np.uint8).transpose(0, 3, 1, 2)
    augment = Augment(crop_padding=padding, horizontal_flip=flip)
    loader = DataLoader((images, rng.integers(0, 10, IMAGES)), batch, shuffle=True, augment=augment)
    return chain.from_iterable(map(loader.epoch, count()))


def next_batch(name: str, size: tuple[int, ...], batch: int, padding: int, flip: bool) -> Call:
    """The next batch of the loader."""
    return partial(next, _batches(size, batch, padding, flip))


def step_on_batch(name: str, size: tuple[int, ...], batch: int, padding: int, flip: bool) -> Call:
    """A training step on a batch of the loader."""
    model = network(name)
    trainer = Trainer(model, optim.SGD(model.parameters(), TIMED_RATE, MOMENTUM))
    return partial(trainer.step, *next(_batches(size, batch, padding, flip)))

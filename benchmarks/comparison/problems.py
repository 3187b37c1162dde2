"""What both sides of a comparison compute with: layers, networks' weights, inputs. NumPy alone."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

ORDERS = ("NCHW", "channels-last")
PASSES = ("forward", "data", "weight")
MOMENTUM = 0.9
# The learning rate of the steps that are compared, and of those that are timed: small enough that a network which sees
# one batch a hundred thousand times stays as it was, and its gradients what they are in training.
RATE, TIMED_RATE = 0.01, 1e-9


def ordered(array: np.ndarray, order: str) -> np.ndarray:
    """Return an array (N, C, ...) in memory of its own, in one of the two orders."""
    if order == "NCHW" or array.ndim < 3:
        return np.array(array, order="C")
    last = np.moveaxis(array, 1, -1)
    # Reshaped, as with one channel NumPy calls either order contiguous and keeps the strides there are.
    return np.moveaxis(np.array(last, order="C").reshape(last.shape), -1, 1)


def normal(*size: int) -> np.ndarray:
    """Normally distributed numbers, the same in every process."""
    return np.random.default_rng(1).standard_normal(size, np.float32)


def classes(count: int) -> np.ndarray:
    """Classes of so many images, the same in every process."""
    return np.random.default_rng(2).integers(0, 10, count)


def weights(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights for a network's state, the same for the same names and shapes in every library and version."""
    filled = {}
    for name, array in state.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        last, shape = name.rpartition(".")[2], np.shape(array)
        if len(shape) > 1:  # He's initialisation
            filled[name] = rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
        elif last in ("weight", "bias"):
            filled[name] = (last == "weight") + np.float32(0.1) * rng.standard_normal(shape, np.float32)
        else:
            filled[name] = np.array(array)
    return filled


@dataclass(frozen=True)
class Layer:
    """A convolution: batch, input channels, size, output channels, kernel, stride, padding, groups."""

    n: int
    c: int
    size: tuple[int, ...]
    o: int
    k: int
    s: int
    p: int
    g: int = 1

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple((extent + 2 * self.p - self.k) // self.s + 1 for extent in self.size)

    @property
    def flops(self) -> int:
        """Multiplications and additions of any of the three passes."""
        return 2 * self.n * self.o * math.prod(self.output_size) * (self.c // self.g) * self.k**self.dims

    @property
    def bytes(self) -> int:
        """Size of input and output in float32."""
        return 4 * self.n * (self.c * math.prod(self.size) + self.o * math.prod(self.output_size))

    @property
    def name(self) -> str:
        size = "x".join(map(str, self.size))
        extras = [f"{word}{value}" for word, value, usual in (("/", self.s, 1), ("g", self.g, 1)) if value != usual]
        return " ".join([f"{self.n}x{self.c}x{size} -> {self.o}", "x".join([str(self.k)] * self.dims), *extras])

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input, weight and gradient of the output, normally distributed."""
        rng = np.random.default_rng(0)
        weight_size = (self.o, self.c // self.g) + (self.k,) * self.dims
        sizes = (self.n, self.c, *self.size), weight_size, (self.n, self.o, *self.output_size)
        return tuple(rng.standard_normal(size, np.float32) for size in sizes)


def square(n: int, c: int, h: int, o: int, k: int, s: int, p: int, g: int = 1) -> Layer:
    """Return a convolution of square images."""
    return Layer(n, c, (h, h), o, k, s, p, g)


SUITE = [
    square(64, 1, 28, 6, 5, 1, 2),  # LeNet
    square(64, 6, 14, 16, 5, 1, 0),
    square(128, 3, 32, 16, 3, 1, 1),  # networks for CIFAR
    square(128, 16, 32, 16, 3, 1, 1),
    square(128, 16, 32, 32, 3, 2, 1),
    square(128, 32, 16, 32, 3, 1, 1),
    square(128, 64, 8, 64, 3, 1, 1),
    square(64, 3, 32, 32, 7, 1, 3),
    square(8, 3, 224, 64, 7, 2, 3),  # networks for ImageNet
    square(8, 64, 56, 64, 3, 1, 1),
    square(8, 128, 28, 128, 3, 1, 1),
    square(8, 256, 14, 256, 3, 1, 1),
    square(8, 512, 7, 512, 3, 1, 1),
    square(8, 64, 56, 256, 1, 1, 0),
    square(8, 1024, 14, 256, 1, 1, 0),
    square(8, 96, 56, 96, 3, 1, 1, 96),  # depthwise
    square(8, 96, 112, 96, 3, 2, 1, 96),
    Layer(64, 32, (1000,), 64, 9, 1, 4),  # 1-D
]


# --- PyTorch's settings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How PyTorch is used: memory order of the weights and of the inputs, optimizer, and whether it compiles."""

    order: str = "contiguous"
    inputs: str = "NCHW"
    compiled: bool = False
    optimizer: str = "foreach"

    @property
    def name(self) -> str:
        converted = self.order == "channels-last" and self.inputs == "NCHW"
        return ", ".join(
            [self.order + " from NCHW" * converted]
            + ["compiled"] * self.compiled
            + [self.optimizer] * (self.optimizer != "foreach")
        )

    def suits(self, order: str) -> bool:
        """Whether it is a peer for inputs in an order: it takes them, or those in the order of its own weights."""
        return self.inputs == order or (order == "channels-last" and self.order == "contiguous")


# --- training on images ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """A data set's training and test images as bytes (N, H, W, C), their classes, and what normalises them."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov's momentum, its rate in one cycle over all epochs, up to `rate`.

    With `padding`, training images are padded by so many pixels and cropped back at random, and half of them flipped. A
    side is done after the epoch in which its test accuracy reaches `target`, or after the last one.
    """

    name: str
    data: str
    network: str
    batch: int
    epochs: int
    rate: float
    padding: int
    target: float | None
    weight_decay: float = 5e-4


TEST_BATCH = 1000


# --- memory ---------------------------------------------------------------------------------------------------------


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process rises, at most, during a call. Linux only.

    The mark is reset first. (getrusage's ru_maxrss has none to reset, and begins with that of the parent process.)
    """
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file)
    return int(found[name].split()[0]) * 1024


def tensors() -> list[np.ndarray]:
    """A million numbers in 60 arrays, as unequal as those of a network."""
    sizes = np.geomspace(16, 160_000, 60)
    return [normal(int(size)) for size in np.ceil(sizes * (1e6 / sizes.sum()))]


def loaded(library: str) -> bool:
    """Whether this process has imported a library."""
    return library in sys.modules

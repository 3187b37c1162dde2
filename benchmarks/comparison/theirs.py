"""PyTorch's side: functions that a worker calls, each of which returns what is timed. It imports nothing of fastcnn."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from comparison.problems import (
    MOMENTUM,
    PASSES,
    RATE,
    TEST_BATCH,
    Images,
    Layer,
    Recipe,
    Setting,
    classes,
    normal,
    peak_of,
    tensors,
    weights,
)

Call = Callable[[], Any]


def about(threads: int, precision: str) -> dict[str, str]:
    """Set threads and, at 'medium', bf16 products in convolutions, as fastcnn's have; return what this build is."""
    torch.set_num_threads(threads)
    if precision == "medium":
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
    return {
        "version": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "float32 products": torch.get_float32_matmul_precision(),
        "convolutions": torch.backends.mkldnn.conv.fp32_precision,
    }


def _ordered(network: nn.Module, setting: Setting) -> nn.Module:
    return network.to(memory_format=torch.channels_last) if setting.order == "channels-last" else network


def _compiled(network: nn.Module, setting: Setting) -> nn.Module:
    if not setting.compiled:
        return network
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


def _tensor(array: np.ndarray, setting: Setting) -> torch.Tensor:
    """Return a tensor with memory of its own, in the order of the setting's inputs."""
    value = torch.from_numpy(np.array(array, order="C"))
    last = setting.inputs == "channels-last" and value.ndim == 4
    return value.to(memory_format=torch.channels_last) if last else value


# --- networks -------------------------------------------------------------------------------------------------------


def lenet5() -> nn.Module:
    """LeNet-5, as fastcnn.models has it; ReLUs work in place, as torchvision's do."""
    layers = {
        "conv1": nn.Conv2d(1, 6, 5, padding=2),
        "relu1": nn.ReLU(inplace=True),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(6, 16, 5),
        "relu2": nn.ReLU(inplace=True),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc1": nn.Linear(400, 120),
        "relu3": nn.ReLU(inplace=True),
        "fc2": nn.Linear(120, 84),
        "relu4": nn.ReLU(inplace=True),
        "fc3": nn.Linear(84, 10),
    }
    return nn.Sequential(OrderedDict(layers))


class Block(nn.Module):
    """Two convolutions and a shortcut, as torchvision's BasicBlock."""

    def __init__(self, c: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.relu, self.downsample = nn.ReLU(inplace=True), None
        if stride != 1 or c != o:
            self.downsample = nn.Sequential(nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = self.relu(self.bn1(self.conv1(input)))
        output = self.bn2(self.conv2(output))
        output += input if self.downsample is None else self.downsample(input)
        return self.relu(output)


def resnet20() -> nn.Module:
    """ResNet-20, as fastcnn.models has it."""

    def stage(c: int, o: int, stride: int) -> nn.Module:
        return nn.Sequential(Block(c, o, stride), Block(o, o, 1), Block(o, o, 1))

    layers = {
        "conv1": nn.Conv2d(3, 16, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(16),
        "relu": nn.ReLU(inplace=True),
        "layer1": stage(16, 16, 1),
        "layer2": stage(16, 32, 2),
        "layer3": stage(32, 64, 2),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(64, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def _normalised(c: int, o: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(c, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(o), nn.ReLU(inplace=True)]


def vgg_small() -> nn.Module:
    """The small VGG of fastcnn.models."""
    layers, channels = [], 3
    for width in (64, 128, 256):
        layers += _normalised(channels, width, 3) + _normalised(width, width, 3) + [nn.MaxPool2d(2)]
        channels = width
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(channels, 10)}
    return nn.Sequential(OrderedDict({"features": nn.Sequential(*layers), **head}))


def mobilenet_small() -> nn.Module:
    """The network of depthwise-separable convolutions of `comparison.ours`."""
    layers, channels = _normalised(3, 32, 3), 32
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers += _normalised(channels, channels, 3, stride, channels) + _normalised(channels, width, 1)
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


NETWORKS = {
    "LeNet-5": lenet5,
    "ResNet-20": resnet20,
    "VGG-small": vgg_small,
    "depthwise-separable net": mobilenet_small,
}


def _filled(network: nn.Module) -> nn.Module:
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights(state).items()})
    return network


def step(name: str, size: tuple[int, ...], setting: Setting, rate: float) -> Call:
    """A training step, which returns the loss."""
    network = _ordered(_filled(NETWORKS[name]()), setting)
    sgd = torch.optim.SGD(network.parameters(), rate, MOMENTUM, **{setting.optimizer: True})
    inputs, targets = _tensor(normal(*size), setting), torch.from_numpy(classes(size[0]))
    model = _compiled(network, setting)

    def run() -> torch.Tensor:
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        sgd.step()
        return loss.detach()

    return run


def evaluation(name: str, size: tuple[int, ...], setting: Setting) -> Call:
    """A forward pass without gradients, which returns the class scores."""
    network = _ordered(_filled(NETWORKS[name]()).eval(), setting)
    inputs, model = _tensor(normal(*size), setting), _compiled(network, setting)

    def evaluate() -> torch.Tensor:
        with torch.inference_mode():
            return model(inputs)

    return evaluate


# --- convolutions ---------------------------------------------------------------------------------------------------


def convolution(layer: Layer, which: str, setting: Setting) -> Call:
    """One of a convolution's three passes: the gradients are those of the operator that autograd calls.

    Sequences have no channels-last order in PyTorch; there they are images of one row.
    """
    arrays, dims = layer.arrays(), layer.dims
    lift = setting.order == "channels-last" and dims == 1
    if lift:
        arrays, dims = tuple(array[:, :, None] for array in arrays), 2
    x, weight, grad = (_tensor(array, setting) for array in arrays)
    stride, padding = ([1, layer.s], [0, layer.p]) if lift else ([layer.s] * dims, [layer.p] * dims)
    ones, zeros, convolve = [1] * dims, [0] * dims, torch.conv2d if dims == 2 else torch.conv1d
    needs = [which == "data", which == "weight", False]

    @torch.inference_mode()
    def run() -> torch.Tensor:
        if which == "forward":
            result = convolve(x, weight, None, stride, padding, ones, layer.g)
        else:
            result = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, ones, False, zeros, layer.g, needs
            )[PASSES.index(which) - 1]
        return result[:, :, 0] if lift else result

    return run


def memory_of_convolution(layer: Layer, setting: Setting) -> int:
    """Peak of a forward pass and both gradients, with their results, over input, weight and output gradient."""
    x, weight, grad = (_tensor(array, setting) for array in layer.arrays())
    x.requires_grad_()
    weight.requires_grad_()
    function = getattr(nn.functional, f"conv{layer.dims}d")

    def run() -> Any:
        output = function(x, weight, None, layer.s, layer.p, 1, layer.g)
        return output, torch.autograd.grad(output, (x, weight), grad)

    return peak_of(run)


def memory_of_step(name: str, size: tuple[int, ...], setting: Setting) -> int:
    """Peak of a training step over what model, optimizer and batch take."""
    step(name, (1, *size[1:]), setting, RATE)()  # loads what is loaded at the first call
    call = step(name, size, setting, RATE)
    return peak_of(lambda: [call() for _ in range(3)])


# --- layers and optimizers ------------------------------------------------------------------------------------------

LAYERS = {
    "max-pool 2x2": lambda channels: nn.MaxPool2d(2),
    "max-pool 3x3 /2": lambda channels: nn.MaxPool2d(3, 2, 1),
    "batch norm and ReLU": lambda channels: nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True)),
}


def layer(name: str, size: tuple[int, ...], setting: Setting) -> Call:
    """Forward and backward pass of a layer."""
    network = _filled(LAYERS[name](size[1]))
    inputs = _tensor(normal(*size), setting).requires_grad_()
    grad = _tensor(normal(*network(inputs).shape), setting)
    wanted, model = (inputs, *network.parameters()), _compiled(network, setting)

    def run() -> tuple[torch.Tensor, ...]:
        output = model(inputs)
        return output, *torch.autograd.grad(output, wanted, grad)

    return run


def adam(setting: Setting) -> Call:
    """An update of Adam, which returns the parameters."""
    parameters = tuple(torch.from_numpy(array).requires_grad_() for array in tensors())
    optimizer = torch.optim.Adam(parameters, 1e-3, **{setting.optimizer: True})
    for parameter in parameters:
        parameter.grad = parameter.detach() / 8

    def update() -> tuple[torch.Tensor, ...]:
        optimizer.step()
        return parameters

    return update


# --- training -------------------------------------------------------------------------------------------------------


class Loader:
    """Normalised batches of images that are in memory as a tensor; crops and flips are gathers over the whole batch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, data: Images, batch: int, padding: int) -> None:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        self.images = nn.functional.pad(pixels, (padding,) * 4).contiguous()
        self.labels, self.batch, self.padding, self.size = torch.from_numpy(labels), batch, padding, images.shape[1:3]
        mean, std = (torch.tensor(value, dtype=torch.float32).view(-1, 1, 1) for value in (data.mean, data.std))
        self.factor, self.shift = data.scale / std, -mean / std

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def epoch(self, shuffle: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self.images)) if shuffle else torch.arange(len(self.images))
        for chosen in order.split(self.batch):
            pixels = self.images[chosen] if not self.padding else self._cropped(chosen)
            yield pixels.float().mul_(self.factor).add_(self.shift), self.labels[chosen]

    def _cropped(self, chosen: torch.Tensor) -> torch.Tensor:
        n, (height, width) = len(chosen), self.size
        top, left = torch.randint(0, 2 * self.padding + 1, (2, n, 1))
        columns = torch.arange(width).expand(n, width)
        columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns) + left
        rows = torch.arange(height) + top
        # Advanced indices of (N, 1, H, W) with the channels between.
        channels = torch.arange(self.images.shape[1]).view(1, -1, 1, 1)
        return self.images[chosen.view(-1, 1, 1, 1), channels, rows[:, None, :, None], columns[:, None, None, :]]


class Training:
    """A network and what trains it: the loop that PyTorch's tutorials show."""

    def __init__(self, recipe: Recipe, setting: Setting, updates: int) -> None:
        self.network = _ordered(_filled(NETWORKS[recipe.network]()), setting)
        self.format = torch.channels_last if setting.order == "channels-last" else torch.contiguous_format
        self.sgd = torch.optim.SGD(
            self.network.parameters(), recipe.rate, MOMENTUM, weight_decay=recipe.weight_decay, nesterov=True,
            **{setting.optimizer: True},
        )  # fmt: skip
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.sgd, recipe.rate, total_steps=updates + 1, cycle_momentum=False
        )

    def update(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.sgd.zero_grad()
        output = self.network(inputs.contiguous(memory_format=self.format))
        nn.functional.cross_entropy(output, targets).backward()
        self.sgd.step()
        self.schedule.step()

    def accuracy(self, test: Loader) -> float:
        self.network.eval()
        right = 0
        with torch.inference_mode():
            for inputs, targets in test.epoch(False):
                output = self.network(inputs.contiguous(memory_format=self.format))
                right += int((output.argmax(1) == targets).sum())
        self.network.train()
        return right / len(test.labels)


def training(recipe: Recipe, images: Images, epochs: int, setting: Setting) -> Call:
    """An epoch of training and the evaluation after it: each call is the next one, and returns seconds and accuracy."""
    torch.manual_seed(0)
    train = Loader(images.train, images.train_classes, images, recipe.batch, recipe.padding)
    test = Loader(images.test, images.test_classes, images, TEST_BATCH, 0)
    warm = Training(recipe, setting, len(train))
    for batch in islice(train.epoch(True), 3):
        warm.update(*batch)
    warm.accuracy(test)
    trained = Training(recipe, setting, epochs * len(train))

    def epoch() -> tuple[float, float]:
        start = time.perf_counter()
        for batch in train.epoch(True):
            trained.update(*batch)
        accuracy = trained.accuracy(test)
        return time.perf_counter() - start, accuracy

    return epoch

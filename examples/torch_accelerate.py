"""Train a ResNet-20 with PyTorch, and with fastcnn under the same model: losses compared first, then times.

    pip install 'fastcnn[torch]'
    python examples/torch_accelerate.py

The sides start from the same weights and see the same batches. Training makes any rounding error grow from step to
step, whoever made it; so the losses of each side are set against those of the same training in float64, and fastcnn's
may be off by what torch's are. Then the sides take steps in turns, so that whatever else the machine does falls on all
of them alike.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time

# fastcnn first: the OpenMP runtime, which both libraries use, then keeps idle threads spinning for less long.
import fastcnn.torch  # isort: split

import torch
from torch import nn
from torch.nn import functional

# How much larger than torch's own the largest error of a loss may be: rounding is a matter of chance.
ALLOWANCE = 3
# Errors below this, of losses of about 2, are the last bits of a float32.
LAST_BITS = 1e-6


class Block(nn.Module):
    """Two 3x3 convolutions added to the block's input; a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu2(y)


def resnet20() -> nn.Sequential:
    """The network of He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2."""

    def stage(inputs: int, outputs: int, stride: int) -> list[Block]:
        return [Block(inputs, outputs, stride), Block(outputs, outputs, 1), Block(outputs, outputs, 1)]

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        *stage(16, 16, 1), *stage(16, 32, 2), *stage(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


class Side:
    """One way to train: a copy of the model and an optimizer of its own."""

    def __init__(self, model: nn.Module, memory_format: torch.memory_format, dtype: torch.dtype) -> None:
        self.memory_format, self.dtype = memory_format, dtype
        self.model = copy.deepcopy(model).to(dtype=dtype, memory_format=memory_format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.005, momentum=0.9)

    def step(self, images: torch.Tensor, classes: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(images), classes)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def batches(self, images: torch.Tensor) -> torch.Tensor:
        """The images as this side reads them, converted before the clock runs."""
        flat = images.flatten(0, 1).to(self.dtype).contiguous(memory_format=self.memory_format)
        return flat.unflatten(0, images.shape[:2])


def data(steps: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Batches of noise over one of ten patterns of four colours: something to learn."""
    patterns = torch.randn(10, 3, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    classes = torch.randint(0, 10, (steps, batch_size))
    return patterns[classes] + 0.5 * torch.randn(steps, batch_size, 3, 32, 32), classes


def compare_losses(sides: dict[str, Side], exact: Side, images: torch.Tensor, classes: torch.Tensor) -> bool:
    """Train each side on all batches; print the losses; whether fastcnn's are as near to float64's as torch's."""
    losses = {}
    for name, side in {**sides, "float64": exact}.items():
        losses[name] = [side.step(x, y) for x, y in zip(side.batches(images), classes, strict=True)]
    print("step", *(f"{name:>20}" for name in losses))
    for i, row in enumerate(zip(*losses.values(), strict=True)):
        print(f"{i + 1:4}", *(f"{loss:20.7f}" for loss in row))
    errors = {
        name: max(abs(a - b) for a, b in zip(losses[name], losses["float64"], strict=True)) for name in sides
    }  # fmt: skip
    print("largest difference from float64:", ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    ours = errors.pop("fastcnn")
    return ours <= max(LAST_BITS, ALLOWANCE * max(errors.values()))


def compare_times(sides: dict[str, Side], images: torch.Tensor, classes: torch.Tensor, seconds: float) -> None:
    """Let the sides take steps in turns; print the median time of each and the ratio to the faster of torch's."""
    batches = {name: side.batches(images) for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    names, rounds, end = list(sides), 0, time.perf_counter() + seconds
    while rounds < 5 or time.perf_counter() < end:
        for name in names[rounds % len(names) :] + names[: rounds % len(names)]:
            i = rounds % len(classes)
            start = time.perf_counter()
            sides[name].step(batches[name][i], classes[i])
            times[name].append(time.perf_counter() - start)
        rounds += 1
    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"\ntime of a step, median of {rounds}:")
    for name, median in medians.items():
        print(f"  {name:20} {median * 1e3:8.1f} ms   (least {min(times[name]) * 1e3:.1f})")
    best = min((name for name in medians if name != "fastcnn"), key=medians.__getitem__)
    ratio = medians[best] / medians["fastcnn"]
    print(f"{best} / fastcnn: {ratio:.2f}")


def profile(sides: dict[str, Side], images: torch.Tensor, classes: torch.Tensor) -> None:
    """Print where the time of a step goes, by operation."""
    for name, side in sides.items():
        batches = side.batches(images)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            for x, y in zip(batches[:4], classes[:4], strict=True):
                side.step(x, y)
        print(f"\n{name}: milliseconds of a step by operation")
        for event in sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)[:12]:
            print(f"  {event.self_cpu_time_total / 4e3:8.2f}  {event.count / 4:6.0f} calls  {event.key}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a ResNet-20 with PyTorch, with and without fastcnn.")
    add = parser.add_argument
    add("--batch-size", type=int, default=128, metavar="N", help="images of a step (default: 128)")
    add("--steps", type=int, default=20, metavar="N", help="steps whose losses are compared (default: 20)")
    add("--seconds", type=float, default=40, metavar="X", help="time for the steps that are timed (default: 40)")
    add("--threads", type=int, metavar="N", help="threads of each library (default: fastcnn's choice)")
    add("--profile", action="store_true", help="print where the time of a step goes as well")
    options = parser.parse_args()
    threads = options.threads or fastcnn.get_num_threads()
    fastcnn.set_num_threads(threads)
    torch.set_num_threads(threads)
    print(f"fastcnn {fastcnn.__version__}, torch {torch.__version__}, {threads} threads, batch {options.batch_size}")

    torch.manual_seed(0)
    model, (images, classes) = resnet20(), data(options.steps, options.batch_size)
    sides = {
        "torch contiguous": Side(model, torch.contiguous_format, torch.float32),
        "torch channels-last": Side(model, torch.channels_last, torch.float32),
        "fastcnn": Side(model, torch.channels_last, torch.float32),
    }
    report = fastcnn.torch.accelerate(sides["fastcnn"].model)
    print(str(report).splitlines()[0])
    right = compare_losses(sides, Side(model, torch.contiguous_format, torch.float64), images, classes)
    if not right:
        print("the losses with fastcnn differ by more than rounding explains")
        return 1
    compare_times(sides, images, classes, options.seconds)
    if options.profile:
        profile(sides, images, classes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

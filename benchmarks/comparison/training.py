"""Networks trained on real images, both sides by the same recipe: the wall-clock time to an accuracy."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from comparison import steps
from comparison.peer import torch
from comparison.report import NAME, Column, Report, factor
from fastcnn import models, nn, optim
from fastcnn.training import Augment, DataLoader, Trainer
from fastcnn.training.datasets import ImageDataset, load_dataset

if torch is not None:
    from comparison.networks import twin

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
TEST_BATCH = 1000
WARM_UP = 3  # updates before the clock starts, of a network that is then thrown away


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov's momentum, its rate in one cycle over all epochs, up to `rate`.

    A side is done after the epoch in which its test accuracy reaches `target`, or after the last one.
    """

    name: str
    data: str
    build: Callable[..., nn.Module]
    batch: int
    epochs: int
    rate: float
    augment: Augment | None
    target: float | None


FLIPPED = Augment(crop_padding=4, horizontal_flip=True)
RECIPES = [
    Recipe("LeNet-5 on MNIST, to 99%", "mnist", models.lenet5, 64, 3, 0.1, None, 0.99),
    Recipe("ResNet-20 on CIFAR-10", "cifar10", models.resnet20, 128, 10, 0.2, FLIPPED, None),
]


class Ours:
    """fastcnn's side: its trainer."""

    def __init__(self, recipe: Recipe, steps_of_all: int) -> None:
        self.model = recipe.build(rng=np.random.default_rng(0))
        sgd = optim.SGD(self.model.parameters(), recipe.rate, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
        schedule = optim.OneCycleLR(sgd, recipe.rate, steps_of_all, cycle_momentum=False)
        self.trainer = Trainer(self.model, sgd, schedule=schedule)

    def update(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        self.trainer.step(inputs, targets)

    def accuracy(self, test: DataLoader) -> float:
        return self.trainer.evaluate(test)["accuracy"]


class Theirs:
    """PyTorch's side: the loop that its tutorials show, from the same weights."""

    def __init__(self, recipe: Recipe, steps_of_all: int, order: str, optimizer: str) -> None:
        network = twin(recipe.build(rng=np.random.default_rng(0)))
        self.format = torch.channels_last if order == "channels-last" else torch.contiguous_format
        self.network = network.to(memory_format=self.format)
        self.sgd = torch.optim.SGD(
            self.network.parameters(), recipe.rate, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True,
            **{optimizer: True},
        )  # fmt: skip
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.sgd, recipe.rate, total_steps=steps_of_all + 1, cycle_momentum=False
        )

    def _tensors(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Any, Any]:
        return torch.from_numpy(inputs).contiguous(memory_format=self.format), torch.from_numpy(targets)

    def update(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        images, classes = self._tensors(inputs, targets)
        self.sgd.zero_grad()
        torch.nn.functional.cross_entropy(self.network(images), classes).backward()
        self.sgd.step()
        self.schedule.step()

    def accuracy(self, test: DataLoader) -> float:
        self.network.eval()
        right = 0
        with torch.inference_mode():
            for batch in test.epoch(0):
                images, classes = self._tensors(*batch)
                right += int((self.network(images).argmax(1) == classes).sum())
        self.network.train()
        return right / len(test.targets)


def _fastest(recipe: Recipe, train: DataLoader, options: argparse.Namespace) -> tuple[str, str]:
    """PyTorch's memory order and SGD that make the fastest step."""
    size = (recipe.batch, *train.inputs.shape[1:])
    sides = {
        f"{order}, {kind}": steps.torch_step(recipe.build, size, kind, order, False)
        for order in steps.ORDERS
        for kind in steps.OPTIMIZERS
    }
    order, kind = options.time(sides, steps.TRIAL).fastest(list(sides)).split(", ")
    return order, kind


def _epoch(side: Ours | Theirs, train: DataLoader, test: DataLoader, number: int) -> tuple[float, float]:
    """Train for an epoch, then measure the accuracy on the test images; return the time of both, and the accuracy."""
    start = time.perf_counter()
    for batch in train.epoch(number):
        side.update(*batch)
    accuracy = side.accuracy(test)
    return time.perf_counter() - start, accuracy


def _row(recipe: Recipe, images: Sequence[ImageDataset], options: argparse.Namespace) -> dict[str, Any]:
    """Train both sides, in turns of an epoch, each from a loader of its own, and print a line for each epoch."""
    epochs = recipe.epochs if options.epochs is None else options.epochs
    train, test = DataLoader(images[0], recipe.batch, True, recipe.augment), DataLoader(images[1], TEST_BATCH)
    makers: dict[str, Callable[[], Ours | Theirs]] = {"fastcnn": partial(Ours, recipe, epochs * len(train))}
    row: dict[str, Any] = {"name": recipe.name}
    if torch is not None:
        setting = _fastest(recipe, train, options)
        makers = {"torch": partial(Theirs, recipe, epochs * len(train), *setting), **makers}
        row["best"] = ", ".join(setting)
    for maker in makers.values():
        side = maker()
        for batch in islice(train.epoch(0), WARM_UP):
            side.update(*batch)
        side.accuracy(test)
    sides = {name: maker() for name, maker in makers.items()}
    spent = dict.fromkeys(sides, 0.0)
    print(f"\n{recipe.name}: batch {recipe.batch}, {epochs} epochs of {len(train)} updates, largest rate {recipe.rate}")
    for number in range(epochs):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            lasted, accuracy = _epoch(sides[name], train, test, number)
            spent[name] += lasted
            row |= {name: spent[name], f"{name} accuracy": accuracy, f"{name} epochs": number + 1}
            print(f"  epoch {number + 1:2}  {name:7}  {lasted:6.1f} s  {accuracy:.2%}", flush=True)
            if recipe.target is not None and accuracy >= recipe.target:
                del sides[name]
    if "torch" in row:
        row["ratio"] = row["torch"] / row["fastcnn"]
    return row


def run(options: argparse.Namespace, report: Report) -> int:
    """Print a line an epoch, and the table."""
    recipes = [recipe for recipe in RECIPES if options.filter.lower() in recipe.name.lower()]
    rows, missing = [], 0
    for recipe in recipes:
        try:
            data = [load_dataset(recipe.data, split, options.data, download=False) for split in ("train", "test")]
        except FileNotFoundError as error:
            print(f"{recipe.name}: left out: {error}", file=sys.stderr)
            missing += 1
        else:
            rows.append(_row(recipe, data, options))
    if rows:
        table = report.table(
            "Time of all epochs, test accuracy after each of them included; ratio = torch / fastcnn",
            [
                NAME,
                *(
                    column
                    for side in ("torch", "fastcnn")
                    for column in (
                        Column(side, side, 8, "{:.1f} s".format),
                        Column(f"{side} epochs", "epochs", 6),
                        Column(f"{side} accuracy", "accuracy", 8, "{:.2%}".format),
                    )
                ),
                Column("ratio", "ratio", 6, factor),
                Column("best", "torch's fastest setting", -23),
            ],
            [row["name"] for row in rows],
        )
        for row in rows:
            table.add(**row)
    return 1 if missing else 0

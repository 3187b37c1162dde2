"""Networks trained on real images, both sides by the same recipe: the wall-clock time to an accuracy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from comparison import sides
from comparison.problems import TIMED_RATE, Images, Recipe, Setting
from comparison.report import NAME, Column, Report, factor
from comparison.sides import MODULES, OURS, THEIRS
from fastcnn.benchmark.worker import WorkerError
from fastcnn.training.datasets import ImageDataset, load_dataset

RECIPES = [
    Recipe("LeNet-5 on MNIST, to 99%", "mnist", "LeNet-5", 64, 3, 0.1, 0, 0.99),
    Recipe("ResNet-20 on CIFAR-10", "cifar10", "ResNet-20", 128, 10, 0.2, 4, None),
]
SETTINGS = [
    Setting(order, optimizer=kind) for order in ("contiguous", "channels-last") for kind in ("foreach", "fused")
]


def _images(data: Sequence[ImageDataset]) -> Images:
    train, test = data
    normalised = train.mean, train.std, train.scale
    return Images(train.images, train.labels, test.images, test.labels, *normalised)


def _row(recipe: Recipe, images: Images, options: argparse.Namespace) -> dict[str, Any]:
    """Train both sides, in turns of an epoch, each in its process and from its own loader; print a line an epoch."""
    epochs = recipe.epochs if options.epochs is None else options.epochs
    row: dict[str, Any] = {}
    with ExitStack() as stack:
        live = sides.workers(options)
        stack.callback(live.close)
        arguments = {OURS: (recipe, images, epochs)}
        if sides.has_torch():
            size = (recipe.batch, images.train.shape[3], *images.train.shape[1:3])
            setting = sides.fastest_setting(live, "step", (recipe.network, size), (TIMED_RATE,), SETTINGS, options)
            arguments = {THEIRS: (recipe, images, epochs, setting), **arguments}
            row["best"] = setting.name
        for process, found in arguments.items():
            live[process].make("epoch", f"{MODULES[process]}:training", *found)
        updates = -(-len(images.train) // recipe.batch)
        print(
            f"\n{recipe.name}: batch {recipe.batch}, {epochs} epochs of {updates} updates, largest rate {recipe.rate}"
        )
        going, spent = list(arguments), dict.fromkeys(arguments, 0.0)
        for number in range(epochs):
            for process in going[:: -1 if number % 2 else 1]:
                ((lasted, accuracy),) = live[process].results("epoch")
                spent[process] += lasted
                row |= {process: spent[process], f"{process} accuracy": accuracy, f"{process} epochs": number + 1}
                print(f"  epoch {number + 1:2}  {process:7}  {lasted:6.1f} s  {accuracy:.2%}", flush=True)
                if recipe.target is not None and accuracy >= recipe.target:
                    going.remove(process)
    if THEIRS in row:
        row["ratio"] = row[THEIRS] / row[OURS]
    return row


def run(options: argparse.Namespace, report: Report) -> None:
    """Print a line an epoch, and the table."""
    recipes = [recipe for recipe in RECIPES if options.filter.lower() in recipe.name.lower()]
    found: dict[str, dict[str, Any]] = {}
    errors: dict[str, Exception] = {}
    for recipe in recipes:
        try:
            data = [load_dataset(recipe.data, split, options.data, download=False) for split in ("train", "test")]
            found[recipe.name] = _row(recipe, _images(data), options)
        except (FileNotFoundError, WorkerError) as error:
            errors[recipe.name] = error
    table = report.table(
        f"Time of all epochs, test accuracy after each of them included; ratio = {THEIRS} / {OURS}",
        [
            NAME,
            *(
                column
                for side in (THEIRS, OURS)
                for column in (
                    Column(side, side, 8, "{:.1f} s".format),
                    Column(f"{side} epochs", "epochs", 6),
                    Column(f"{side} accuracy", "accuracy", 8, "{:.2%}".format),
                )
            ),
            Column("ratio", "ratio", 6, factor),
            Column("best", "PyTorch's fastest setting", -25),
        ],
        [recipe.name for recipe in recipes],
    )
    for recipe in recipes:
        with table.row(recipe.name) as add:
            if recipe.name in errors:
                raise WorkerError(str(errors[recipe.name]))
            add(**found[recipe.name])

"""How far the loader with augmentation is ahead of the networks that it feeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import chain, count

import numpy as np

from comparison.report import NAME, Column, Report, factor
from fastcnn import models, nn, optim
from fastcnn.benchmark import duration
from fastcnn.training import Augment, DataLoader, Trainer

IMAGES = 8192
FLIPPED = Augment(crop_padding=4, horizontal_flip=True)
# Network, height and width, channels, augmentation, batch.
ROWS = [
    *(("LeNet-5", models.lenet5, 28, 1, Augment(crop_padding=2), batch) for batch in (1, 8, 32, 128, 512)),
    *(("ResNet-20", models.resnet20, 32, 3, FLIPPED, batch) for batch in (32, 128)),
]


def _sides(
    build: Callable[..., nn.Module], side: int, channels: int, augment: Augment, batch: int
) -> dict[str, Callable[[], object]]:
    """The next batch of the loader, and a training step."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, side, side, channels), np.uint8).transpose(0, 3, 1, 2)
    loader = DataLoader((images, rng.integers(0, 10, IMAGES)), batch, shuffle=True, augment=augment)
    batches = chain.from_iterable(map(loader.epoch, count()))
    model = build(in_channels=channels, rng=rng)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01, 0.9))
    return {"loader": partial(next, batches), "step": partial(trainer.step, *next(batches))}


def run(options: argparse.Namespace, report: Report) -> None:
    """Print the table."""
    names = [f"{name}, batch {batch}" for name, *_, batch in ROWS]
    table = report.table(
        "Time of a batch from the loader, and of a training step; ratio = step / loader",
        [
            NAME,
            Column("step", "step", 9, duration),
            Column("loader", "loader", 9, duration),
            Column("rate", "images/s", 10, "{:,.0f}".format),
            Column("ratio", "ratio", 6, factor),
        ],
        names,
    )
    for name, (_, *setting, batch) in zip(names, ROWS, strict=True):
        if options.filter.lower() in name.lower():
            timing = options.time(_sides(*setting, batch))
            step, loader = timing.median("step"), timing.median("loader")
            ratio = timing.ratios("step", "loader")[1]
            table.add(name=name, step=step, loader=loader, rate=batch / loader, ratio=ratio)
    table.sum_up()

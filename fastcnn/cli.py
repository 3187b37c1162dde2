"""The command ``fastcnn``: train a network on images, show what was built and found."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

import fastcnn
from fastcnn import models, optim
from fastcnn.benchmark.cases import select
from fastcnn.benchmark.report import report
from fastcnn.benchmark.worker import WorkerError
from fastcnn.training import (
    Augment,
    Checkpoint,
    DataLoader,
    NonFiniteLossError,
    Trainer,
    load_dataset,
    read_checkpoint,
)
from fastcnn.training._extras import require

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True)
class Recipe:
    """What `fastcnn train` does for a data set unless options say otherwise."""

    model: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    augment: bool
    augmentation: Augment


RECIPES = {
    "digits": Recipe("digits_cnn", 20, 32, "adam", 3e-3, 0.0, "onecycle", False, Augment(crop_padding=1)),
    "mnist": Recipe("lenet5", 10, 64, "adam", 2e-3, 0.0, "onecycle", False, Augment(crop_padding=2)),
    "fashion-mnist": Recipe(
        "lenet5", 10, 64, "adam", 2e-3, 0.0, "onecycle", False, Augment(crop_padding=2, horizontal_flip=True)
    ),
    "cifar10": Recipe(
        "resnet20", 30, 128, "sgd", 0.1, 5e-4, "onecycle", True, Augment(crop_padding=4, horizontal_flip=True)
    ),
}
MODELS = ("digits_cnn", "lenet5", "resnet20", "vgg_small")
LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
SCHEDULES = ("constant", "step", "cosine", "warmup-cosine", "onecycle")
# Options that decide the run's result; a checkpoint keeps them, and a resumed run takes them from there.
SETTINGS = (
    "data", "model", "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule", "augment",
    "seed",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; by default ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit code: 0, or 1 when something could not be done, or 130 after Ctrl-C. (A wrong argument exits with 2.)
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, ModuleNotFoundError, NonFiniteLossError, WorkerError) as error:
        print(f"fastcnn {options.command}: error: {_message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fastcnn {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _message(error: Exception) -> str:
    """Return an error as a user wants to read it, without number and quotes."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error)


def _parser() -> Parser:
    parser = Parser(
        prog="fastcnn",
        description="Train convolutional networks on CPUs.",
        epilog="'fastcnn train' alone trains a small network on handwritten digits that come with fastcnn.",
    )
    parser.add_argument("--version", action="version", version=f"fastcnn {fastcnn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, (run, add_options, summary) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        add_options(command)
    return parser


def _number(kind: type, test: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """Return an argparse type that reads a number and says what it expected."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not test(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return read


_positive_int = _number(int, lambda value: value > 0, "a positive int")
_natural = _number(int, lambda value: value >= 0, "a non-negative int")
_positive = _number(float, lambda value: 0 < value < float("inf"), "a positive number")
_non_negative = _number(float, lambda value: 0 <= value < float("inf"), "a non-negative number")


# --- train ----------------------------------------------------------------------------------------------------------


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "defaults of each data set:\n" + "\n".join(f"  {name:14} {_describe(name)}" for name in RECIPES)
    parser.epilog += "\n\nThe columns 'val' of the table are the test images, which nothing is learnt or chosen from."
    add = parser.add_argument_group("what to train").add_argument
    add("--data", choices=RECIPES, help="data set (default: digits, which needs no files)")
    add("--data-dir", metavar="DIR", help="where the data set's files are; see also FASTCNN_DATA")
    add("--model", choices=MODELS, help="network (default: the data set's)")
    add = parser.add_argument_group("how to train it").add_argument
    add("--epochs", type=_positive_int, metavar="N", help="passes over the training images")
    add("--batch-size", type=_positive_int, metavar="N", help="images an update")
    add("--optimizer", choices=LEARNING_RATES, help="how weights follow gradients")
    add("--lr", type=_positive, metavar="X", help="learning rate; the highest one of the schedule")
    add("--momentum", type=_non_negative, metavar="X", help="momentum of sgd (default: 0.9)")
    add("--weight-decay", type=_non_negative, metavar="X", help="how strongly weights are pulled to zero")
    add("--schedule", choices=SCHEDULES, help="how the learning rate changes over the run")
    add("--augment", action=argparse.BooleanOptionalAction, help="shift images, and flip natural ones, at random")
    add("--seed", type=_natural, metavar="N", help="seed of everything random (default: 0)")
    add("--threads", type=_positive_int, metavar="N", help="threads to compute with (default: as many as may be used)")
    add = parser.add_argument_group("what to keep and show").add_argument
    add("--output", metavar="DIR", help="folder for the checkpoint and the curve (default: the current one)")
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="FILE",
        help="go on with an interrupted run, from FILE or from the checkpoint in the output folder, as it was started",
    )
    add("--no-progress", action="store_true", help="no progress bar")
    add("--quiet", action="store_true", help="print the test accuracy alone")


def _describe(name: str) -> str:
    recipe = RECIPES[name]
    decay = f", weight decay {recipe.weight_decay:g}" if recipe.weight_decay else ""
    return (
        f"{recipe.model}, {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.optimizer}, "
        f"lr {recipe.lr:g}{decay}, {recipe.schedule}{', augment' if recipe.augment else ''}"
    )


def _train(options: argparse.Namespace) -> int:
    require("safetensors", "saving checkpoints")
    if options.threads is not None:
        fastcnn.set_num_threads(options.threads)
    settings, resume = _settings(options)
    name = settings["data"]
    folder = options.output or (os.path.dirname(resume) if resume else "") or "."
    path = os.path.join(folder, _file_name(name))
    os.makedirs(folder, exist_ok=True)

    train_set, test_set = (load_dataset(name, split, options.data_dir) for split in ("train", "test"))
    augment = RECIPES[name].augmentation if settings["augment"] else None
    train = DataLoader(train_set, settings["batch_size"], shuffle=True, augment=augment, seed=settings["seed"])

    fastcnn.manual_seed(settings["seed"])
    size = "x".join(map(str, train_set.input_shape))
    model = getattr(models, settings["model"])(len(train_set.classes), in_channels=train_set.input_shape[0])
    optimizer = _optimizer(model, settings)
    trainer = Trainer(model, optimizer, schedule=_schedule(optimizer, settings, len(train)))
    try:
        trainer.predict(np.zeros((1, *train_set.input_shape), np.float32))
    except ValueError as error:
        raise ValueError(
            f"--model: expected one that takes images of {size}, got {settings['model']}: {error}"
        ) from error

    def show(text: object) -> None:
        if not options.quiet:
            print(text, flush=True)

    show(
        f"{name}: {len(train_set):,} training and {len(test_set):,} test images, "
        f"{size}, {len(train_set.classes)} classes"
    )
    parameters = sum(parameter.size for parameter in model.parameters())
    threads = fastcnn.get_num_threads()
    show(f"{settings['model']}: {parameters:,} parameters, {threads} thread{'s' * (threads > 1)}")

    history = trainer.fit(
        train,
        settings["epochs"],
        validation=test_set,
        callbacks=[Checkpoint(path, extra=settings)],
        progress=not (options.no_progress or options.quiet),
        resume=resume,
    )
    if history.interrupted:
        print(f"fastcnn train: {history.stopped}; go on with: fastcnn train --resume {path}", file=sys.stderr)
        return INTERRUPTED
    show(history)
    print(f"test accuracy: {trainer.evaluate(test_set)['accuracy']:.2%}")
    show(f"checkpoint: {path}")
    curve = os.path.splitext(path)[0] + ".png"
    try:
        history.plot(curve)
    except ModuleNotFoundError as error:
        show(f"no curve: {error}")
    else:
        show(f"curve: {curve}")
    return 0


def _file_name(data: str) -> str:
    return f"fastcnn-{data}.safetensors"


def _settings(options: argparse.Namespace) -> tuple[dict[str, Any], str | None]:
    """Return what decides the run's result, and the checkpoint to resume from, if any."""
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    if options.resume is not None:
        path = options.resume or os.path.join(options.output or ".", _file_name(given.get("data", "digits")))
        settings = read_checkpoint(path)["extra"]
        if settings.keys() != set(SETTINGS):
            raise ValueError(f"{path}: expected a checkpoint of fastcnn train, got one of another program")
        for name, value in given.items():
            if value != settings[name]:
                expected = f"{settings[name]}, as the run in {path} was started with"
                raise ValueError(f"--{name.replace('_', '-')}: expected {expected}, got {value}")
        return settings, path
    recipe = RECIPES[given.get("data", "digits")]
    settings = {"data": "digits", "momentum": 0.9, "seed": 0}
    settings |= {name: getattr(recipe, name) for name in SETTINGS if hasattr(recipe, name)}
    if given.get("optimizer", recipe.optimizer) != recipe.optimizer:
        settings |= {"lr": LEARNING_RATES[given["optimizer"]]}
    return settings | given, None


def _optimizer(model: Any, settings: dict[str, Any]) -> optim.Optimizer:
    kind, lr, decay = settings["optimizer"], settings["lr"], settings["weight_decay"]
    if kind == "sgd":
        return optim.SGD(model.parameters(), lr, momentum=settings["momentum"], weight_decay=decay)
    return {"adam": optim.Adam, "adamw": optim.AdamW}[kind](model.parameters(), lr, weight_decay=decay)


def _schedule(optimizer: optim.Optimizer, settings: dict[str, Any], batches: int) -> optim.Schedule | None:
    """Build the learning-rate schedule, which steps with every update."""
    total, lr = settings["epochs"] * batches, settings["lr"]
    warm = max(total // 20, 1)
    match settings["schedule"]:
        case "step":  # to a tenth after one and two thirds
            return optim.StepLR(optimizer, max(total // 3, 1))
        case "cosine":
            return optim.CosineAnnealingLR(optimizer, total)
        case "warmup-cosine":
            rise = optim.LinearLR(optimizer, 0.1, 1.0, warm)
            fall = optim.CosineAnnealingLR(optimizer, max(total - warm, 1))
            return optim.SequentialLR(optimizer, [rise, fall], [warm])
        case "onecycle":
            return optim.OneCycleLR(optimizer, lr, total)
    return None


# --- bench ----------------------------------------------------------------------------------------------------------


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time fastcnn beside NumPy, each in a process of its own, after comparing what they compute. A ratio of 2: "
        "twice as fast. cores: what the threads of NumPy and of fastcnn had; pair: cores that two other processes had."
    )
    add = parser.add_argument
    add("--filter", default="", metavar="TEXT", help="only the cases with TEXT in their name")
    add("--seconds", type=_positive, default=1.0, metavar="X", help="time for each case (default: 1)")
    add("--threads", type=_positive_int, metavar="N", help="threads of both sides (default: as many as may be used)")
    add("--json", metavar="FILE", help="write the figures to FILE as well")


def _bench(options: argparse.Namespace) -> int:
    threads = fastcnn.get_num_threads() if options.threads is None else options.threads
    cases = select(options.filter)
    with contextlib.ExitStack() as stack:
        # Opened first, so that a place that cannot be written to is known before the minutes are spent.
        file = stack.enter_context(open(options.json, "w", encoding="utf-8")) if options.json else None
        figures = report(cases, options.seconds, threads)
        if file:
            json.dump(figures, file, indent=1)
    failed = [f"{row['group']} {row['shape']}" for row in figures["failed"]]
    if failed:
        print(f"fastcnn bench: error: {len(failed)} of {len(cases)} cases failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


# --- info -----------------------------------------------------------------------------------------------------------


def _info_options(parser: argparse.ArgumentParser) -> None:
    pass


def _info(options: argparse.Namespace) -> int:
    fastcnn.show_config()
    return 0


# name: (what runs it, what adds its options, summary)
COMMANDS = {
    "train": (_train, _train_options, "train a network on images"),
    "bench": (_bench, _bench_options, "time fastcnn beside NumPy"),
    "info": (_info, _info_options, "print versions, OpenMP, threads and instruction sets"),
}

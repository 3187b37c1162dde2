"""The training loop: updates, callbacks, early stopping, Ctrl-C, losses that are not finite, resuming to the bit."""

import math
import os
import signal
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import fastcnn
from fastcnn import models, nn, optim, random
from fastcnn.training import (
    Augment,
    Callback,
    Checkpoint,
    CheckpointError,
    DataLoader,
    EarlyStopping,
    History,
    ImageDataset,
    Meter,
    NonFiniteLossError,
    Trainer,
    load_dataset,
    read_checkpoint,
)

IMAGES = 130  # with batches of 32: five a epoch, the last one smaller
BATCHES = 5


def digits(split="train", count=IMAGES):
    return load_dataset("digits", split).subset(slice(count))


def train_loader(**options):
    return DataLoader(digits(), 32, shuffle=True, augment=Augment(crop_padding=1), **{"seed": 3, **options})


def small_model():
    return nn.Sequential(
        {
            "conv": nn.Conv2d(1, 4, 3, padding=1),
            "norm": nn.BatchNorm2d(4),
            "relu": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
            "drop": nn.Dropout(0.2),
            "flat": nn.Flatten(),
            "fc": nn.Linear(64, 10),
        }
    )


def small_trainer(kind="sgd", seed=0, epochs=4):
    """A trainer with everything that a resumed run must restore."""
    fastcnn.manual_seed(seed)
    model = small_model()
    if kind == "sgd":
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
        return Trainer(model, optimizer, schedule=optim.OneCycleLR(optimizer, 0.1, epochs * BATCHES))
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    schedule = optim.CosineAnnealingLR(optimizer, epochs)
    return Trainer(model, optimizer, schedule=schedule, schedule_every="epoch", clip_grad_norm=1.0)


def linear_trainer(lr=0.1, **options):
    fastcnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3))
    return Trainer(model, optim.SGD(model.parameters(), lr), **options)


class At(Callback):
    """Does something after a number of updates."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, trainer, state, loss):
        if state.step == self.step:
            self.action(state)


def ctrl_c(state=None):
    os.kill(os.getpid(), signal.SIGINT)


def measured(history):
    """The rows without what depends on the clock."""
    return [{name: row[name] for name in row if name not in ("seconds", "images_per_second")} for row in history]


def assert_same_bits(a, b):
    for first, second in ((a.model, b.model), (a.optimizer, b.optimizer), (a.schedule, b.schedule)):
        first, second = first.state_dict(), second.state_dict()
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# --- one update -----------------------------------------------------------------------------------------------------


def test_step_is_forward_loss_backward_update():
    trainer = linear_trainer()
    layer = trainer.model["0"]
    weight, bias = layer.weight.data.copy(), layer.bias.data.copy()
    x = np.array([[1, 2], [3, -1]], np.float32)
    y = np.array([0, 2])
    scores = (x @ weight.T + bias).astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert trainer.step(x, y) == pytest.approx(-np.log(p[[0, 1], y]).mean(), rel=1e-5)
    g = (p - np.eye(3)[y]) / 2
    np.testing.assert_allclose(layer.weight.data, weight - 0.1 * g.T @ x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.bias.data, bias - 0.1 * g.sum(0), rtol=1e-4, atol=1e-6)


def test_step_does_not_add_up_gradients():
    x, y = np.ones((1, 2), np.float32), np.array([1])
    trainer = linear_trainer()
    trainer.model["0"].weight.grad += 100
    fresh = linear_trainer()
    trainer.step(x, y)
    fresh.step(x, y)
    np.testing.assert_array_equal(trainer.model["0"].weight.data, fresh.model["0"].weight.data)


def test_clip_grad_norm_bounds_the_update():
    trainer = linear_trainer(lr=1.0, clip_grad_norm=0.01)
    before = np.concatenate([p.data.ravel() for p in trainer.model.parameters()])
    trainer.step(np.full((4, 2), 50, np.float32), np.array([0, 1, 2, 0]))
    after = np.concatenate([p.data.ravel() for p in trainer.model.parameters()])
    assert np.linalg.norm(after - before) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("every", "expected"), [("step", 0.1 * 0.5**BATCHES), ("epoch", 0.1 * 0.5)])
def test_schedule_steps_every(every, expected):
    fastcnn.manual_seed(0)
    model = small_model()
    optimizer = optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, optimizer, schedule=optim.StepLR(optimizer, 1, gamma=0.5), schedule_every=every)
    trainer.fit(train_loader(), 1, progress=False)
    assert optimizer.lr == pytest.approx(expected)


def test_the_input_gradient_of_another_first_layer_is_not_computed_either():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_input_grad(False)
    trainer, seen = Trainer(model, optim.SGD(model.parameters(), 0.1)), []

    class Layer(nn.Linear):
        def backward(self, grad_output):
            seen.append(self.needs_input_grad)
            return super().backward(grad_output)

    trainer.model = nn.Sequential(Layer(2, 2), nn.Linear(2, 2))
    trainer.model.needs_input_grad = False  # as it was told before that layer was put there
    trainer.step(np.zeros((1, 2), np.float32), np.array([0]))
    assert seen == [False]


class NeedsInputGrad(Callback):
    def __init__(self):
        self.seen = set()

    def on_step_end(self, trainer, state, loss):
        self.seen.add((trainer.model.needs_input_grad, trainer.model["conv"].needs_input_grad))


def test_the_input_gradient_is_not_computed_while_training():
    trainer, watched = small_trainer(), NeedsInputGrad()
    trainer.fit(train_loader(), 1, callbacks=[watched], progress=False)
    assert watched.seen == {(False, False)}
    assert trainer.model.needs_input_grad
    assert trainer.model["conv"].needs_input_grad
    trainer.model.requires_input_grad(False)
    trainer.fit(train_loader(), 1, progress=False)
    assert not trainer.model.needs_input_grad


def test_the_input_gradient_flag_is_put_back_after_an_error():
    trainer = linear_trainer()
    with pytest.raises(NonFiniteLossError):
        trainer.step(np.full((1, 2), np.nan, np.float32), np.array([0]))
    assert trainer.model.needs_input_grad
    assert trainer.model["0"].needs_input_grad


def test_modes_are_put_back():
    trainer = small_trainer()
    model = trainer.model.eval()
    trainer.fit(train_loader(), 1, validation=DataLoader(digits("test"), 64), progress=False)
    assert not any(module.training for module in model.modules())
    model.train()
    model["norm"].eval()  # a frozen layer
    mean = model["norm"].running_mean.copy()
    trainer.fit(train_loader(), 1, validation=DataLoader(digits("test"), 64), progress=False)
    np.testing.assert_array_equal(model["norm"].running_mean, mean)
    assert [name for name, module in model.named_modules() if not module.training] == ["norm"]


# --- evaluate and predict -------------------------------------------------------------------------------------------


def test_evaluate_weights_batches_by_their_size():
    trainer = small_trainer()
    data = digits("test", 100)
    loader = DataLoader(data, 100)
    whole = trainer.evaluate(loader)
    parts = trainer.evaluate(DataLoader(data, 30))
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert parts["accuracy"] == whole["accuracy"]
    ((inputs, targets),) = loader.epoch(0)
    output = trainer.predict(inputs)
    assert whole["accuracy"] == np.mean(output.argmax(1) == targets)
    assert whole["loss"] == pytest.approx(trainer.loss(output, targets)[0], rel=1e-5)
    assert trainer.evaluate((inputs, targets)) == pytest.approx(whole, rel=1e-5)


def test_evaluate_and_predict_change_nothing():
    trainer = small_trainer()
    before, generator = trainer.model.state_dict(), random.get_state()
    trainer.evaluate(DataLoader(digits("test"), 64))
    trainer.predict(np.ones((3, 1, 8, 8), np.float32))
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert random.get_state() == generator
    with pytest.raises(RuntimeError, match="expected a forward pass"):
        trainer.model.backward(np.zeros((3, 10), np.float32))


def test_predict_in_pieces():
    trainer = small_trainer()
    inputs = np.random.default_rng(0).normal(size=(10, 1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(trainer.predict(inputs, batch_size=3), trainer.predict(inputs), rtol=1e-5, atol=1e-6)
    assert trainer.predict(inputs[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match=r"^batch_size: expected a positive int, got 0$"):
        trainer.predict(inputs, batch_size=0)


def test_meter_leaves_out_ignored_targets():
    meter = Meter()
    meter.add(1.0, np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, -100, 1]))
    assert meter.result() == {"loss": 1.0, "accuracy": 0.5}


def test_meter_counts_targets_of_several_numbers_as_one_image():
    meter = Meter()
    meter.add(0.5, np.zeros((4, 3)), np.zeros((4, 3)))
    meter.add(2.0, np.zeros((2, 3)), np.zeros((2, 3)))
    assert meter.result() == {"loss": 1.0}
    assert meter.images == 6


def test_regression_has_no_accuracy():
    fastcnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 1))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.05), nn.MSELoss())
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    y = x @ np.array([[2.0], [-1.0]], np.float32)
    history = trainer.fit(DataLoader((x, y), 16, shuffle=True), 20, validation=(x, y), progress=False)
    assert history.columns == ["epoch", "loss", "val_loss", "lr", "images_per_second", "seconds"]
    assert history["val_loss"][-1] < 1e-3


# --- fit ------------------------------------------------------------------------------------------------------------


def test_fit_learns_and_tells():
    trainer = small_trainer("adamw", epochs=5)
    loader = DataLoader(digits(count=600), 32, shuffle=True)
    history = trainer.fit(loader, 5, validation=DataLoader(digits("test"), 64), progress=False)
    assert history["epoch"] == [1, 2, 3, 4, 5]
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["accuracy"][-1] > 0.8
    assert history["val_accuracy"][-1] > 0.8
    assert history.stopped is None
    assert not history.interrupted
    assert history["lr"][0] == 0.02


def test_the_learning_rate_of_an_epoch_is_the_one_it_was_trained_with():
    history = small_trainer("adamw").fit(train_loader(), 3, progress=False)
    np.testing.assert_allclose(history["lr"], [0.01 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(3)])


def test_fit_calls_callbacks_in_order_and_checkpoints_last(tmp_path):
    calls = []

    class Tell(Callback):
        def on_fit_start(self, trainer, state):
            calls.append("fit start")

        def on_epoch_start(self, trainer, state):
            calls.append(f"epoch start {state.epoch}")

        def on_step_end(self, trainer, state, loss):
            assert math.isfinite(loss)
            calls.append(f"step {state.step}")

        def on_epoch_end(self, trainer, state):
            calls.append(f"epoch end {state.epoch} {state.history.rows[-1]['epoch']}")

        def on_fit_end(self, trainer, state):
            calls.append("fit end")

    class Late(Checkpoint):
        def on_epoch_end(self, trainer, state):
            calls.append("checkpoint")

    loader = DataLoader(digits(count=64), 32)
    small_trainer().fit(loader, 2, callbacks=[Late(tmp_path / "a"), Tell()], progress=False)
    assert calls == [
        "fit start", "epoch start 0", "step 1", "step 2", "epoch end 1 1", "checkpoint",
        "epoch start 1", "step 3", "step 4", "epoch end 2 2", "checkpoint", "fit end",
    ]  # fmt: skip


def test_a_callback_stops_the_run():
    def stop(state):
        state.stop = "enough"

    history = small_trainer().fit(train_loader(), 4, callbacks=[At(7, stop)], progress=False)
    assert len(history) == 1
    assert history.stopped == "enough"
    assert str(history).endswith("\nenough")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule_every": "batch"}, ValueError, "schedule_every: expected 'step' or 'epoch', got 'batch'"),
        ({"clip_grad_norm": 0}, ValueError, "clip_grad_norm: expected a positive number or None, got 0"),
        ({"loss": nn.MSELoss("none")}, ValueError, "loss: expected one with a single value, got reduction='none'"),
    ],
)
def test_wrong_trainer_arguments(arguments, error, message):
    with pytest.raises(error) as caught:
        linear_trainer(**arguments)
    assert str(caught.value) == message


def test_wrong_fit_arguments():
    trainer = small_trainer()
    with pytest.raises(ValueError, match=r"^epochs: expected a non-negative int, got -1$"):
        trainer.fit(train_loader(), -1)
    empty = ImageDataset(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int), digits().classes)
    with pytest.raises(ValueError, match=r"^train: expected at least one batch, got none$"):
        trainer.fit(DataLoader(empty, 32), 1)


# --- one callback object in two runs ----------------------------------------------------------------------------------


def assert_holds(path, trainer):
    saved = read_checkpoint(path)["model"]
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(saved[name], value, err_msg=name)


def test_one_checkpoint_saves_the_end_of_a_second_run(tmp_path):
    path = tmp_path / "run.safetensors"
    saving = Checkpoint(path, every_epochs=None)
    for seed in range(2):
        trainer = small_trainer(seed=seed)
        trainer.fit(train_loader(), 1, callbacks=[saving], progress=False)
        assert_holds(path, trainer)


def test_one_checkpoint_of_the_best_begins_anew_in_a_second_run(tmp_path):
    path = tmp_path / "best.safetensors"
    saving = Checkpoint(path, monitor="score", mode="max")
    for seed, score in ((0, 5), (1, 2)):
        trainer = small_trainer(seed=seed)
        trainer.fit(train_loader(), 1, callbacks=[Scores(score), saving], progress=False)
        assert_holds(path, trainer)


def test_early_stopping_forgets_the_weights_of_the_run_before():
    stopping = EarlyStopping("score", patience=3)
    small_trainer().fit(train_loader(), 1, callbacks=[Scores(1), stopping], progress=False)
    last = {}

    def stop(state):
        last.update(trainer.model.state_dict())
        state.stop = "enough"

    trainer = small_trainer(seed=1)
    trainer.fit(train_loader(), 1, callbacks=[At(2, stop), stopping], progress=False)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, last[name], err_msg=name)


# --- early stopping -------------------------------------------------------------------------------------------------


class Scores(Callback):
    """Writes given scores into the history, and keeps the weights of each epoch."""

    def __init__(self, *scores):
        self.scores, self.weights = scores, []

    def on_epoch_end(self, trainer, state):
        state.history.rows[-1]["score"] = self.scores[state.epoch - 1]
        self.weights.append(trainer.model.state_dict())


@pytest.mark.parametrize(
    ("options", "scores", "epochs", "best"),
    [
        ({"mode": "min", "patience": 2}, (3, 1, 2, 1, 0), 4, 2),
        ({"mode": "max", "patience": 1}, (1, 2, 3, 3, 9), 4, 3),
        ({"patience": 2, "min_delta": 1}, (5, 4.5, 3.5, 3, 3), 5, 3),
        ({"patience": 9}, (5, 4, 4, 4, 4), 5, 2),
    ],
)
def test_early_stopping(options, scores, epochs, best):
    trainer, told = small_trainer(epochs=5), Scores(*scores)
    stopping = EarlyStopping("score", **options)
    history = trainer.fit(train_loader(), 5, callbacks=[told, stopping], progress=False)
    assert len(history) == epochs
    assert stopping.best_epoch == best
    stopped = f"stopped early: no better score since epoch {best}" if epochs < 5 or best + 2 <= 5 else None
    assert history.stopped == (stopped if options["patience"] <= epochs - best else None)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, told.weights[best - 1][name])


def test_early_stopping_without_restoring():
    trainer, told = small_trainer(epochs=5), Scores(1, 2, 3, 4, 5)
    trainer.fit(train_loader(), 5, callbacks=[told, EarlyStopping("score", 2, restore_best=False)], progress=False)
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, told.weights[-1][name])
    assert len(told.weights) == 3


def test_early_stopping_starts_anew_in_a_new_run():
    stopping = EarlyStopping("score", patience=1)
    for _ in range(2):
        history = small_trainer().fit(train_loader(), 4, callbacks=[Scores(1, 2, 3, 4), stopping], progress=False)
        assert len(history) == 2


def test_a_run_is_saved_before_its_best_weights_are_put_back(tmp_path):
    """So that it goes on from where it stopped, not from its best epoch."""
    path = tmp_path / "run.safetensors"
    trainer, told = small_trainer(epochs=5), Scores(1, 2, 3, 4, 5)
    callbacks = [told, EarlyStopping("score", patience=2), Checkpoint(path, every_epochs=None)]
    trainer.fit(train_loader(), 5, callbacks=callbacks, progress=False)
    saved = read_checkpoint(path)["model"]
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, told.weights[0][name])
        np.testing.assert_array_equal(saved[name], told.weights[-1][name])


def test_large_accuracy_is_good_by_default():
    assert EarlyStopping("val_accuracy").best.sign == 1
    assert EarlyStopping("val_loss").best.sign == -1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EarlyStopping(patience=0), "patience: expected a positive int, got 0"),
        (lambda: EarlyStopping(mode="best"), "mode: expected 'min', 'max' or None, got 'best'"),
        (lambda: EarlyStopping(min_delta=-1), "min_delta: expected a number of at least 0, got -1"),
        (lambda: Checkpoint("a", every_steps=0), "every_steps: expected a positive int, got 0"),
        (
            lambda: Checkpoint("a", monitor="loss", every_steps=3),
            "every_steps: expected None together with monitor, which is known once an epoch, got 3",
        ),
    ],
)
def test_wrong_callback_arguments(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert str(caught.value) == message


def test_a_column_that_is_not_there():
    with pytest.raises(
        ValueError,
        match=r"^monitor: expected one of epoch, loss, accuracy, lr, images_per_second, seconds, got 'val_loss'$",
    ):
        small_trainer().fit(train_loader(), 1, callbacks=[EarlyStopping()], progress=False)


# --- steps that fail ------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A user's layer with a buffer that it assigns anew, and random draws."""

    buffer_names = ("count",)

    def __init__(self):
        super().__init__()
        self.count = np.zeros(1)

    def forward(self, input):
        if self.training:
            self.count = self.count + 1
            self.count += random.default_generator().random()
        return input

    def backward(self, grad_output):
        return grad_output


class Raising(nn.Module):
    """Raises what it is told to, forward or backward."""

    def __init__(self):
        super().__init__()
        self.in_forward = self.in_backward = None

    def forward(self, input):
        if self.in_forward:
            raise self.in_forward
        return input

    def backward(self, grad_output):
        if self.in_backward:
            raise self.in_backward
        return grad_output


def failing_trainer(optimizer="sgd"):
    fastcnn.manual_seed(0)
    model = nn.Sequential(
        {
            "norm": nn.BatchNorm1d(3),
            "first": nn.Linear(3, 8),
            "norm2": nn.BatchNorm1d(8, momentum=None),
            "relu": nn.ReLU(),
            "counting": Counting(),
            "raising": Raising(),
            "drop": nn.Dropout(0.5, rng=np.random.default_rng(1)),
            "last": nn.Linear(8, 2),
        }
    )
    groups = [{"params": list(model.first.parameters())}, {"params": list(model.last.parameters()), "lr": 0.05}]
    optimizer = optim.SGD(groups, 0.1, momentum=0.9) if optimizer == "sgd" else optim.Adam(groups, 0.1)
    return Trainer(model, optimizer, schedule=optim.CosineAnnealingLR(optimizer, 10), clip_grad_norm=1.0)


def all_state(trainer):
    parts = (trainer.model, trainer.optimizer, trainer.schedule)
    state = {f"{i}.{name}": np.copy(value) for i, part in enumerate(parts) for name, value in part.state_dict().items()}
    generators = trainer.generators.state_dict()
    return state, generators


def assert_same_state(before, after):
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    for name, value in before[0].items():
        np.testing.assert_array_equal(value, after[0][name], err_msg=name)


def set_setting(group, **settings):
    return lambda trainer: trainer.optimizer.param_groups[group].update(settings)


def raising(error, where):
    return lambda trainer: setattr(trainer.model.raising, where, error)


def loss_raises(trainer):
    def loss(output, targets):
        raise KeyboardInterrupt

    trainer.loss = loss


def loss_is_nan(trainer):
    trainer.loss = lambda output, targets: (math.nan, output)


def loss_gives_a_wrong_gradient(trainer):
    trainer.loss = lambda output, targets: (1.0, output[:, :1])


def another_optimizer(trainer):
    optim.SGD(trainer.model.parameters(), 0.1)


def schedule_is_over(trainer):
    trainer.schedule = optim.OneCycleLR(trainer.optimizer, 0.1, 1, cycle_momentum=False)
    trainer.schedule.step()


X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
Y = np.arange(8) % 2
# what happens, the targets, the error, and whether gradients are lost
FAILURES = {
    "a label out of range": (None, np.full(8, 7), ValueError, False),
    "one label out of range": (None, np.array([0, 1, 1, 0, 0, 1, 0, -1]), ValueError, False),
    "too few targets": (None, Y[:5], ValueError, False),
    "targets of a wrong shape": (None, np.zeros((8, 2), int), ValueError, False),
    "targets of floats": (None, np.full(8, 0.5), TypeError, False),
    "a layer": (raising(RuntimeError("x"), "in_forward"), Y, RuntimeError, False),
    "Ctrl-C in a layer": (raising(KeyboardInterrupt(), "in_forward"), Y, KeyboardInterrupt, False),
    "no memory in a layer": (raising(MemoryError(), "in_forward"), Y, MemoryError, False),
    "the loss": (loss_raises, Y, KeyboardInterrupt, False),
    "a loss that is not finite": (loss_is_nan, Y, NonFiniteLossError, False),
    "backward": (raising(RuntimeError("x"), "in_backward"), Y, RuntimeError, True),
    "Ctrl-C in backward": (raising(KeyboardInterrupt(), "in_backward"), Y, KeyboardInterrupt, True),
    "a wrong gradient": (loss_gives_a_wrong_gradient, Y, ValueError, True),
    "clipping": (lambda trainer: setattr(trainer, "clip_grad_norm", "1"), Y, TypeError, True),
    "a setting of the first group": (set_setting(0, lr="fast"), Y, TypeError, True),
    "a setting of another group": (set_setting(1, lr=-1.0), Y, ValueError, True),
    "an optimizer that took the parameters": (another_optimizer, Y, RuntimeError, False),
    "a schedule that is over": (schedule_is_over, Y, ValueError, False),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_step_changes_nothing(name, first, optimizer):
    change, targets, error, grads_lost = FAILURES[name]
    trainer = failing_trainer(optimizer)
    if not first:
        trainer.step(X, Y)
        trainer.step(X[::-1].copy(), Y)
    if change:
        change(trainer)
    before, grads = all_state(trainer), [p.grad.copy() for p in trainer.model.parameters()]
    modes = [module.training for module in trainer.model.modules()]
    for _ in range(2):
        with pytest.raises(error):
            trainer.step(X, targets)
        assert_same_state(before, all_state(trainer))
        assert [module.training for module in trainer.model.modules()] == modes
        for parameter, grad in zip(trainer.model.parameters(), grads, strict=True):
            np.testing.assert_array_equal(parameter.grad, 0 * grad if grads_lost else grad)


@pytest.mark.parametrize("name", ["a label out of range", "backward", "Ctrl-C in a layer"])
def test_a_failed_step_leaves_no_trace_in_the_next(name):
    change, targets, error, _ = FAILURES[name]
    trainer, twin = failing_trainer(), failing_trainer()
    state = random.get_state()
    for _ in range(3):
        random.set_state(state)
        if change:
            change(trainer)
        with pytest.raises(error):
            trainer.step(X, targets)
        trainer.model.raising.in_forward = trainer.model.raising.in_backward = None
        loss = trainer.step(X, Y)
        random.set_state(state)
        assert twin.step(X, Y) == loss
        assert_same_state(all_state(trainer), all_state(twin))
        state = random.get_state()


def test_a_fit_that_fails_in_the_middle_keeps_whole_steps():
    trainer, twin = failing_trainer(), failing_trainer()
    random.set_state(state := random.get_state())
    wrong = Y.copy()
    wrong[5] = 9
    with pytest.raises(ValueError, match="class numbers"):
        trainer.fit(DataLoader((X, wrong), 2), 1, progress=False)
    after = all_state(trainer)
    random.set_state(state)
    twin.fit(DataLoader((X[:4], Y[:4]), 2), 1, progress=False)
    assert_same_state(all_state(twin), after)


@pytest.mark.parametrize("build", [models.digits_cnn, models.resnet20, models.vgg_small])
def test_a_forward_pass_that_raises_moves_no_statistics(build):
    """Outside of a trainer, too: the last layer does not fit, and those before it have run."""
    model = build()
    channels = next(model.parameters()).shape[1]
    x = np.random.default_rng(0).standard_normal((4, channels, 8, 8)).astype(np.float32)
    model(x)
    before = model.state_dict()
    last = list(model.named_children())[-1][0]
    setattr(model, last, nn.Linear(7, 2))
    for _ in range(2):
        with pytest.raises(ValueError):
            model(x)
        for name, value in model.named_buffers():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    setattr(model, last, nn.Identity())
    model(x)
    assert any(not np.array_equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fused", [True, False])
def test_a_variance_that_overflows(dtype, fused):
    """torch makes the running variance infinite without a word, after which evaluation returns the bias alone."""
    large = 1e25 if dtype == np.float32 else 1e200
    layers = [nn.Conv2d(2, 2, 1, dtype=dtype), nn.BatchNorm2d(2, dtype=dtype), nn.ReLU()]
    layers += [nn.Conv2d(2, 2, 1, dtype=dtype), nn.BatchNorm2d(2, dtype=dtype), nn.Flatten()]
    layers += [nn.Linear(32, 2, dtype=dtype)]
    model = nn.Sequential(*layers)
    if not fused:
        model.insert(3, nn.Identity())
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    x = np.random.default_rng(0).standard_normal((4, 2, 4, 4)).astype(dtype)
    trainer.step(x, np.zeros(4, int))
    before = model.state_dict()
    message = f"input: expected values whose variance is in the range of {np.dtype(dtype)}, got a larger one in channel"
    with pytest.raises(NonFiniteLossError, match=rf"^loss: .*, because of 1 \(BatchNorm2d\): {message}"):
        trainer.step(large * x, np.zeros(4, int))
    with pytest.raises(ValueError, match=message):
        model(large * x)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert np.isfinite(trainer.predict(large * x)).all()
    assert np.isfinite(trainer.step(1e10 * x, np.zeros(4, int)))  # large, but within the range


def test_an_infinite_input_is_not_an_overflow():
    norm, x = nn.BatchNorm1d(2), np.array([[1, 2], [np.inf, 3]], np.float32)
    assert np.isnan(norm(x)[:, 0]).any()
    assert np.isfinite(norm(x)[:, 1]).all()


# --- losses that are not finite -------------------------------------------------------------------------------------


class Overflow(nn.Module):
    """Adds its parameter, and so overflows where that is large."""

    def __init__(self, value=0.0):
        super().__init__()
        self.offset = nn.Parameter(np.full(1, value, np.float32))

    def forward(self, input):
        self.save(input.shape)
        return input + self.offset.data

    def backward(self, grad_output):
        self.saved()
        self.offset.grad += grad_output.sum()
        return grad_output


def broken_model(where, value):
    fastcnn.manual_seed(0)
    model = nn.Sequential(
        {
            "norm": nn.BatchNorm1d(2),
            "first": nn.Linear(2, 2),
            "drop": nn.Dropout(0.5),
            "block": nn.Residual(nn.Sequential({"deep": Overflow()}), nn.Sequential({"side": Overflow()})),
            "last": nn.Linear(2, 3),
        }
    )
    dict(model.named_parameters())[where].data.fill(value)
    return model


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("first.weight", np.nan, "first (Linear), and already its weight"),
        ("first.bias", np.inf, "first (Linear), and already its bias"),
        ("block.body.deep.offset", np.inf, "block.body.deep (Overflow), and already its offset"),
        ("last.weight", 3e38, "last (Linear)"),
    ],
)
def test_the_first_layer_that_is_not_finite_is_named(where, value, named):
    model = broken_model(where, value)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    weights, generator = model.state_dict(), random.get_state()
    x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    x[:, 0] += 7
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step(x * 10, np.arange(8) % 3)
    message = str(caught.value)
    assert message.startswith("loss: expected a finite value, got ")
    assert message.endswith(f": the first layer whose output is not finite is {named}")
    assert isinstance(caught.value, FloatingPointError)
    for name, value in model.state_dict().items():  # running statistics too
        np.testing.assert_array_equal(value, weights[name], err_msg=name)
    assert random.get_state() == generator
    assert all(module.forward.__func__ is type(module).forward for module in model.modules())


def test_a_sum_of_branches_that_is_not_finite_is_named():
    model = broken_model("block.body.deep.offset", 3e38)
    model["block"].shortcut["side"].offset.data.fill(3e38)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    with pytest.raises(NonFiniteLossError, match=r"is block \(Residual\)$"):
        trainer.step(np.eye(2, dtype=np.float32), np.array([0, 1]))


def test_input_and_targets_that_are_not_finite_are_named():
    fastcnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 1))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), nn.MSELoss())
    good, bad = np.ones((2, 2), np.float32), np.array([[1, np.inf], [0, 0]], np.float32)
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step(bad, good[:, :1])
    assert str(caught.value).endswith(": the input, before the first layer, is not finite")
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step(good, np.array([[np.nan], [0]], np.float32))
    assert str(caught.value) == "loss: expected a finite value, got nan: the targets are not finite"


def test_a_loss_function_that_is_not_finite_is_named():
    trainer = linear_trainer(loss=lambda output, targets: (math.inf, np.zeros_like(output)))
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.step(np.ones((1, 2), np.float32), np.array([0]))
    assert str(caught.value) == (
        "loss: expected a finite value, got inf: the output of every layer is finite, the loss function's is not"
    )


def test_a_diverging_run_stops(tmp_path):
    fastcnn.manual_seed(0)
    model = small_model()
    trainer = Trainer(model, optim.SGD(model.parameters(), 1e38))
    path = tmp_path / "run.safetensors"
    with pytest.raises(NonFiniteLossError, match=r"the first layer whose output is not finite is (conv|norm|fc) \("):
        trainer.fit(train_loader(), 2, progress=False, checkpoint=path)
    assert not path.exists()


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_interrupt_finishes_the_update_and_saves(tmp_path):
    path = tmp_path / "run.safetensors"
    before = signal.getsignal(signal.SIGINT)
    trainer, reference = small_trainer(), small_trainer()
    rest = train_loader().epoch(0)
    fastcnn.manual_seed(5)
    expected = [reference.step(*next(rest)) for _ in range(3)]
    losses = []

    class Interrupt(Callback):
        def on_step_end(self, trainer, state, loss):
            losses.append(loss)
            if state.step == 2:
                trainer.model["relu"].forward = interrupting(trainer.model["relu"])

    def interrupting(layer):  # in the middle of the third update
        def forward(input):
            ctrl_c()
            return type(layer).forward(layer, input)

        return forward

    fastcnn.manual_seed(5)
    history = trainer.fit(train_loader(), 4, callbacks=[Interrupt()], progress=False, checkpoint=path)
    assert losses == expected
    assert history.interrupted
    assert history.stopped == "interrupted in epoch 1, after 3 batches"
    assert path.exists()
    assert_same_bits(trainer, reference)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_without_a_checkpoint_returns_the_history():
    history = small_trainer().fit(train_loader(), 4, callbacks=[At(BATCHES, ctrl_c)], progress=False)
    assert history.interrupted
    assert len(history) == 0
    assert str(history) == "no epoch is finished\ninterrupted in epoch 1, after 5 batches"


def test_a_second_interrupt_is_an_ordinary_one():
    before = signal.getsignal(signal.SIGINT)

    def twice(state):
        ctrl_c()
        ctrl_c()

    trainer = small_trainer()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train_loader(), 4, callbacks=[At(2, twice)], progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer.model.needs_input_grad


def test_an_interrupt_after_the_last_epoch_comes_too_late():
    class Late(Callback):
        def on_epoch_end(self, trainer, state):
            ctrl_c()

    history = small_trainer().fit(train_loader(), 1, callbacks=[Late()], progress=False)
    assert not history.interrupted
    assert history.stopped is None


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        history = small_trainer().fit(train_loader(), 1, callbacks=[At(2, ctrl_c)], progress=False)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(history) == 1


def test_fit_outside_the_main_thread():
    histories = []
    trainer = small_trainer()
    thread = threading.Thread(target=lambda: histories.append(trainer.fit(train_loader(), 1, progress=False)))
    thread.start()
    thread.join()
    assert len(histories[0]) == 1


# --- resuming -------------------------------------------------------------------------------------------------------


class InterruptedEvaluation:
    """Validation data that interrupts the run in the middle of being read for the second time."""

    def __init__(self, loader):
        self.loader, self.reads = loader, 0

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start_batch=0):
        self.reads += 1
        for number, batch in enumerate(self.loader.epoch(epoch, start_batch)):
            if self.reads == 2 and number == 1:
                ctrl_c()
            yield batch


def validation():
    return DataLoader(digits("test", 60), 20)


def full_run(kind, callbacks=(), seed=0, data=None, **options):
    """Train with dropout, augmentation, momentum, a schedule and early stopping; return all that came of it."""
    trainer = small_trainer(kind, seed)
    stopping = EarlyStopping("val_loss", patience=2, min_delta=0.02)
    history = trainer.fit(
        train_loader(), 4, data or validation(), callbacks=[*callbacks, stopping], progress=False, **options
    )
    return trainer, history, stopping, random.get_state()


def assert_same_run(first, second):
    assert_same_bits(first[0], second[0])
    assert measured(first[1]) == measured(second[1])
    assert first[1].stopped == second[1].stopped
    assert (first[2].best.value, first[2].best_epoch) == (second[2].best.value, second[2].best_epoch)
    assert first[3] == second[3]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [1, BATCHES - 1, BATCHES, BATCHES + 2, 3 * BATCHES + 1])
def test_a_resumed_run_ends_with_the_same_bits(kind, step, tmp_path):
    path = tmp_path / "run.safetensors"
    whole = full_run(kind)
    _, history, *_ = full_run(kind, [At(step, ctrl_c)], checkpoint=path)
    assert history.interrupted
    fastcnn.manual_seed(99)
    resumed = full_run(kind, seed=77, resume=path)
    assert not resumed[1].interrupted
    assert len(resumed[1]) >= 3
    assert_same_run(whole, resumed)


def test_resuming_again_and_again(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = full_run("sgd")
    full_run("sgd", [At(2, ctrl_c)], checkpoint=path)
    for step in (3, BATCHES, BATCHES + 4):
        full_run("sgd", [At(step, ctrl_c)], seed=step, resume=path, checkpoint=path)
    assert_same_run(whole, full_run("sgd", seed=1, resume=path))


def test_resuming_an_interrupted_validation(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = full_run("adamw")
    _, history, *_ = full_run("adamw", data=InterruptedEvaluation(validation()), checkpoint=path)
    assert history.interrupted
    assert history.stopped == "interrupted in epoch 2, after 5 batches"
    assert_same_run(whole, full_run("adamw", seed=77, resume=path))


def test_resuming_from_a_crash_between_steps(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = full_run("sgd")

    def crash(state):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        full_run("sgd", [At(9, crash), Checkpoint(path, every_epochs=None, every_steps=4)])
    assert_same_run(whole, full_run("sgd", seed=77, resume=path))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = full_run("sgd", checkpoint=path)
    contents = path.read_bytes()
    assert_same_run(whole, full_run("sgd", seed=77, resume=path, checkpoint=path))
    assert path.read_bytes() == contents


def test_a_resumed_epoch_counts_the_time_before(tmp_path, monkeypatch):
    """By a clock that shows one second more each time."""
    path, seconds = tmp_path / "run.safetensors", iter(range(1000))
    monkeypatch.setattr("fastcnn.training.trainer.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    whole = small_trainer().fit(train_loader(), 2, progress=False)
    small_trainer().fit(train_loader(), 2, callbacks=[At(BATCHES + 3, ctrl_c)], checkpoint=path, progress=False)
    next(seconds)
    resumed = small_trainer().fit(train_loader(), 2, resume=path, progress=False)
    for history in (whole, resumed):
        assert history["seconds"] == [BATCHES, BATCHES]
        assert history["images_per_second"] == [IMAGES / BATCHES] * 2


def test_resuming_with_other_settings_is_an_error(tmp_path):
    path = tmp_path / "run.safetensors"
    small_trainer().fit(train_loader(), 1, progress=False, checkpoint=path)
    trainer = small_trainer(seed=8)
    before = trainer.model.state_dict()
    with pytest.raises(CheckpointError) as caught:
        trainer.fit(train_loader(seed=4), 2, progress=False, resume=path)
    assert str(caught.value) == f"{path}: seed: expected 3, as the run was started with, got 4"
    for name, value in trainer.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("name", "loader", "trainer"),
    [
        ("shuffle", {"shuffle": False}, {}),
        ("batch_size", {"batch_size": 31}, {}),
        ("drop_last", {"drop_last": True}, {}),
        ("augment", {"augment": None}, {}),
        ("schedule_every", {}, {"schedule_every": "epoch"}),
        ("clip_grad_norm", {}, {"clip_grad_norm": 2.0}),
    ],
)
def test_every_setting_of_a_run_is_compared(name, loader, trainer, tmp_path):
    def build(loader=(), trainer=()):
        model = small_model()
        options = {"batch_size": 32, "shuffle": True, "seed": 3, "augment": Augment(crop_padding=1), **dict(loader)}
        return Trainer(model, optim.SGD(model.parameters(), 0.1), **dict(trainer)), DataLoader(digits(), **options)

    path = tmp_path / "run.safetensors"
    first, data = build()
    first.fit(data, 1, progress=False, checkpoint=path)
    second, data = build(loader, trainer)
    with pytest.raises(CheckpointError, match=rf": {name}: expected .*, as the run was started with, got "):
        second.fit(data, 2, progress=False, resume=path)


# --- saving the best ------------------------------------------------------------------------------------------------


def test_saving_every_few_steps_and_epochs(tmp_path):
    saved = []

    class Told(Checkpoint):
        def _save(self, trainer, state):
            saved.append((state.epoch, state.batch))
            super()._save(trainer, state)

    loader = train_loader()
    small_trainer().fit(loader, 2, callbacks=[Told(tmp_path / "a", every_epochs=2, every_steps=4)], progress=False)
    assert saved == [(0, 4), (1, 3), (2, 0)]
    saved.clear()
    small_trainer().fit(loader, 3, callbacks=[Told(tmp_path / "a", every_epochs=2)], progress=False)
    assert saved == [(2, 0), (3, 0)]  # and at the end


@pytest.mark.parametrize(
    "build",
    [
        lambda path: EarlyStopping("loss", patience=1, min_delta=1e-6),
        lambda path: Checkpoint(path, monitor="loss"),
        lambda path: Checkpoint(path),
        lambda path: Checkpoint(path, every_epochs=None),
        lambda path: Checkpoint(path, every_epochs=None, every_steps=4),
    ],
)
def test_two_fits_with_one_callback(build, tmp_path):
    """The second run is what it would have been with a callback of its own."""
    path, own = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    callback, loader, found = build(path), train_loader(), []
    small_trainer().fit(loader, 3, callbacks=[callback], progress=False)
    for again, file in ((callback, path), (build(own), own)):
        path.unlink(missing_ok=True)
        trainer = small_trainer("adamw", seed=1)
        history = trainer.fit(loader, 2, callbacks=[again], progress=False)
        saved = (
            {name: np.array(value).tobytes() for name, value in read_checkpoint(file)["model"].items()}
            if (isinstance(again, Checkpoint))
            else None
        )
        state = read_checkpoint(file)["state"]["step"] if isinstance(again, Checkpoint) else None
        found.append((measured(history), history.stopped, saved, state, again.state_dict().get("best")))
        weights = trainer.model.state_dict()
        found[-1] += ({name: value.tobytes() for name, value in weights.items()},)
    assert found[0] == found[1]
    assert found[0][3] in (None, 8, 10)


def test_one_progress_of_each_fit(capfd):
    trainer, loader = small_trainer(), train_loader()
    trainer.fit(loader, 1)
    assert "epoch 1/1" in capfd.readouterr().err
    trainer.fit(loader, 1, progress=False)
    assert capfd.readouterr().err == ""
    assert trainer.callbacks == []


class Clock:
    """Stands in for `time`, and moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


def test_the_time_of_a_resumed_epoch(tmp_path, monkeypatch):
    """The time of both parts counts, the time between them and that of validation do not."""
    from fastcnn.training import trainer as module

    clock, path = Clock(), tmp_path / "run.safetensors"
    monkeypatch.setattr(module, "time", clock)

    class Works(Callback):
        def on_step_end(self, trainer, state, loss):
            clock.now += 2.0 if state.epoch == 0 else 3.0

        def on_epoch_end(self, trainer, state):
            clock.now += 50.0

    class Validation:
        def __len__(self):
            return 1

        def epoch(self, epoch):
            clock.now += 1000.0
            return validation().epoch(epoch)

    loader = train_loader()
    stop = At(BATCHES + 2, ctrl_c)
    history = small_trainer().fit(
        loader, 2, callbacks=[Works(), stop], checkpoint=path, progress=False, validation=Validation()
    )
    assert history.interrupted
    clock.now += 1e6
    history = small_trainer().fit(loader, 2, callbacks=[Works()], resume=path, progress=False, validation=Validation())
    # The time of a step's callbacks counts from the next step on.
    assert history["seconds"] == pytest.approx([2.0 * (BATCHES - 1), 3.0 * (BATCHES - 1) - 3.0])
    assert history["images_per_second"] == pytest.approx([IMAGES / seconds for seconds in history["seconds"]])


def test_saving_the_best_alone(tmp_path):
    from fastcnn.training import load_weights

    path = tmp_path / "best.safetensors"
    trainer, told = small_trainer(epochs=5), Scores(2, 5, 3, 5, 1)
    best = Checkpoint(path, monitor="score", mode="max")
    trainer.fit(train_loader(), 5, callbacks=[told, best], progress=False)
    other = small_model()
    load_weights(other, path)
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, told.weights[1][name])


# --- history and progress -------------------------------------------------------------------------------------------


def test_history_table():
    history = History(
        [
            {"epoch": 1, "loss": 1.5, "accuracy": 0.5, "lr": 0.1, "images_per_second": 12345.6, "seconds": 1.23},
            {"epoch": 2, "loss": 0.25, "accuracy": 1.0, "lr": 0.001, "images_per_second": 999.0, "seconds": 10.0},
        ]
    )
    history.rows[1]["temperature"] = 36.6
    history.rows[1]["val_loss"] = 0.125
    assert str(history) == (
        "epoch    loss  accuracy  val loss     lr  images/s  seconds  temperature\n"
        "    1  1.5000    50.00%              0.1    12,346      1.2             \n"
        "    2  0.2500   100.00%    0.1250  0.001       999     10.0         36.6"
    )
    assert history["val_loss"] == [0.125]
    assert next(iter(history))["epoch"] == 1
    assert repr(history).startswith("<History of 2 epochs: epoch, loss, ")
    with pytest.raises(KeyError, match=r"column: expected one of epoch, loss, accuracy, .*, got 'los'"):
        history["los"]


def test_history_plot(tmp_path):
    history = History([{"epoch": n, "loss": 1 / n, "val_loss": 2 / n, "accuracy": 1 - 1 / n} for n in range(1, 5)])
    history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"^history: expected at least one finished epoch to draw, got none$"):
        History().plot(tmp_path / "no.png")


def test_history_plot_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        History([{"epoch": 1, "loss": 1.0}]).plot(tmp_path / "curve.png")
    assert str(caught.value) == (
        "drawing the curve needs matplotlib, which is not installed: pip install 'fastcnn[train]'"
    )


def test_progress_bar(capfd):
    small_trainer().fit(train_loader(), 2, validation=validation())
    lines = capfd.readouterr().err.replace("\r", "\n").split("\n")
    for epoch in (1, 2):
        last = [line for line in lines if line.startswith(f"epoch {epoch}/2 |██████████| 100%, loss ")][-1]
        for part in ("loss ", "accuracy ", "val loss ", "val accuracy ", " images/s, ", " left"):
            assert part in last


def test_progress_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    history = small_trainer().fit(train_loader(), 2, validation=validation())
    hint, *lines = capsys.readouterr().err.splitlines()
    assert hint == "the progress bar needs tqdm, which is not installed: pip install 'fastcnn[train]'"
    assert len(lines) == 2
    row = history.rows[1]
    assert lines[1] == (
        f"epoch 2/2: loss {row['loss']:.4f}, accuracy {row['accuracy']:.2%}, val loss {row['val_loss']:.4f}, "
        f"val accuracy {row['val_accuracy']:.2%}, {row['images_per_second']:,.0f} images/s, 0:00:00 left"
    )


def test_no_progress(capfd):
    small_trainer().fit(train_loader(), 1, progress=False)
    assert capfd.readouterr().err == ""


def test_the_bar_is_closed_on_an_interrupt(capfd):
    small_trainer().fit(train_loader(), 2, callbacks=[At(2, ctrl_c)])
    assert capfd.readouterr().err.endswith("\n")


def test_a_schedule_of_another_kind_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"schedule: expected a schedule of fastcnn\.optim or None, got 5"):
        Trainer(model, optim.SGD(model.parameters(), lr=0.1), schedule=5)

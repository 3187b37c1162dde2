"""Checkpoints: what they hold, what is refused, and that neither a failed save nor a kill harms a file."""

import errno
import json
import math
import os
import random as stdlib_random
import resource
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

import fastcnn
from fastcnn import nn, optim
from fastcnn.training import (
    Callback,
    CheckpointError,
    EarlyStopping,
    Trainer,
    TrainingState,
    load_checkpoint,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
)

safetensors = pytest.importorskip("safetensors")
numpy_format = pytest.importorskip("safetensors.numpy")


def small_model(dtype=np.float32):
    return nn.Sequential(
        {
            "conv": nn.Conv2d(1, 4, 3, dtype=dtype),
            "norm": nn.BatchNorm2d(4, dtype=dtype),
            "flat": nn.Flatten(),
            "fc": nn.Linear(4, 2, dtype=dtype),
        }
    )


def small_trainer(seed=0, optimizer="adam", schedule=True, dtype=np.float32):
    fastcnn.manual_seed(seed)
    model = small_model(dtype)
    if optimizer == "adam":
        optimizer = optim.Adam(model.parameters(), lr=0.01)
    else:
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    schedule = optim.StepLR(optimizer, 2, gamma=0.5) if schedule else None
    return Trainer(model, optimizer, schedule=schedule)


def train(trainer, steps=3):
    generator = np.random.default_rng(0)
    for _ in range(steps):
        trainer.step(generator.normal(size=(4, 1, 3, 3)).astype(np.float32), np.array([0, 1, 1, 0]))
    return trainer


class Notes(Callback):
    """A callback with a state of every kind that can be saved."""

    def __init__(self, notes=None):
        self.notes = notes or {}

    def state_dict(self):
        return {"notes": self.notes}

    def load_state_dict(self, state):
        self.notes = state["notes"]


def everything(trainer, state, callbacks=()):
    """All that a checkpoint could change, as something that compares."""

    def plain(value):
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.shape, value.tobytes()
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    parts = [trainer.model, trainer.optimizer, trainer.schedule, state, trainer.generators, *callbacks]
    return [plain(part.state_dict()) for part in parts if part is not None]


@pytest.fixture
def saved(tmp_path):
    """A checkpoint, what it holds, and the callbacks that it was saved with."""
    trainer = train(small_trainer())
    state = TrainingState(epoch=2, batch=1, step=7, settings={"seed": 5})
    state.history.rows.append({"epoch": 1, "loss": 1 / 3})
    state.meter.add(0.1, np.array([[0.0, 1.0]]), np.array([1]))
    callbacks = [Notes({"array": np.arange(3), "list": [1, {"deep": np.float32(0.5)}], "text": "a", "none": None})]
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, trainer, state, callbacks, extra={"who": "me"})
    return path, everything(trainer, state, callbacks)


def fresh():
    """Another run of the same kind, somewhere else."""
    return train(small_trainer(seed=9), 1), TrainingState(settings={"seed": 5}), [Notes()]


def test_what_is_saved_is_loaded(saved):
    path, before = saved
    trainer, state, callbacks = fresh()
    load_checkpoint(path, trainer, state, callbacks)
    before[5]["notes"]["list"][1]["deep"] = 0.5  # a NumPy number comes back as a Python one
    assert everything(trainer, state, callbacks) == before


def test_the_file_is_plain_safetensors(saved):
    path, _ = saved
    with safetensors.safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        tree = json.loads(file.metadata()["fastcnn.checkpoint"])
    assert {"model.conv.weight", "model.norm.running_var", "model.norm.num_batches_tracked"} <= names
    assert "optimizer.state.0.exp_avg" in names
    assert tree["version"] == fastcnn.__version__
    assert tree["state"]["history"] == [{"epoch": 1, "loss": 1 / 3}]


def test_read_checkpoint(saved):
    tree = read_checkpoint(saved[0])
    assert tree["extra"] == {"who": "me"}
    assert tree["kinds"] == {
        "optimizer": "Adam",
        "schedule": "StepLR",
        "loss": "CrossEntropyLoss",
        "parameters": "float32",
        "callbacks": "Notes",
    }
    assert tree["model"]["fc.weight"].shape == (2, 4)
    assert tree["callback.0"]["notes"]["text"] == "a"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "real" / "weights.safetensors")
    save_weights(small_model(), link)
    assert link.is_symlink()
    load_weights(small_model(), tmp_path / "real" / "weights.safetensors")


def test_the_file_has_ordinary_permissions(tmp_path):
    path = tmp_path / "weights.safetensors"
    mask = os.umask(0o022)
    try:
        save_weights(small_model(), path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_generators_of_layers_are_saved(kind, tmp_path):
    def build(seed):
        model = nn.Sequential({"fc": nn.Linear(8, 8), "drop": nn.Dropout(rng=np.random.Generator(kind(seed)))})
        return Trainer(model, optim.SGD(model.parameters(), 0.1))

    first, second = build(1), build(2)
    first.model["drop"].rng.random(10)
    save_checkpoint(tmp_path / "a", first, TrainingState())
    load_checkpoint(tmp_path / "a", second, TrainingState())
    assert second.model["drop"].rng.random() == first.model["drop"].rng.random()
    without = Trainer(nn.Sequential({"fc": nn.Linear(8, 8), "drop": nn.Dropout()}), second.optimizer)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "a", without, TrainingState())
    assert str(caught.value) == (f"{tmp_path / 'a'}: rng: expected layers drop to have their own generators, got none")


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_saved_elsewhere_load_by_name(tmp_path):
    path = tmp_path / "weights.safetensors"
    generator = np.random.default_rng(0)
    weights = {}
    for name, value in small_model().state_dict().items():
        weights[name] = generator.normal(size=value.shape).astype(value.dtype)
    numpy_format.save_file(weights, path, metadata={"format": "pt"})
    model = small_model()
    load_weights(model, path)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)


def test_weights_load_from_a_checkpoint(saved):
    model = small_model()
    load_weights(model, saved[0])
    np.testing.assert_array_equal(model["fc"].weight.data, read_checkpoint(saved[0])["model"]["fc.weight"])


def test_channels_last_and_foreign_byte_order_are_saved_as_they_read(tmp_path):
    trainer = small_trainer()
    arrays = {
        "last": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2),
        "big": np.arange(3, dtype=">f8"),
        "flag": np.array(True),
    }
    save_checkpoint(tmp_path / "a", trainer, TrainingState(), [Notes(arrays)])
    loaded = read_checkpoint(tmp_path / "a")["callback.0"]["notes"]
    for name, value in arrays.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_wrong_weights_are_all_listed(tmp_path):
    path = tmp_path / "weights.safetensors"
    weights = small_model().state_dict()
    del weights["conv.bias"], weights["norm.weight"]
    weights["fc.weight"] = weights["fc.weight"].T.copy()
    weights["fc.scale"] = np.ones(1, np.float32)
    numpy_format.save_file(weights, path)
    model = small_model()
    before = model.state_dict()
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path)
    assert str(caught.value) == (
        f"{path}: state: expected the names and shapes of this Sequential, got differences:\n"
        "  missing: conv.bias\n  missing: norm.weight\n  unexpected: fc.scale\n"
        "  wrong shape: fc.weight, expected (2, 4), got (4, 2)"
    )
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_bfloat16_weights_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f")
    with pytest.raises(CheckpointError) as caught:
        load_weights(small_model(), path)
    assert str(caught.value).startswith(f"{path}: expected tensors of types that NumPy has, got another (")
    assert "bfloat16" in str(caught.value)


# --- what is refused ------------------------------------------------------------------------------------------------


def edited(path, change):
    """Write the checkpoint again with its JSON changed."""
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree = json.loads(file.metadata()["fastcnn.checkpoint"])
    change(tree)
    numpy_format.save_file(tensors, path, {"fastcnn.checkpoint": json.dumps(tree)})


def without(name):
    return lambda tree: tree.pop(name)


BROKEN = {
    "cut in the data": (lambda p: p.write_bytes(p.read_bytes()[:-5]), "got a truncated or foreign one ("),
    "cut in the header": (lambda p: p.write_bytes(p.read_bytes()[:50]), "got a truncated or foreign one ("),
    "empty": (lambda p: p.write_bytes(b""), "expected a whole safetensors file, got a truncated or foreign one ("),
    "foreign": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(500)), "got a truncated or foreign one ("),
    "a state dict": (
        lambda p: numpy_format.save_file({"w": np.ones(2)}, p),
        "expected a fastcnn checkpoint, got a safetensors file without its metadata (load_weights reads plain state "
        "dicts)",
    ),
    "a list": (
        lambda p: numpy_format.save_file({"w": np.ones(2)}, p, {"fastcnn.checkpoint": "[]"}),
        "expected the metadata of a fastcnn checkpoint, got damaged metadata",
    ),
    "another format": (
        lambda p: edited(p, lambda tree: tree.update(format=2, version="9.0")),
        "expected checkpoint format 1, got format 2, written by fastcnn 9.0",
    ),
    "no json": (
        lambda p: numpy_format.save_file({"w": np.ones(2)}, p, {"fastcnn.checkpoint": "{"}),
        "expected the metadata of a fastcnn checkpoint, got damaged metadata",
    ),
    "no generator": (lambda p: edited(p, without("random")), "expected a whole checkpoint, got one without random"),
    "a bad generator": (
        lambda p: edited(p, lambda tree: tree["random"].update(default={"bit_generator": "MT19937"})),
        "state: expected the state of a PCG64 generator, got {'bit_generator': 'MT19937'}",
    ),
    "a missing array": (
        lambda p: edited(p, lambda tree: tree["model"].update({"fc.bias": {"$tensor": "model.gone"}})),
        "no entry 'model.gone'",
    ),
    "no counters": (lambda p: edited(p, lambda tree: tree.update(state={"settings": {"seed": 5}})), "no entry 'meter'"),
    "nested metadata": (
        lambda p: numpy_format.save_file({"w": np.ones(2)}, p, {"fastcnn.checkpoint": "[" * 100_000 + "]" * 100_000}),
        "expected the metadata of a fastcnn checkpoint, got damaged metadata",
    ),
    "an infinite generator": (
        lambda p: edited(p, lambda tree: tree["random"]["default"].update(has_uint32=math.inf)),
        "state: expected the state of a PCG64 generator, got",
    ),
    "an epoch in words": (
        lambda p: edited(p, lambda tree: tree["state"].update(epoch="two")),
        "epoch: expected a non-negative int, got 'two'",
    ),
    "half a step": (
        lambda p: edited(p, lambda tree: tree["state"].update(step=0.5)),
        "step: expected a non-negative int",
    ),
    "negative seconds": (
        lambda p: edited(p, lambda tree: tree["state"].update(seconds=-1.0)),
        "seconds: expected a finite number of at least 0, got -1.0",
    ),
    "a meter of words": (
        lambda p: edited(p, lambda tree: tree["state"]["meter"].update(loss_sum="1")),
        "loss_sum: expected a number, got '1'",
    ),
    "a history of lists": (
        lambda p: edited(p, lambda tree: tree["state"]["history"][0].update(loss=[])),
        "loss: expected a number, got []",
    ),
    "no callback": (lambda p: edited(p, without("callback.0")), "no entry 'callback.0'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_and_changes_nothing(kind, saved):
    path, _ = saved
    damage, message = BROKEN[kind]
    damage(path)
    trainer, state, callbacks = fresh()
    before = everything(trainer, state, callbacks)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, trainer, state, callbacks)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert everything(trainer, state, callbacks) == before


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("best", "low", "best: expected a number or None, got 'low'"),
        ("waited", -1, "waited: expected a non-negative int, got -1"),
        ("weights", {"fc.bias": 3}, "weights: expected arrays by their names, or None, got {'fc.bias': 3}"),
    ],
)
def test_a_broken_early_stopping_is_refused_and_changes_nothing(entry, value, message, tmp_path):
    trainer, path = train(small_trainer()), tmp_path / "run.safetensors"
    save_checkpoint(path, trainer, TrainingState(), [EarlyStopping()])
    edited(path, lambda tree: tree["callback.0"].update({entry: value}))
    state, callback = TrainingState(), EarlyStopping()
    before = everything(trainer, state, [callback])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, trainer, state, [callback])
    assert str(caught.value) == f"{path}: {message}"
    assert everything(trainer, state, [callback]) == before


OTHERS = {
    "optimizer": (
        lambda: (small_trainer(optimizer="sgd"), [Notes()]),
        "optimizer: expected Adam, as the run was saved, got SGD",
    ),
    "schedule": (
        lambda: (small_trainer(schedule=False), [Notes()]),
        "schedule: expected StepLR, as the run was saved, got none",
    ),
    "type": (
        lambda: (small_trainer(dtype=np.float64), [Notes()]),
        "parameters: expected float32, as the run was saved, got float64",
    ),
    "callbacks": (
        lambda: (small_trainer(), [Notes(), EarlyStopping()]),
        "callbacks: expected Notes, as the run was saved, got Notes, EarlyStopping",
    ),
    "no callbacks": (lambda: (small_trainer(), []), "callbacks: expected Notes, as the run was saved, got none"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(kind, saved):
    build, message = OTHERS[kind]
    trainer, callbacks = build()
    state = TrainingState(settings={"seed": 5})
    before = everything(trainer, state, callbacks)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved[0], trainer, state, callbacks)
    assert str(caught.value) == f"{saved[0]}: {message}"
    assert everything(trainer, state, callbacks) == before


def test_a_checkpoint_of_another_model_is_refused(saved):
    fastcnn.manual_seed(0)
    model = nn.Sequential({"fc": nn.Linear(4, 3)})
    optimizer = optim.Adam(model.parameters())
    trainer = Trainer(model, optimizer, schedule=optim.StepLR(optimizer, 2))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved[0], trainer, TrainingState(settings={"seed": 5}), [Notes()])
    assert "unexpected: conv.weight" in str(caught.value)
    assert "wrong shape: fc.weight, expected (3, 4), got (2, 4)" in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(small_model(), tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        load_weights(small_model(), tmp_path)


def test_without_safetensors(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "safetensors.numpy", raising=False)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        save_weights(small_model(), tmp_path / "a")
    assert str(caught.value) == (
        "saving a checkpoint needs safetensors, which is not installed: pip install 'fastcnn[train]'"
    )
    with pytest.raises(ModuleNotFoundError, match=r"^reading a checkpoint needs safetensors, "):
        load_weights(small_model(), tmp_path / "a")


# --- saving that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(function, monkeypatch, saved):
    path, _ = saved
    contents = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    trainer, state, callbacks = fresh()
    with pytest.raises(OSError, match="the checkpoint is not saved: No space left on device") as caught:
        save_checkpoint(path, trainer, state, callbacks)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_bytes() == contents
    assert os.listdir(path.parent) == [path.name]


def test_a_save_interrupted_in_the_middle_leaves_the_old_file(monkeypatch, saved):
    path, _ = saved
    contents = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGINT))
    trainer, state, callbacks = fresh()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, trainer, state, callbacks)
    assert path.read_bytes() == contents
    assert os.listdir(path.parent) == [path.name]


def test_a_save_beyond_the_size_limit_leaves_the_old_file(saved):
    path, _ = saved
    contents = path.read_bytes()
    trainer, state, callbacks = fresh()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="the checkpoint is not saved: File too large"):
            save_checkpoint(path, trainer, state, callbacks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == contents
    assert os.listdir(path.parent) == [path.name]


def test_saving_into_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "none" / "weights.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        save_weights(small_model(), path)
    assert caught.value.strerror == "the checkpoint is not saved: No such file or directory"
    assert caught.value.filename == str(path)


def test_saving_over_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        save_weights(small_model(), tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        save_checkpoint(tmp_path / "a", small_trainer(), TrainingState(), extra={"a": {1}})
    assert os.listdir(tmp_path) == []


# --- kills ----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
import numpy as np
from fastcnn import nn, optim
from fastcnn.training import Trainer, TrainingState, save_checkpoint

model = nn.Sequential(nn.Linear(300, 300))
trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
number = int(sys.argv[2])
while True:
    number += 1
    for parameter in model.parameters():
        parameter.data.fill(number)
    save_checkpoint(sys.argv[1], trainer, TrainingState(step=number))
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    """FASTCNN_KILL_TESTS says how many times (15 unless told)."""
    path = tmp_path / "run.safetensors"
    fastcnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    for parameter in model.parameters():
        parameter.data.fill(0)
    save_checkpoint(path, trainer, TrainingState())
    delays, number = stdlib_random.Random(0), 0
    for _ in range(int(os.environ.get("FASTCNN_KILL_TESTS", "15"))):
        command = [sys.executable, "-c", WRITER, str(path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            told = int(writer.stdout.readline())
            time.sleep(delays.uniform(0, 0.03))
            writer.kill()
            told = max([told, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        assert writer.returncode == -signal.SIGKILL
        state = TrainingState()
        load_checkpoint(path, trainer, state)
        number = state.step
        assert number in (told, told + 1)  # the last one that was finished, or the one after it
        for parameter in model.parameters():
            assert (parameter.data == number).all()

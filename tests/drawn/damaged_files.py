"""Draw damaged files for every reader of the package: each is read as what it says, or refused by name.

    python tests/drawn/damaged_files.py --count 5000 --seed 0

A draw takes a whole file, damages it and reads it. The reader returns what the file holds now, by a decoder of this
module where a check sum does not notice the damage; or it raises its documented error, which names the file, and
changes nothing. Draws run in a child process with limits on memory and time; one that dies is a failure of its draw.
"""

import argparse
import contextlib
import gzip
import io
import json
import math
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np

import fastcnn
from fastcnn import nn, optim
from fastcnn.training import (
    Callback,
    CheckpointError,
    EarlyStopping,
    Trainer,
    TrainingState,
    datasets,
    files,
    load_checkpoint,
    load_dataset,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
)

SECONDS = 20  # that one draw may take on a busy machine
MEMORY = 1 << 30  # bytes of address space beyond those of the interpreter and its libraries
RECORDS = 2  # of each CIFAR-10 file
BOMB = 1 << 31  # zeros that compress to 2 MB; more than MEMORY

INTEGERS = [0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
VALUES = [
    None, True, False, 0, 1, -1, 0.5, 3, -(2**31), 2**53, 2**63, 2**64, 2**200, 1e308, -1e-300, math.nan, math.inf,
    "", "x", "1", "nan", "\x00", [], {}, [[]], [1, 2], {"a": 1}, {"$tensor": "gone"}, {"$tensor": None},
]  # fmt: skip
DEEP = 100_000


class Wrong(AssertionError):
    """What a draw found."""


class TooSlow(BaseException):
    """Not an Exception: a reader may turn those into its own."""


# --- damage ---------------------------------------------------------------------------------------------------------


def damaged(rng, data):
    """Return bytes with one or a few kinds of damage that know nothing of the format."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 3)):
        size = len(data)
        at = int(rng.integers(0, size + 1))
        if rng.random() < 0.5:  # headers are short, and what they say matters most
            at = min(at, int(rng.integers(0, 96)))
        length = int(rng.integers(1, 40))
        kind = rng.integers(0, 11)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            for place in rng.integers(0, max(size, 1), rng.integers(1, 9)):
                if size:
                    data[place] ^= 1 << rng.integers(0, 8)
        elif kind == 2 and at < size:
            data[at] ^= 1 << rng.integers(0, 8)
        elif kind == 3:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 4:
            data[at : at + length] = rng.bytes(len(data[at : at + length]))
        elif kind == 5:
            data[at:at] = rng.bytes(length)
        elif kind == 6:
            del data[at : at + length]
        elif kind == 7:
            data += rng.choice([bytes(length), rng.bytes(length), bytes(data[:length]), b"\n"])
        elif kind == 8:
            data[at:at] = data[at : at + length]
        elif kind == 9:
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(np.array(INTEGERS, object))) % 256**width
            data[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))
        else:
            other = int(rng.integers(0, size + 1))
            at, other = sorted((at, other))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    return bytes(data)


def maybe_compressed(rng, data, damage):
    """Damage data inside of gzip or outside, or leave it plain."""
    kind = rng.integers(0, 6)
    if kind < 2:
        return damage(data)
    if kind == 2:
        return gzip.compress(damage(data), 1)
    if kind == 3:
        return damaged(rng, gzip.compress(data, 1))
    if kind == 4:
        return gzip.compress(gzip.compress(damage(data), 1), 1)
    half = int(rng.integers(0, len(data) + 1))  # two members, and what some programs add
    tail = [b"", bytes(20), b"garbage", gzip.compress(b"")][rng.integers(0, 4)]
    return gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1) + tail


def whatever(rng):
    """A file that is another one altogether; None is a folder."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return b""
    if kind == 1:
        return rng.bytes(int(rng.integers(1, 300)))
    if kind == 2:
        return None
    if kind == 3:
        return bytes(int(rng.integers(1, 5000)))
    if kind == 4:
        return b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    return gzip.compress(rng.bytes(50))


def unpacked(data):
    """The bytes in gzip's members, or None where they are not whole; plain data as it is."""
    if data.startswith(b"\x1f\x8b"):
        try:
            return gzip.decompress(data)
        except Exception:
            return None
    return data


def put(path, data):
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)


def refused(error, path, kinds):
    """Check the type of an error, and that it names the file."""
    if isinstance(error, OSError) and error.filename is not None and path.is_dir():
        return "refused"
    if type(error) not in kinds:
        raise Wrong(f"{type(error).__name__}: {str(error)[:200]}") from error
    if str(path) not in str(error):
        raise Wrong(f"an error that does not name the file: {type(error).__name__}: {str(error)[:200]}") from error
    return "refused"


# --- IDX ------------------------------------------------------------------------------------------------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def decoded_idx(data, ndim):
    """The array in an IDX file of bytes, or None."""
    data = unpacked(data)
    if data is None or len(data) < 4 + 4 * ndim or data[:4] != bytes([0, 0, 8, ndim]):
        return None
    shape = struct.unpack(f">{ndim}I", data[4 : 4 + 4 * ndim])
    rest = data[4 + 4 * ndim :]
    return np.frombuffer(rest, np.uint8).reshape(shape) if len(rest) == math.prod(shape) else None


def bomb():
    """Gzip data of `BOMB` zeros behind an IDX header of few: members of 64 MiB, compressed once."""
    member = gzip.compress(bytes(1 << 26), 1)
    return gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)), 1) + member * (BOMB >> 26)


def read_idx(rng, folder):
    ndim = int(rng.choice([1, 3]))
    shape = (5,) if ndim == 1 else (3, 4, 5)
    data = idx(rng.integers(0, 10, shape, np.uint8))
    if rng.random() < 0.3:  # sizes whose product wraps, or is that of the data
        sizes = [int(value) % 2**32 for value in rng.choice(np.array(INTEGERS, object), ndim)]
        data = data[:4] + struct.pack(f">{ndim}I", *sizes) + data[4 + 4 * ndim :]
    data = maybe_compressed(rng, data, lambda data: damaged(rng, data)) if rng.random() < 0.95 else whatever(rng)
    if rng.random() < 0.005:
        data = bomb()
    path = folder / "images"
    put(path, data)
    try:
        got = files.read_idx(path, ndim)
    except Exception as error:
        return refused(error, path, (ValueError,))
    want = decoded_idx(data, ndim)
    if want is None or got.dtype != np.uint8 or not np.array_equal(got, want):
        raise Wrong(f"read as {got.shape}, {'to be refused' if want is None else want.shape}")
    return "read"


def load_mnist(rng, folder):
    images, labels = rng.integers(0, 256, (4, 28, 28), np.uint8), rng.integers(0, 10, 4, np.uint8)
    data = {"t10k-images-idx3-ubyte": idx(images), "t10k-labels-idx1-ubyte": idx(labels)}
    spoilt = str(rng.choice(list(data)))
    data[spoilt] = maybe_compressed(rng, data[spoilt], lambda data: damaged(rng, data))
    for name, content in data.items():
        (folder / (name + rng.choice(["", ".gz"]))).write_bytes(content)
    path = folder / spoilt
    try:
        got = load_dataset("mnist", "test", folder, download=False)
    except Exception as error:
        other = next(folder.glob(f"{'t10k-labels' if 'images' in spoilt else 't10k-images'}*"))
        return refused(error, other if str(other) in str(error) else path, (ValueError,))
    want = [decoded_idx(content, ndim) for content, ndim in zip(data.values(), (3, 1), strict=True)]
    if want[0] is None or want[1] is None or not np.array_equal(got.images[..., 0], want[0]):
        raise Wrong("other images than the file's")
    if not np.array_equal(got.labels, want[1]) or got.labels.max(initial=0) > 9:
        raise Wrong("other labels than the file's")
    return "read"


# --- CIFAR-10 -------------------------------------------------------------------------------------------------------


def records(rng):
    data = rng.integers(0, 256, (RECORDS, files.CIFAR_RECORD), np.uint8)
    data[:, 0] %= 10
    return data.tobytes()


def same_cifar(got, contents):
    data = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, files.CIFAR_RECORD)
    images = got.images.transpose(0, 3, 1, 2).reshape(len(data), -1)
    if not np.array_equal(images, data[:, 1:]) or not np.array_equal(got.labels, data[:, 0]):
        raise Wrong("other images or labels than the file's")


def load_cifar_batch(rng, folder):
    path = folder / "test_batch.bin"
    data = maybe_compressed(rng, records(rng), lambda data: damaged(rng, data))
    if rng.random() < 0.003:
        data = bomb()
    path.write_bytes(data)
    try:
        got = load_dataset("cifar10", "test", folder, download=False)
    except Exception as error:
        return refused(error, path, (ValueError,))
    want = unpacked(data)
    if want is None or len(want) != RECORDS * files.CIFAR_RECORD:
        raise Wrong(f"read {len(got)} images of a damaged file")
    same_cifar(got, [want])
    return "read"


def tar(contents, rng):
    """An archive in one of the formats; headers of members may say what is not so."""
    memory = io.BytesIO()
    kind = int(rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=memory, mode="w", format=kind) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            if kind == tarfile.PAX_FORMAT and rng.random() < 0.3:
                keys = ["size", "path", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "mtime", "hdrcharset"]
                values = ["9" * 20, "-1", "1,x", "0,1", "x", "", "1" * 5000, "1e400", "nan"]
                member.pax_headers = {str(rng.choice(keys)): str(rng.choice(values))}
            with contextlib.suppress(ValueError):  # what tarfile itself does not write
                archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def damaged_tar(rng, data):
    """Change fields of a header and correct its check sum, or damage any bytes."""
    if rng.random() < 0.4:
        return damaged(rng, data)
    data = bytearray(data)
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return damaged(rng, data)
    at = int(rng.choice(headers))
    for _ in range(rng.integers(1, 3)):
        kind = rng.integers(0, 5)
        if kind == 0:  # the size, octal or in the base 256, which has a sign
            size = int(rng.choice(np.array([-1, -512, -(2**62), *INTEGERS], object)))
            field = b"\xff" + (size % 256**11).to_bytes(11, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
            if size >= 0 and size < 8**11 and rng.random() < 0.5:
                field = b"%011o\0" % size
            data[at + 124 : at + 136] = field
        elif kind == 1:
            data[at + 156 : at + 157] = rng.choice([b"0", b"S", b"L", b"K", b"x", b"g", b"5", b"1", b"2", b"V", b"\0"])
        elif kind == 2:  # a sparse member of any size
            size = int(rng.choice(np.array(INTEGERS, object)))
            data[at + 156 : at + 157] = b"S"
            data[at + 483 : at + 495] = b"\x80" + size.to_bytes(11, "big")
        elif kind == 3:
            data[at : at + 20] = rng.bytes(20)
        else:
            place = at + int(rng.integers(0, 512))
            data[place] = rng.integers(0, 256)
    if rng.random() < 0.9:
        data[at + 148 : at + 156] = b"        "
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def load_cifar_archive(rng, folder):
    contents = {name: records(rng) for name in (*datasets.CIFAR_BATCHES["train"], *datasets.CIFAR_BATCHES["test"])}
    path = folder / "cifar-10-binary.tar.gz"
    data = maybe_compressed(rng, tar(contents, rng), lambda data: damaged_tar(rng, data))
    path.write_bytes(bomb() if rng.random() < 0.005 else data)
    split = str(rng.choice(["train", "test"]))
    try:
        got = load_dataset("cifar10", split, folder, download=False)
    except Exception as error:
        return refused(error, path, (ValueError,))
    if len(got) != RECORDS * len(datasets.CIFAR_BATCHES[split]) or got.labels.max(initial=0) > 9:
        raise Wrong(f"read as {len(got)} images")
    plain = unpacked(data)
    if plain is None or any(image.tobytes() not in plain for image in got.images.transpose(0, 3, 1, 2)):
        raise Wrong("images that are not in the archive")
    return "read"


# --- the digits in the package --------------------------------------------------------------------------------------

DIGITS = (Path(datasets.__file__).parents[1] / "data" / "digits.npz").read_bytes()


def npy_header(rng, data):
    """An array whose header is another."""
    shape = [1797, 8, 8]
    shape[rng.integers(0, 3)] = int(rng.choice(np.array(INTEGERS, object)))
    text = str(rng.choice([
        repr({"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}),
        "{'descr': '|O', 'fortran_order': False, 'shape': (1797, 8, 8)}",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (1797, 8, 8)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1797, 64)}",
        "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (3,)}",
        "(" * 200, "", "{}", "{'shape': ()}",
    ]))  # fmt: skip
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + data[128:]


def load_digits(rng, folder):
    path = folder / "data" / "digits.npz"
    path.parent.mkdir()
    data = DIGITS
    if rng.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(DIGITS)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = str(rng.choice(list(members)))
        changed = npy_header(rng, members[name]) if rng.random() < 0.6 else damaged(rng, members[name])
        members[name] = changed
        if rng.random() < 0.1:
            del members[name]
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", int(rng.choice([0, 8]))) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        data = memory.getvalue()
        if rng.random() < 0.8:
            put(path, data)
        else:
            put(path, damaged(rng, data))
    else:
        put(path, damaged(rng, data))
    try:
        with mock.patch.object(datasets.resources, "files", return_value=folder):
            got = load_dataset("digits")
    except Exception as error:
        return refused(error, path, (ValueError,))
    with np.load(io.BytesIO(path.read_bytes())) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    chosen = [np.flatnonzero(labels == label) for label in range(10)]
    chosen = np.sort(np.concatenate([np.delete(indices, slice(4, None, 5)) for indices in chosen]))
    if images.shape != (1797, 8, 8) or labels.shape != (1797,) or labels.max() > 9:
        raise Wrong(f"read as {got}")
    if not np.array_equal(got.images[..., 0], images[chosen]) or not np.array_equal(got.labels, labels[chosen]):
        raise Wrong("other images or labels than the file's")
    return "read"


# --- safetensors ----------------------------------------------------------------------------------------------------


class Notes(Callback):
    """A callback with a state of every kind."""

    def __init__(self):
        self.notes = {"array": np.arange(3), "list": [1, {"deep": 0.5}], "text": "a", "none": None}

    def state_dict(self):
        return {"notes": self.notes}

    def load_state_dict(self, state):
        self.notes = state["notes"]


def run(kind, seed):
    """A trainer, the state of a run and its callbacks."""
    fastcnn.manual_seed(seed)
    model = nn.Sequential({
        "conv": nn.Conv2d(1, 2, 2), "norm": nn.BatchNorm2d(2), "flat": nn.Flatten(), "drop": nn.Dropout(0.1),
        "fc": nn.Linear(2, 2),
    })  # fmt: skip
    model.preprocessing = nn.Preprocessing((1, 2, 2), mean=seed / 100, std=0.25, class_names=("cat", "dog"))
    if kind == 2:
        model.drop = nn.Dropout(0.1, rng=np.random.default_rng(seed))
    if kind == 0:
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        schedule = optim.StepLR(optimizer, 2)
    elif kind == 1:
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        schedule = optim.CosineAnnealingLR(optimizer, 10)
    else:
        optimizer, schedule = optim.SGD(model.parameters(), lr=0.01), None
    trainer = Trainer(model, optimizer, schedule=schedule)
    trainer.step(np.ones((2, 1, 2, 2), np.float32), np.array([0, 1]))
    state = TrainingState(epoch=2, batch=1, step=7, settings={"seed": 5, "batch_size": 2})
    state.history.rows += [{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "loss": 0.25, "accuracy": 0.5}]
    state.meter.add(0.1, np.array([[0.0, 1.0]]), np.array([1]))
    callbacks = [Notes(), EarlyStopping("loss", restore_best=True)]
    callbacks[1].on_epoch_end(trainer, state)
    return trainer, state, callbacks


def plain(value):
    """Something that compares, also where an array or a NaN is in it."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else repr(value)


def everything(trainer, state, callbacks):
    parts = [trainer.model, trainer.optimizer, trainer.schedule, state, trainer.generators, *callbacks]
    return [repr(trainer.model.preprocessing), *(plain(part.state_dict()) for part in parts if part is not None)]


def nested(rng, text):
    """JSON that nests deeply in the place of some value."""
    deep = str(rng.choice(["[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP]))
    if rng.random() < 0.5:
        return deep
    return text.replace(": ", ": " + deep + ", " if rng.random() < 0.2 else ": " + deep[: 2 * DEEP] + ', "z": ', 1)


def changed_tree(rng, tree):
    """Change one value somewhere in JSON data, or take it away."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[rng.integers(0, len(keys))]
        inner = node[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
            node = inner
            continue
        if rng.random() < 0.15:
            del node[key]
        elif rng.random() < 0.1 and isinstance(node, dict):
            node[str(rng.choice(["extra", "$tensor", ""]))] = VALUES[rng.integers(0, len(VALUES))]
        else:
            node[key] = VALUES[rng.integers(0, len(VALUES))]
        return


def changed_header(rng, data):
    """Damage what a safetensors file says of itself: tensors' types, shapes and places, its metadata, its length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.get("__metadata__", {})
    kind = rng.integers(0, 8)
    text = None
    if kind < 4 and metadata:
        name = list(metadata)[rng.integers(0, len(metadata))]
        tree = json.loads(metadata[name])
        for _ in range(rng.integers(1, 3)):
            changed_tree(rng, tree)
        metadata[name] = json.dumps(tree)
        if kind == 3:
            metadata[name] = nested(rng, metadata[name]) if rng.random() < 0.3 else damaged(
                rng, metadata[name].encode()).decode("latin-1")  # fmt: skip
    elif kind == 4:
        tensor = header[[name for name in header if name != "__metadata__"][rng.integers(0, len(header) - 1)]]
        what = rng.integers(0, 3)
        if what == 0:
            tensor["dtype"] = str(rng.choice(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E5M2", "C64", "X", ""]))
        elif what == 1:
            tensor["shape"] = [int(n) for n in rng.choice(np.array([*INTEGERS, -1], object), rng.integers(0, 5))]
        else:
            tensor["data_offsets"] = [int(n) for n in rng.choice(np.array([*INTEGERS, -1], object), 2)]
    elif kind == 5:
        names = [name for name in header if name != "__metadata__"]
        a, b = (names[rng.integers(0, len(names))] for _ in range(2))
        header[a], header[b] = header[b], header[a]
    elif kind == 6:
        changed_tree(rng, header)
    else:
        whole = json.dumps(header)
        text = str(
            rng.choice([nested(rng, whole), whole[:-1] + "," + whole[1:], whole + whole, whole.replace(":", ",")])
        )
    content = (json.dumps(header) if text is None else text).encode()
    length = len(content) if rng.random() < 0.95 else int(rng.choice(np.array(INTEGERS, object)))
    return struct.pack("<Q", length) + content + body


def damaged_safetensors(rng, data):
    choice = rng.random()
    if choice < 0.03:
        return whatever(rng)
    return changed_header(rng, data) if choice < 0.7 else damaged(rng, data)


def raw_tensors(data):
    """The tensors of a safetensors file, by name."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    types = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
             "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}  # fmt: skip
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], types[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def load_model(rng, folder):
    trainer, state, callbacks = run(int(rng.integers(0, 3)), 1)
    path = folder / "run.safetensors"
    if rng.random() < 0.5:
        save_weights(trainer.model, path)
        prefix = ""
    else:
        save_checkpoint(path, trainer, state, callbacks, {"who": "me"})
        prefix = "model."
    data = damaged_safetensors(rng, path.read_bytes())
    path.unlink()
    put(path, data)
    model = run(0, 9)[0].model
    before = repr(model.preprocessing), plain(model.state_dict())
    try:
        load_weights(model, path)
    except Exception as error:
        if (repr(model.preprocessing), plain(model.state_dict())) != before:
            raise Wrong("a failed load changed the model") from error
        return refused(error, path, (CheckpointError,))
    want = {name: array.tobytes() for name, array in raw_tensors(data).items()}
    for name, array in model.state_dict().items():
        # By the name of the checkpoint's metadata, an entry may stand for another tensor, or be a number itself.
        if array.tobytes() not in want.values() and (not prefix or array.size > 1):
            raise Wrong(f"{name} is not in the file")
    check_preprocessing(model)
    return "read"


def load_run(rng, folder):
    kind = int(rng.integers(0, 3))
    path = folder / "run.safetensors"
    trainer, state, callbacks = run(kind, 1)
    save_checkpoint(path, trainer, state, callbacks, {"who": "me"})
    data = damaged_safetensors(rng, path.read_bytes())
    path.unlink()
    put(path, data)
    trainer, _, callbacks = run(kind, 9)
    state = TrainingState(settings={"seed": 5, "batch_size": 2})
    before = everything(trainer, state, callbacks)
    reader = rng.integers(0, 4)
    try:
        if reader:
            load_checkpoint(path, trainer, state, callbacks)
        else:
            read_checkpoint(path)
    except Exception as error:
        if everything(trainer, state, callbacks) != before:
            raise Wrong("a failed load changed the run") from error
        return refused(error, path, (CheckpointError,))
    if not reader:
        return "read"
    check_run(trainer, state, callbacks)
    return "read"


def check_preprocessing(model):
    known = model.preprocessing
    shape = 1, known.input_shape[0], *(1 for _ in known.input_shape[1:])  # only the channels have to be those
    with np.errstate(all="ignore"):
        known(np.zeros(shape, np.uint8 if known.input_type == "uint8" else known.dtype))
    if not np.isfinite([*known.mean, *known.std, known.scale]).all():
        raise Wrong(f"preprocessing is {known}")


def check_run(trainer, state, callbacks):
    """Check that what was loaded can go on: counts are counts, rates are rates, and a step and an epoch's end work."""
    for name, value in (("epoch", state.epoch), ("batch", state.batch), ("step", state.step),
                        ("images", state.meter.images), ("counted", state.meter.counted),
                        ("correct", state.meter.correct)):  # fmt: skip
        if type(value) is not int or not 0 <= value < 2**63:
            raise Wrong(f"{name} is {value!r}")
    for name, value in (("seconds", state.seconds), ("loss_sum", state.meter.loss_sum)):
        if type(value) not in (int, float):
            raise Wrong(f"{name} is {value!r}")
    if not all(isinstance(row, dict) and all(type(v) in (int, float) for v in row.values()) for row in state.history):
        raise Wrong(f"a history of {state.history.rows}")
    for group in trainer.optimizer.param_groups:
        if not (np.isfinite(group["lr"]) and group["lr"] >= 0):
            raise Wrong(f"lr is {group['lr']}")
    str(state.history)
    check_preprocessing(trainer.model)
    with np.errstate(all="ignore"), contextlib.suppress(FloatingPointError):
        trainer.step(np.ones((2, 1, 2, 2), np.float32), np.array([0, 1]))
    state.finish_epoch({"epoch": state.epoch + 1, "loss": 0.5})
    for callback in callbacks:
        callback.on_epoch_end(trainer, state)
    if trainer.schedule is not None:
        trainer.schedule.step()
    trainer.generators.state_dict()


READERS = {
    "idx": read_idx, "mnist": load_mnist, "cifar batch": load_cifar_batch, "cifar archive": load_cifar_archive,
    "digits": load_digits, "weights": load_model, "checkpoint": load_run,
}  # fmt: skip


# --- draws ----------------------------------------------------------------------------------------------------------


def _too_slow(*_):
    raise TooSlow


def draw(seed, index):
    """Run one draw; return its reader and whether the file was read or refused. Raises `Wrong`."""
    rng = np.random.default_rng([seed, index])
    name = list(READERS)[rng.integers(0, len(READERS))]
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(SECONDS)
    try:
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(files, "CIFAR_RECORDS", RECORDS):
            return name, READERS[name](rng, Path(folder))
    except TooSlow:
        raise Wrong(f"{name}: took more than {SECONDS} s") from None
    except Exception as error:
        raise Wrong(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)


def limit_memory():
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def child(seed, first, count):
    limit_memory()
    for index in range(first, first + count):
        print(json.dumps([index, None, None]), flush=True)
        try:
            name, outcome = draw(seed, index)
        except Wrong as error:
            name, outcome = "wrong", str(error)
        print(json.dumps([index, name, outcome]), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000, help="how many draws")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.seed, options.first, options.count)
        return 0
    start, end, tally, wrong = time.monotonic(), options.first + options.count, {}, 0

    def failed(index, text):
        again = f"python {Path(__file__).name} --seed {options.seed} --first {index} --count 1"
        print(f"FAILED draw {index}: {text}; again: {again}", flush=True)

    at = options.first
    while at < end:
        command = [sys.executable, __file__, "--child", "--seed", str(options.seed), "--first", str(at)]
        with subprocess.Popen([*command, "--count", str(end - at)], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                index, name, outcome = json.loads(line)
                at = index
                if name == "wrong":
                    wrong += 1
                    failed(index, outcome)
                elif name:
                    tally[name, outcome] = tally.get((name, outcome), 0) + 1
        if process.returncode:
            wrong += 1
            failed(at, f"the process ended with {process.returncode}")
        at += 1
    counts = ", ".join(f"{name} {outcome} {count}" for (name, outcome), count in sorted(tally.items()))
    print(f"{options.count} damaged files drawn in {time.monotonic() - start:.0f} s, {wrong} wrong ({counts})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

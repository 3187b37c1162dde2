"""Data sets: the embedded digits, readers of IDX and CIFAR-10 files, where files are looked for, and downloads."""

import dataclasses
import gzip
import hashlib
import http.server
import importlib.resources
import io
import os
import re
import sys
import tarfile
import threading
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fastcnn.training import datasets, files, locate
from fastcnn.training.datasets import MEAN, NAMES, SOURCES, STD, ImageDataset, load_dataset

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
REAL_DATA = os.environ.get("FASTCNN_DATA")


def exactly(text):
    return re.escape(text)


def idx(array):
    array = np.asarray(array, np.uint8)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_idx(folder, split="train", labels=(3, 1, 4), gzipped=False, size=(28, 28)):
    """Write a data set of a few images whose pixels tell the label and the place; return the pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(len(labels) * size[0] * size[1]).reshape(len(labels), *size) % 251
    for name, array in zip(IDX_NAMES[split], (pixels, labels), strict=True):
        content = idx(array)
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return pixels


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No folder of the machine is searched; return the one that stands for the system's share."""
    monkeypatch.delenv("FASTCNN_DATA", raising=False)
    monkeypatch.setattr(locate, "SYSTEM_SHARES", (tmp_path / "share",))
    monkeypatch.setattr(locate, "cache_dir", lambda: tmp_path / "cache" / "fastcnn")
    return tmp_path


# --- the digits -----------------------------------------------------------------------------------------------------


def test_digits_are_the_uci_test_file():
    file = importlib.resources.files("fastcnn") / "data" / "digits.npz"
    content = file.read_bytes()
    assert len(content) < 100_000
    arrays = np.load(io.BytesIO(content), allow_pickle=False)
    digest = hashlib.sha256(arrays["images"].tobytes() + arrays["labels"].tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn, which ships the same digits, is missing")
    digits = sklearn.load_digits()
    assert np.array_equal(arrays["images"], digits.images)
    assert np.array_equal(arrays["labels"], digits.target)


def test_digits_licence_is_in_the_package():
    text = (importlib.resources.files("fastcnn") / "data" / "DIGITS-LICENSE.txt").read_text()
    for words in ("Alpaydin", "Kaynak", "CC BY 4.0", "https://doi.org/10.24432/C50P49", "UCI"):
        assert words in text


def test_digits_split_is_every_fifth_of_each_class():
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert len(train) == 1442
    assert len(test) == 355
    assert np.bincount(test.labels).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert np.bincount(train.labels).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    file = importlib.resources.files("fastcnn") / "data" / "digits.npz"
    with file.open("rb") as stream:
        arrays = np.load(stream)
        images, labels = arrays["images"], arrays["labels"]
    for label in range(10):
        own = images[labels == label]
        assert np.array_equal(test.images[test.labels == label][..., 0], own[4::5])
        kept = np.arange(len(own)) % 5 != 4
        assert np.array_equal(train.images[train.labels == label][..., 0], own[kept])


def npz(path, **arrays):
    np.savez(path, **arrays)


PIXELS, NUMBERS = np.zeros((1797, 8, 8), np.uint8), np.zeros(1797, np.uint8)
DAMAGED_DIGITS = {
    "empty": (lambda p: p.write_bytes(b""), "damaged or truncated npz file: "),
    "foreign": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(100)), "damaged or truncated npz file: "),
    "one missing": (lambda p: npz(p, images=PIXELS), "damaged or truncated npz file: "),
    "objects": (lambda p: npz(p, images=PIXELS, labels=np.array([{}])), "damaged or truncated npz file: "),
    "type": (lambda p: npz(p, images=PIXELS + 0.5, labels=NUMBERS), "images: expected uint8 of shape (1797, 8, 8), "),
    "shape": (lambda p: npz(p, images=PIXELS, labels=NUMBERS[1:]), "labels: expected uint8 of shape (1797,), got"),
    "label": (lambda p: npz(p, images=PIXELS, labels=NUMBERS + 10), "expected labels from 0 to 9, got 10 at 0"),
}


@pytest.mark.parametrize("case", DAMAGED_DIGITS)
def test_damaged_digits_are_refused_by_name(case, tmp_path, monkeypatch):
    path = tmp_path / "data" / "digits.npz"
    path.parent.mkdir()
    damage, message = DAMAGED_DIGITS[case]
    damage(path)
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=f"^{exactly(f'{path}: {message}')}"):
        load_dataset("digits")


def test_digits_need_no_folder():
    digits = load_dataset("digits", "test", data_dir="/no/such/folder", download=False)
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert digits.scale == 1 / 16


def check_constants(dataset, name, tolerance):
    values = np.arange(256) * dataset.scale
    for channel in range(dataset.images.shape[3]):
        share = np.bincount(dataset.images[..., channel].ravel(), minlength=256) / dataset.images[..., channel].size
        mean = (share * values).sum()
        np.testing.assert_allclose(mean, MEAN[name][channel], atol=tolerance)
        np.testing.assert_allclose((share * (values - mean) ** 2).sum() ** 0.5, STD[name][channel], atol=tolerance)
    assert dataset.mean == MEAN[name]
    assert dataset.std == STD[name]


def test_digits_constants_are_of_the_training_split():
    check_constants(load_dataset("digits"), "digits", 5e-5)
    assert load_dataset("digits", "test").mean == MEAN["digits"]


@pytest.mark.parametrize("name", ["MNIST", "cifar-10", "", None])
def test_unknown_name(name):
    message = f"name: expected one of 'digits', 'mnist', 'fashion-mnist', 'cifar10', got {name!r}"
    with pytest.raises(ValueError, match=f"^{exactly(message)}$"):
        load_dataset(name)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_split(name):
    with pytest.raises(ValueError, match=r"^split: expected 'train' or 'test', got 'val'$"):
        load_dataset(name, "val")


# --- ImageDataset ---------------------------------------------------------------------------------------------------


def test_image_dataset_keeps_pixels_and_normalises_labels():
    pixels = np.zeros((3, 4, 5, 2), np.uint8)
    dataset = ImageDataset(pixels, np.array([0, 2, 1], np.uint8), mean=(0.1, 0.2), std=0.5)
    assert dataset.images is pixels
    assert dataset.labels.dtype == np.int64
    assert dataset.classes == ("0", "1", "2")
    assert dataset.input_shape == (2, 4, 5)
    assert (dataset.mean, dataset.std, dataset.scale) == ((0.1, 0.2), (0.5, 0.5), 1 / 255)
    assert len(dataset) == 3
    assert repr(dataset) == "ImageDataset(3 images of 4x5x2, 3 classes)"


def test_image_dataset_subset():
    dataset = load_dataset("digits")
    few = dataset.subset(slice(10, 20))
    assert np.shares_memory(few.images, dataset.images)
    assert np.array_equal(few.labels, dataset.labels[10:20])
    assert (few.classes, few.mean, few.std, few.scale) == (dataset.classes, dataset.mean, dataset.std, dataset.scale)
    assert len(dataset.subset(dataset.labels == 3)) == 147
    assert len(dataset.subset(np.array([5, 5, 1]))) == 3


def test_empty_image_dataset():
    empty = ImageDataset(np.zeros((0, 8, 8, 1), np.uint8), [])
    assert len(empty) == 0
    assert empty.classes == ()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 1))}, TypeError, "images: expected an array of uint8, got float64"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, ValueError, "images: expected shape (N, H, W, C), got (2, 4, 4)"),
        ({"labels": [0.0, 1.0]}, TypeError, "labels: expected an array of integers, got float64"),
        ({"labels": [0]}, ValueError, "labels: expected shape (2,), one label an image, got (1,)"),
        ({"labels": [[0], [1]]}, ValueError, "labels: expected shape (2,), one label an image, got (2, 1)"),
        ({"labels": [0, 2]}, ValueError, "labels: expected values from 0 to 1, got 2"),
        ({"labels": [-1, 0]}, ValueError, "labels: expected values from 0 to 1, got -1"),
        (
            {"mean": (0.1, 0.2)},
            ValueError,
            "mean: expected a finite number, or 1 of them, one a channel, got (0.1, 0.2)",
        ),
        ({"std": 0}, ValueError, "std: expected a positive number, or 1 of them, one a channel, got 0"),
        ({"std": "x"}, TypeError, "std: expected a positive number, or 1 of them, one a channel, got 'x'"),
        ({"mean": np.nan}, ValueError, "mean: expected a finite number, or 1 of them, one a channel, got nan"),
        ({"scale": -1.0}, ValueError, "scale: expected a positive number, or 1 of them, one a channel, got -1.0"),
    ],
)
def test_image_dataset_errors(changes, error, message):
    arguments = {"images": np.zeros((2, 4, 4, 1), np.uint8), "labels": [0, 1], "classes": ("a", "b")} | changes
    with pytest.raises(error, match=f"^{exactly(message)}$"):
        ImageDataset(**arguments)


# --- IDX files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_read_idx(tmp_path, compress):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 7), np.uint8)
    path = tmp_path / "images"
    path.write_bytes(compress(idx(images)))
    assert np.array_equal(files.read_idx(path, 3), images)
    path.write_bytes(compress(idx(np.zeros((0, 28, 28)))))
    assert files.read_idx(path, 3).shape == (0, 28, 28)


IMAGES = idx(np.arange(24).reshape(2, 3, 4))


def spoil(data, place):
    changed = bytearray(data)
    changed[place] ^= 0xFF
    return bytes(changed)


WRONG_START = "not an IDX file of 3-D unsigned bytes: expected it to start with 0x00000803, got "
DAMAGED_IDX = {
    "empty": (b"", WRONG_START + "an empty file"),
    "foreign": (b"\x89PNG....", WRONG_START + "0x89504e47"),
    "labels": (idx([1, 2]), WRONG_START + "0x00000801"),
    "type": (spoil(IMAGES, 2), WRONG_START + "0x0000f703"),
    "cut header": (IMAGES[:10], "truncated IDX header: expected 16 bytes, got 10"),
    "cut": (IMAGES[:-1], "expected 40 bytes for shape (2, 3, 4), got 39"),
    "too long": (IMAGES + b"\0", "expected 40 bytes for shape (2, 3, 4), got 41"),
    "huge": (spoil(IMAGES, 4), "expected 51338281000 bytes for shape (4278190082, 3, 4), got 40"),
    "gzip cut": (gzip.compress(IMAGES)[:-9], "damaged or truncated gzip data: "),
    "gzip cut early": (gzip.compress(IMAGES)[:15], "damaged or truncated gzip data: "),
    "gzip sum": (spoil(gzip.compress(IMAGES), -6), "damaged or truncated gzip data: CRC check failed"),
    "gzip data": (spoil(gzip.compress(IMAGES), 12), "damaged or truncated gzip data: "),
    "cut before gzip": (gzip.compress(IMAGES[:-1]), "expected 40 bytes for shape (2, 3, 4), got 39"),
}


def test_a_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(IMAGES) + gzip.compress(bytes(1 << 26)) * 3)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"expected 40 bytes for shape \(2, 3, 4\), got 41 or more"):
            files.read_idx(path, 3)
        monkeypatch.setattr(files, "ARCHIVE_BYTES", 100)
        with pytest.raises(ValueError, match="expected an archive of at most 100 bytes, got more"):
            files.read_tar_members(path, ("a",))
        with pytest.raises(ValueError, match=r"expected 30730000 bytes .*, got 30730001 or more"):
            files.parse_cifar(files.read_bytes(path, 30_730_000), str(path))
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", DAMAGED_IDX)
def test_read_idx_refuses_a_damaged_file(tmp_path, case):
    content, message = DAMAGED_IDX[case]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{exactly(f'{path}: {message}')}"):
        files.read_idx(path, 3)


def test_every_cut_of_a_gzipped_file_is_noticed(tmp_path):
    path, whole = tmp_path / "labels.gz", gzip.compress(idx(np.arange(100) % 10))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{exactly(str(path))}: "):
            files.read_idx(path, 1)


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_load_idx_data_set(alone, name, split, gzipped):
    pixels = write_idx(alone / name, split, gzipped=gzipped)
    dataset = load_dataset(name, split, alone / name)
    assert dataset.images.shape == (3, 28, 28, 1)
    assert np.array_equal(dataset.images[..., 0], pixels)
    assert dataset.labels.tolist() == [3, 1, 4]
    assert dataset.classes == datasets.CLASSES[name]
    assert dataset.mean == MEAN[name]
    assert dataset.scale == 1 / 255


def test_one_file_may_be_gzipped_and_the_other_plain(alone):
    write_idx(alone / "mnist")
    labels = alone / "mnist" / "train-labels-idx1-ubyte"
    labels.with_suffix(".gz").write_bytes(gzip.compress(labels.read_bytes()))
    labels.unlink()
    assert load_dataset("mnist", "train", alone).labels.tolist() == [3, 1, 4]


def test_idx_images_of_another_size(alone):
    write_idx(alone / "mnist", size=(28, 27))
    path = alone / "mnist" / "train-images-idx3-ubyte"
    with pytest.raises(ValueError, match=f"^{exactly(f'{path}: expected images of 28x28 pixels, got 28x27')}$"):
        load_dataset("mnist", data_dir=alone)


def test_idx_labels_of_another_number(alone):
    write_idx(alone / "mnist")
    path = alone / "mnist" / "train-labels-idx1-ubyte"
    path.write_bytes(idx([1, 2]))
    with pytest.raises(ValueError, match=f"^{exactly(f'{path}: expected 3 labels, one an image, got 2')}$"):
        load_dataset("mnist", data_dir=alone)


def test_idx_label_out_of_range(alone):
    write_idx(alone / "mnist", labels=(3, 10, 4))
    path = alone / "mnist" / "train-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=f"^{exactly(f'{path}: expected labels from 0 to 9, got 10 at 1')}$"):
        load_dataset("mnist", data_dir=alone)


# --- CIFAR-10 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_cifar(alone, monkeypatch):
    """CIFAR-10 with two records a file: the contents of the six files by name."""
    monkeypatch.setattr(files, "CIFAR_RECORDS", 2)
    rng = np.random.default_rng(1)
    records = rng.integers(0, 256, (6, 2, 3073), np.uint8)
    records[:, :, 0] %= 10
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    return dict(zip(names, (part.tobytes() for part in records), strict=True))


def write_folder(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def tar_gz(contents):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def check_cifar(contents, load):
    for split, names in (("train", list(contents)[:5]), ("test", ["test_batch.bin"])):
        dataset = load(split)
        records = np.frombuffer(b"".join(contents[name] for name in names), np.uint8).reshape(-1, 3073)
        assert dataset.images.shape == (2 * len(names), 32, 32, 3)
        assert dataset.images.flags.c_contiguous
        assert np.array_equal(dataset.labels, records[:, 0])
        assert np.array_equal(dataset.images[..., 1].reshape(-1, 1024), records[:, 1 + 1024 : 1 + 2048])
        assert dataset.images[1, 2, 3].tolist() == [records[1, 1 + plane * 1024 + 2 * 32 + 3] for plane in range(3)]
        assert dataset.classes[9] == "truck"


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"])
def test_cifar_batches(alone, small_cifar, folder):
    write_folder(alone / "data" / "x" / folder, small_cifar)
    check_cifar(small_cifar, lambda split: load_dataset("cifar10", split, alone / "data" / "x", download=False))


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar-10-binary.tar"])
def test_cifar_archive(alone, small_cifar, name):
    archive = tar_gz(small_cifar)
    (alone / name).write_bytes(archive if name.endswith("gz") else gzip.decompress(archive))
    check_cifar(small_cifar, lambda split: load_dataset("cifar10", split, alone, download=False))


@pytest.mark.parametrize("cut", [slice(-1), slice(3073), slice(0)])
def test_cifar_batch_of_wrong_length(alone, small_cifar, cut):
    small_cifar["data_batch_3.bin"] = small_cifar["data_batch_3.bin"][cut]
    write_folder(alone / "cifar10", small_cifar)
    length = len(small_cifar["data_batch_3.bin"])
    path = alone / "cifar10" / "data_batch_3.bin"
    message = f"{path}: expected 6146 bytes (2 records of 3073), got {length}"
    with pytest.raises(ValueError, match=f"^{exactly(message)}$"):
        load_dataset("cifar10", "train", alone)
    assert len(load_dataset("cifar10", "test", alone)) == 2


def test_cifar_label_out_of_range(alone, small_cifar):
    small_cifar["test_batch.bin"] = spoil(small_cifar["test_batch.bin"], 3073)
    write_folder(alone / "cifar10", small_cifar)
    path = alone / "cifar10" / "test_batch.bin"
    with pytest.raises(ValueError, match=f"^{exactly(f'{path}: expected labels from 0 to 9, got ')}\\d+ at 1$"):
        load_dataset("cifar10", "test", alone)


def test_cifar_archive_damaged(alone, small_cifar):
    path, whole = alone / "cifar-10-binary.tar.gz", tar_gz(small_cifar)
    load = partial(load_dataset, "cifar10", "train", alone, download=False)
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=f"^{exactly(str(path))}: damaged or truncated gzip data"):
        load()
    path.write_bytes(spoil(whole, -6))
    with pytest.raises(ValueError, match=f"^{exactly(str(path))}: damaged or truncated gzip data: CRC check failed"):
        load()
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:1000]))
    with pytest.raises(ValueError, match=f"^{exactly(str(path))}: damaged or truncated tar archive"):
        load()
    header = gzip.decompress(whole)[:512]
    for size in (2**40, 2**80, -512, -(2**70)):  # in base 256
        changed = bytearray(header)
        changed[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
        changed[148:156] = b"        "
        changed[148:156] = b"%06o\0 " % sum(changed)
        path.write_bytes(bytes(changed) + bytes(2048))
        with pytest.raises(ValueError, match=f"^{exactly(str(path))}: damaged or truncated tar archive"):
            load()
    for key, value in (("size", "9" * 20), ("GNU.sparse.map", "1,x")):
        memory = io.BytesIO()
        with tarfile.open(fileobj=memory, mode="w", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("data_batch_1.bin")
            member.size, member.pax_headers = 10, {key: value}
            archive.addfile(member, io.BytesIO(bytes(10)))
        path.write_bytes(memory.getvalue())
        with pytest.raises(ValueError, match=f"^{exactly(str(path))}: damaged or truncated tar archive"):
            load()
    path.write_bytes(b"no tar archive at all" * 100)
    with pytest.raises(ValueError, match=f"^{exactly(str(path))}: damaged or truncated tar archive"):
        load()
    path.write_bytes(tar_gz({name: small_cifar[name] for name in ("data_batch_1.bin", "test_batch.bin")}))
    message = f"{path}: the archive lacks data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin"
    with pytest.raises(ValueError, match=f"^{exactly(message)}$"):
        load()
    path.write_bytes(tar_gz(small_cifar | {"data_batch_5.bin": b"\1\2"}))
    message = f"{path}: data_batch_5.bin: expected 6146 bytes (2 records of 3073), got 2"
    with pytest.raises(ValueError, match=f"^{exactly(message)}$"):
        load()


# --- where files are looked for -------------------------------------------------------------------------------------


def test_order_of_looking(alone, monkeypatch):
    monkeypatch.setenv("FASTCNN_DATA", str(alone / "variable"))
    places = [
        alone / "given" / "fashion-mnist",
        alone / "given" / "FashionMNIST" / "raw",
        alone / "given",
        alone / "variable" / "fashion-mnist",
        alone / "variable",
        alone / "share" / "datasets" / "fashion-mnist",
        alone / "cache" / "fastcnn" / "fashion-mnist",
    ]
    for number, place in enumerate(places):
        write_idx(place, labels=(number,))
    for number, place in enumerate(places):
        found = load_dataset("fashion-mnist", "train", alone / "given", download=False)
        assert found.labels.tolist() == [number]
        for name in IDX_NAMES["train"]:
            (place / name).unlink()
    with pytest.raises(FileNotFoundError):
        load_dataset("fashion-mnist", "train", alone / "given", download=False)


def test_system_folders():
    assert locate.SYSTEM_SHARES[:2] == (Path("/usr/share"), Path("/usr/local/share"))
    assert Path(sys.prefix, "share") in locate.SYSTEM_SHARES


def test_a_folder_of_another_data_set_is_not_taken(alone, monkeypatch):
    write_idx(alone / "mnist")
    monkeypatch.setenv("FASTCNN_DATA", str(alone / "mnist"))
    assert len(load_dataset("mnist", download=False)) == 3
    with pytest.raises(FileNotFoundError, match="fashion-mnist"):
        load_dataset("fashion-mnist", download=False)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/fastcnn"),
        ("linux", {"XDG_CACHE_HOME": "other"}, "other/fastcnn"),
        ("darwin", {"XDG_CACHE_HOME": "other"}, "home/Library/Caches/fastcnn"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/fastcnn"),
        ("win32", {}, "home/AppData/Local/fastcnn"),
    ],
)
def test_cache_dir(monkeypatch, platform, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    monkeypatch.setattr(sys, "platform", platform)
    assert locate.cache_dir() == Path(expected)


def test_home_is_expanded(alone, monkeypatch):
    monkeypatch.setenv("HOME", str(alone))
    monkeypatch.setenv("USERPROFILE", str(alone))
    write_idx(alone / "mine" / "mnist")
    assert len(load_dataset("mnist", "train", "~/mine", download=False)) == 3


def test_data_dir_must_exist(alone):
    message = f"data_dir: expected an existing folder, got '{alone / 'absent'}'"
    with pytest.raises(FileNotFoundError, match=f"^{exactly(message)}$"):
        load_dataset("mnist", "train", alone / "absent")


def test_not_found_says_what_where_and_how(alone, monkeypatch):
    monkeypatch.setenv("FASTCNN_DATA", str(alone / "variable"))
    given = alone / "given"
    write_idx(given / "mnist")
    (given / "mnist" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("mnist", "train", given, download=False)
    share, cache = alone / "share" / "datasets", alone / "cache" / "fastcnn"
    variable, url = alone / "variable", "https://storage.googleapis.com/cvdf-datasets/mnist/train-"
    assert str(caught.value) == (
        "data set 'mnist': the train files were not found. Looked for (plain, or gzipped as .gz)\n"
        "  train-images-idx3-ubyte, train-labels-idx1-ubyte\n"
        "in\n"
        f"  data_dir: {given}/mnist, {given}/MNIST/raw, {given}\n"
        f"    (found only {given}/mnist/train-images-idx3-ubyte)\n"
        f"  FASTCNN_DATA: {variable}/mnist, {variable}/MNIST/raw, {variable} (no folder {variable})\n"
        f"  system: {share}/mnist, {share}/MNIST/raw, {share} (no folder {share})\n"
        f"  cache: {cache}/mnist, {cache}/MNIST/raw, {cache} (no folder {cache})\n"
        "Downloading was not asked for.\n"
        f"To get it by hand, put {url}images-idx3-ubyte.gz and {url}labels-idx1-ubyte.gz\n"
        "into a folder, and name that folder by data_dir (--data-dir) or FASTCNN_DATA."
    )


def test_not_found_names_the_debian_package_and_both_cifar_layouts(alone):
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", download=False)
    with pytest.raises(FileNotFoundError, match=r"data_batch_5\.bin\n  or cifar-10-binary\.tar\nin\n"):
        load_dataset("cifar10", download=False)


# --- downloads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(alone, monkeypatch):
    """A web server of a folder on this machine; yields the folder and the address."""
    pytest.importorskip("pooch", reason="pooch is missing")
    folder = alone / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_address[1]}/"
        web.shutdown()
        thread.join()


def serve_mnist(monkeypatch, server):
    folder, url = server
    write_idx(folder, gzipped=True)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setitem(SOURCES, "mnist", dataclasses.replace(SOURCES["mnist"], url=url, sha256=sums))
    return folder, url


def test_download_into_the_cache(alone, server, monkeypatch):
    folder, _ = serve_mnist(monkeypatch, server)
    assert load_dataset("mnist").labels.tolist() == [3, 1, 4]
    cached = sorted(path.name for path in (alone / "cache" / "fastcnn" / "mnist").iterdir())
    assert cached == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    for path in folder.iterdir():
        path.unlink()
    assert load_dataset("mnist").labels.tolist() == [3, 1, 4]


def test_download_with_another_sum_is_not_kept(alone, server, monkeypatch):
    folder, url = serve_mnist(monkeypatch, server)
    images = folder / "train-images-idx3-ubyte.gz"
    images.write_bytes(spoil(images.read_bytes(), 100))
    with pytest.raises(ValueError, match=f"^{exactly(url)}{images.name}: not the published file, .*SHA256"):
        load_dataset("mnist")
    assert list((alone / "cache" / "fastcnn" / "mnist").iterdir()) == []


def test_download_that_fails(alone, server, monkeypatch):
    folder, _ = serve_mnist(monkeypatch, server)
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)Looked for.*cache: .*\nDownloading failed: 404.*by hand, put"):
        load_dataset("mnist")
    closed = dataclasses.replace(SOURCES["mnist"], url="http://127.0.0.1:1/")
    monkeypatch.setitem(SOURCES, "mnist", closed)
    with pytest.raises(FileNotFoundError, match=r"(?s)Looked for.*\nDownloading failed: .*by hand, put http://127"):
        load_dataset("mnist", "train")


def test_download_without_pooch(alone, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=r"To download it, install what fastcnn\[train\] needs \(.*pooch"):
        load_dataset("mnist")


def test_published_sums_cover_every_download():
    for source in SOURCES.values():
        wanted = {f"{name}.gz" for layouts in source.layouts.values() for name in layouts[-1]}
        assert set(source.sha256) == wanted
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in source.sha256.values())
        assert source.url.startswith("https://")
        assert source.url.endswith("/")


# --- the real files -------------------------------------------------------------------------------------------------


def load_real(name, split, **kwargs):
    try:
        return load_dataset(name, split, download=False, **kwargs)
    except FileNotFoundError:
        pytest.skip(f"no {name} files on this machine: name their folder by FASTCNN_DATA")


@pytest.mark.skipif(not REAL_DATA, reason="FASTCNN_DATA names no folder of data sets")
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_real_files(name, split):
    dataset = load_real(name, split)
    size = {"mnist": {"train": 60_000, "test": 10_000}, "cifar10": {"train": 50_000, "test": 10_000}}[name][split]
    assert len(dataset) == size
    assert set(dataset.labels) == set(range(10))
    if split == "train":  # CIFAR-10 that went through JPEG has slightly less contrast
        check_constants(dataset, name, 5e-5 if name == "mnist" else 3e-3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_fashion_mnist(split):
    dataset = load_real("fashion-mnist", split)
    assert np.bincount(dataset.labels).tolist() == [len(dataset) // 10] * 10
    assert len(dataset) == {"train": 60_000, "test": 10_000}[split]
    if split == "train":
        check_constants(dataset, "fashion-mnist", 5e-5)

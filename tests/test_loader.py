"""Batches of images: the one-pass kernel against plain NumPy, augmentation, and the loader's determinism."""

import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastcnn
import fastcnn.functional as F
from fastcnn.training.augment import Augment
from fastcnn.training.datasets import ImageDataset, load_dataset
from fastcnn.training.loader import DataLoader

PIXELS = (np.uint8, np.float32, np.float64)


def numpy_batch(images, indices, *, scale=1.0, mean=0.0, std=1.0, shift=None, flip=None, cutout=None, dtype=np.float32):
    """`image_batch` one image at a time, with the formula as it is in books."""
    channels, height, width = images.shape[1:]
    mean, std = (np.broadcast_to(value, channels)[:, None, None] for value in (mean, std))
    batch = np.empty((len(indices), channels, height, width), dtype)
    for place, index in enumerate(indices):
        image = images[index].astype(np.float64)
        if shift is not None:
            top, left = np.clip(shift[place], (-height, -width), (height, width))
            padded = np.pad(image, ((0, 0), (height, height), (width, width)))
            image = padded[:, height + top : 2 * height + top, width + left : 2 * width + left]
        if flip is not None and flip[place]:
            image = image[:, :, ::-1]
        image = (image * scale - mean) / std
        if cutout is not None:
            top, left, bottom, right = np.maximum(cutout[place], 0)
            image[:, top:bottom, left:right] = 0
        batch[place] = image
    return batch


def random_images(rng, dtype, shape, order):
    count, channels, height, width = shape
    values = rng.integers(0, 256, (count, height, width, channels)).astype(dtype)
    if dtype != np.uint8:
        values = values / dtype(255) - dtype(0.5)
    nchw = values.transpose(0, 3, 1, 2)
    if order == "contiguous":
        return np.ascontiguousarray(nchw)
    if order == "reversed":
        return np.ascontiguousarray(nchw[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
    nchw.flags.writeable = False
    return nchw


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_image_batch_is_what_numpy_makes(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.integers(1, high)) for high in (6, 4, 9, 9))
    pixel, dtype = draw(st.sampled_from(PIXELS)), draw(st.sampled_from(PIXELS[1:]))
    images = random_images(rng, pixel, shape, draw(st.sampled_from(["channels last", "contiguous", "reversed"])))
    n, height, width = draw(st.integers(0, 8)), *shape[2:]
    indices = rng.integers(0, shape[0], n)
    arguments = {
        "scale": draw(st.sampled_from([1.0, 1 / 255])),
        "mean": rng.normal(size=shape[1]).tolist(),
        "std": rng.uniform(0.2, 3, shape[1]).tolist(),
    }
    if draw(st.booleans()):
        arguments["shift"] = rng.integers(-height - width, height + width + 1, (n, 2))
    if draw(st.booleans()):
        arguments["flip"] = rng.random(n) < 0.5
    if draw(st.booleans()):
        corner = rng.integers(-3, 10, (n, 2))
        arguments["cutout"] = np.hstack((corner, corner + rng.integers(-1, 9, (n, 2))))
    batch = F.image_batch(images, indices, dtype=dtype, **arguments)
    assert batch.shape == (n, *shape[1:])
    assert batch.dtype == dtype
    assert batch.transpose(0, 2, 3, 1).flags.c_contiguous
    expected = numpy_batch(images, indices, dtype=dtype, **arguments)
    tolerance = 1e-13 if dtype == np.float64 else 1e-6
    size = np.abs(expected).max(initial=1) + 256 * arguments["scale"] / min(arguments["std"])
    np.testing.assert_allclose(batch, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_with_steps_between_pixels(channels):
    """Rows longer than a round of the kernel's inner loop: every other column, and columns backwards."""
    stored = np.random.default_rng(0).integers(0, 256, (2, 5, 80, channels), np.uint8).transpose(0, 3, 1, 2)
    for images in (stored, stored[..., ::2], stored[..., ::-1], stored[:, ::-1, ::2, 3::3], stored.copy()[..., 1::2]):
        shift = [[0, 0], [1, -2], [-1, 3]]
        expected = numpy_batch(images, [1, 0, 1], scale=1 / 255, mean=0.5, shift=np.array(shift))
        batch = F.image_batch(images, [1, 0, 1], scale=1 / 255, mean=0.5, shift=shift)
        np.testing.assert_allclose(batch, expected, atol=1e-6)


def test_floats_pass_unchanged_without_normalisation():
    images = np.array([np.nan, np.inf, -np.inf, 1e-40, -3.5, 1e38], np.float32).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(F.image_batch(images, [0, 0]), np.concatenate((images, images)))


def test_bits_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (50, 3, 32, 32), np.uint8)
    indices = rng.integers(0, 50, 129)
    changes = Augment(crop_padding=4, horizontal_flip=True, cutout=8).draw(rng, 129, 32, 32)
    before, batches = fastcnn.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            fastcnn.set_num_threads(threads)
            batches.append(F.image_batch(images, indices, scale=1 / 255, mean=(0.1, 0.5, 0.4), std=0.3, **changes))
    finally:
        fastcnn.set_num_threads(before)
    for batch in batches[1:]:
        assert batch.tobytes("A") == batches[0].tobytes("A")


def test_out_is_used_again():
    images = np.arange(48, dtype=np.uint8).reshape(4, 1, 3, 4)
    out = np.empty((2, 3, 4, 1), np.float32).transpose(0, 3, 1, 2)
    assert F.image_batch(images, [3, 0], out=out) is out
    np.testing.assert_array_equal(out, images[[3, 0]])
    assert F.image_batch(images, [1, 1], out=out) is out
    np.testing.assert_array_equal(out, images[[1, 1]])


def test_memory_that_is_not_aligned():
    raw = np.zeros(1 + 4 * 12, np.uint8)
    images = raw[1:].view(np.float32).reshape(1, 1, 3, 4)
    assert not images.flags.aligned
    images[...] = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(F.image_batch(images, [0]), images)


READ_ONLY = np.zeros((2, 2, 2, 1), np.float32).transpose(0, 3, 1, 2)
READ_ONLY.flags.writeable = False
NUMBER = "number, or 1 of them, one a channel"
IMAGE_BATCH_ERRORS = [
    ({"images": [[1]]}, TypeError, "images: expected a NumPy array of uint8, float32 or float64, got list"),
    ({"images": np.zeros((2, 1, 2, 2), int)}, TypeError, "images: expected an array of uint8, float32 or float64, got "
     "int64"),
    ({"images": np.zeros((2, 2, 2), np.uint8)}, ValueError, "images: expected 4-D array, got shape (2, 2, 2)"),
    ({"indices": [0.0, 1.0]}, TypeError, "indices: expected an array of integers, got float64"),
    ({"indices": [[0, 1]]}, ValueError, "indices: expected 1-D array, got shape (1, 2)"),
    ({"indices": [0, 5]}, ValueError, "indices: expected values from 0 to 4, got 5"),
    ({"indices": [-1, 0]}, ValueError, "indices: expected values from 0 to 4, got -1"),
    ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
    ({"scale": 0}, ValueError, f"scale: expected a positive {NUMBER}, got 0"),
    ({"mean": np.inf}, ValueError, f"mean: expected a finite {NUMBER}, got inf"),
    ({"mean": [[0.1], [0.2, 0.3]]}, ValueError, f"mean: expected a finite {NUMBER}, got [[0.1], [0.2, 0.3]]"),
    ({"mean": [0.1, 0.2]}, ValueError, f"mean: expected a finite {NUMBER}, got [0.1, 0.2]"),
    ({"std": [0.0]}, ValueError, f"std: expected a positive {NUMBER}, got [0.0]"),
    ({"std": None}, TypeError, f"std: expected a positive {NUMBER}, got None"),
    ({"std": "1"}, TypeError, f"std: expected a positive {NUMBER}, got '1'"),
    ({"shift": [[0, 0]]}, ValueError, "shift: expected shape (2, 2), got (1, 2)"),
    ({"shift": [[0.5, 0], [0, 0]]}, TypeError, "shift: expected an array of integers, got float64"),
    ({"flip": [0, 1]}, TypeError, "flip: expected an array of bool, got int64"),
    ({"flip": [True]}, ValueError, "flip: expected shape (2,), got (1,)"),
    ({"cutout": [[0, 0], [1, 1]]}, ValueError, "cutout: expected shape (2, 4), got (2, 2)"),
    ({"cutout": [["a"] * 4] * 2}, TypeError, "cutout: expected an array of integers, got <U1"),
    ({"out": [1]}, TypeError, "out: expected a NumPy array of float32, got list"),
    ({"out": np.zeros((2, 1, 2, 2))}, TypeError, "out: expected an array of float32, got float64"),
    ({"out": np.zeros((1, 1, 2, 2), np.float32)}, ValueError, "out: expected shape (2, 1, 2, 2), got (1, 1, 2, 2)"),
    ({"out": READ_ONLY}, ValueError, "out: expected a writable, aligned array, got one that is not"),
    ({"out": np.zeros((2, 1, 2, 4), np.float32)[..., ::2]}, ValueError, "out: expected channels-last memory, "
     "as that of input is, got strides (32, 32, 16, 8)"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), IMAGE_BATCH_ERRORS)
def test_image_batch_errors(changes, error, message):
    arguments = {"images": np.zeros((5, 1, 2, 2), np.uint8), "indices": [0, 1]} | changes
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        F.image_batch(**arguments)


# --- augmentation ---------------------------------------------------------------------------------------------------


def test_augment_draws_every_place_equally():
    changes = Augment(crop_padding=2, horizontal_flip=True, cutout=3).draw(np.random.default_rng(0), 30_000, 6, 5)
    assert changes.keys() == {"shift", "flip", "cutout"}
    for axis in range(2):
        counts = np.bincount(changes["shift"][:, axis] + 2)
        np.testing.assert_allclose(counts, 6000, rtol=0.06)
        counts = np.bincount(changes["cutout"][:, axis] + 1)
        np.testing.assert_allclose(counts, 30_000 / (6, 5)[axis], rtol=0.06)
    assert abs(changes["flip"].mean() - 0.5) < 0.01
    assert (changes["cutout"][:, 2:] - changes["cutout"][:, :2] == 3).all()
    assert abs(np.corrcoef(changes["shift"].T)[0, 1]) < 0.02


def test_augment_draws_only_what_is_asked_for():
    rng = np.random.default_rng(0)
    assert Augment().draw(rng, 4, 8, 8) == {}
    assert Augment(crop_padding=1).draw(rng, 4, 8, 8).keys() == {"shift"}
    assert Augment(horizontal_flip=True).draw(rng, 4, 8, 8).keys() == {"flip"}
    assert Augment(cutout=1).draw(rng, 4, 8, 8).keys() == {"cutout"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"crop_padding": -1}, ValueError, "crop_padding: expected a non-negative int, got -1"),
        ({"crop_padding": 1.5}, TypeError, "crop_padding: expected a non-negative int, got 1.5"),
        ({"cutout": -2}, ValueError, "cutout: expected a non-negative int, got -2"),
        ({"cutout": True}, TypeError, "cutout: expected a non-negative int, got True"),
        ({"horizontal_flip": 1}, TypeError, "horizontal_flip: expected a bool, got 1"),
    ],
)
def test_augment_errors(arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Augment(**arguments)


# --- the loader -----------------------------------------------------------------------------------------------------

ALL = Augment(crop_padding=1, horizontal_flip=True, cutout=3)


def digits(count=100):
    return load_dataset("digits").subset(slice(count))


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (inputs, targets), (other_inputs, other_targets) in zip(first, second, strict=True):
        assert inputs.tobytes("A") == other_inputs.tobytes("A")
        assert np.array_equal(targets, other_targets)
    return True


def differ(first, second):
    return not any(np.array_equal(one[0], other[0]) for one, other in zip(first, second, strict=True))


def test_batches_are_normalised_and_channels_last():
    dataset = load_dataset("digits")
    loader = DataLoader(dataset, 200)
    batches = list(loader.epoch(0))
    assert [len(inputs) for inputs, _ in batches] == [200] * 7 + [42]
    assert len(loader) == 8
    for inputs, targets in batches:
        assert inputs.dtype == np.float32
        assert inputs.shape[1:] == (1, 8, 8)
        assert inputs.transpose(0, 2, 3, 1).flags.c_contiguous
        assert targets.dtype == np.int64
    inputs = np.concatenate([inputs for inputs, _ in batches]).astype(np.float64)
    np.testing.assert_allclose([inputs.mean(), inputs.std()], [0, 1], atol=3e-4)
    expected = (dataset.images[..., 0] / 16 - dataset.mean[0]) / dataset.std[0]
    np.testing.assert_allclose(inputs[:, 0], expected, atol=1e-6)
    assert np.array_equal(np.concatenate([targets for _, targets in batches]), dataset.labels)


def test_each_batch_is_memory_of_its_own():
    batches = list(DataLoader(digits(), 30).epoch(0))
    assert not any(np.shares_memory(a[0], b[0]) for a in batches for b in batches if a is not b)


def test_drop_last():
    assert len(DataLoader(digits(100), 30, drop_last=True)) == 3
    assert len(list(DataLoader(digits(100), 30, drop_last=True).epoch(0))) == 3
    assert len(DataLoader(digits(90), 30, drop_last=True)) == 3
    assert len(DataLoader(digits(90), 30)) == 3
    assert len(DataLoader(digits(10), 30, drop_last=True)) == 0


def test_shuffle_visits_every_image_once_in_an_order_of_the_epoch():
    dataset = ImageDataset(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), np.arange(100), scale=1.0)
    loader = DataLoader(dataset, 7, shuffle=True, seed=5)
    orders = []
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        order = np.concatenate([targets for _, targets in batches])
        assert np.array_equal(np.concatenate([inputs for inputs, _ in batches])[:, 0, 0, 0], order)
        assert np.array_equal(order, loader.order(epoch))
        assert sorted(order) == list(range(100))
        orders.append(order.tolist())
    orders.append(DataLoader(dataset, 7, shuffle=True, seed=6).order(0).tolist())
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(DataLoader(dataset, 7).order(3), np.arange(100))


def test_an_epoch_depends_on_seed_and_number_alone():
    first = DataLoader(digits(), 16, shuffle=True, augment=ALL, seed=1)
    second = DataLoader(digits(), 16, shuffle=True, augment=ALL, seed=1)
    list(first.epoch(0))
    np.random.default_rng(0).random()
    assert same(first.epoch(4), second.epoch(4))
    assert differ(first.epoch(4), first.epoch(5))
    assert differ(first.epoch(4), DataLoader(digits(), 16, shuffle=True, augment=ALL, seed=2).epoch(4))


def test_two_epochs_at_once_do_not_disturb_each_other():
    loader = DataLoader(digits(), 16, shuffle=True, augment=ALL)
    expected = [list(loader.epoch(epoch)) for epoch in (0, 1)]
    interleaved = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    for epoch in (0, 1):
        assert same(expected[epoch], [pair[epoch] for pair in interleaved])


@pytest.mark.parametrize("shuffle", [False, True])
def test_going_on_in_the_middle_of_an_epoch(shuffle):
    whole = list(DataLoader(digits(), 16, shuffle=shuffle, augment=ALL, seed=9).epoch(2))
    assert len(whole) == 7
    for start in range(8):
        rest = DataLoader(digits(), 16, shuffle=shuffle, augment=ALL, seed=9).epoch(2, start)
        assert same(whole[start:], rest)


def test_the_batches_of_an_epoch_are_augmented_differently():
    dataset = ImageDataset(np.tile(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), (40, 1, 1, 1)), np.zeros(40, int))
    batches = [inputs for inputs, _ in DataLoader(dataset, 10, augment=ALL).epoch(0)]
    assert differ([(batch,) for batch in batches[:2]], [(batch,) for batch in batches[2:]])


def test_augmented_batch_is_what_numpy_makes_of_the_draw():
    dataset, seed, epoch, batch = digits(), 3, 2, 4
    loader = DataLoader(dataset, 16, shuffle=True, augment=ALL, seed=seed)
    inputs, targets = next(loader.epoch(epoch, batch))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, batch))))
    changes = ALL.draw(rng, 16, 8, 8)
    indices = loader.order(epoch)[16 * batch : 16 * (batch + 1)]
    pixels = dataset.images.transpose(0, 3, 1, 2)
    expected = numpy_batch(pixels, indices, scale=1 / 16, mean=dataset.mean, std=dataset.std, **changes)
    np.testing.assert_allclose(inputs, expected, atol=1e-6)
    assert np.array_equal(targets, dataset.labels[indices])


def test_mean_and_std_of_the_caller():
    dataset = digits(10)
    ((inputs, _),) = DataLoader(dataset, 10, mean=0.25, std=[2.0]).epoch(0)
    np.testing.assert_allclose(inputs[:, 0], (dataset.images[..., 0] / 16 - 0.25) / 2, atol=1e-6)
    loader = DataLoader(dataset, 10, mean=0.25)
    assert (loader.mean, loader.std, loader.scale) == ((0.25,), dataset.std, 1 / 16)


def test_empty_data_set():
    empty = ImageDataset(np.zeros((0, 8, 8, 1), np.uint8), [])
    loader = DataLoader(empty, 4, shuffle=True, augment=ALL)
    assert len(loader) == 0
    assert list(loader.epoch(0)) == []


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(10, 3, 5, 4), (10, 3, 5), (10, 3)])
def test_arrays_of_floats_are_taken_as_they_are(shape, dtype):
    inputs = np.random.default_rng(0).normal(size=shape).astype(dtype)
    batches = list(DataLoader((inputs, np.arange(10)), 4, dtype=dtype).epoch(0))
    assert np.array_equal(np.concatenate([batch for batch, _ in batches]), inputs)
    assert all(batch.dtype == dtype for batch, _ in batches)
    assert np.array_equal(np.concatenate([targets for _, targets in batches]), np.arange(10))


def test_arrays_in_any_memory_order():
    inputs = np.random.default_rng(0).normal(size=(10, 6, 5, 3)).astype(np.float32)
    expected = DataLoader((np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)), np.zeros(10, int)), 4, True, ALL)
    assert same(expected.epoch(0), DataLoader((inputs.transpose(0, 3, 1, 2), np.zeros(10, int)), 4, True, ALL).epoch(0))


def test_arrays_of_bytes_are_scaled():
    inputs = np.arange(0, 240, dtype=np.uint8).reshape(10, 2, 3, 4)
    ((batch, _),) = DataLoader((inputs, [0] * 10), 10, mean=(0.1, 0.2), std=(0.5, 0.6)).epoch(0)
    expected = (inputs / 255 - np.reshape((0.1, 0.2), (2, 1, 1))) / np.reshape((0.5, 0.6), (2, 1, 1))
    np.testing.assert_allclose(batch, expected, atol=1e-6)


def test_targets_of_floats_keep_their_shape():
    targets = np.random.default_rng(0).normal(size=(10, 2))
    batches = list(DataLoader((np.zeros((10, 3), np.float32), targets), 4).epoch(0))
    assert batches[0][1].dtype == np.float32
    assert np.array_equal(np.concatenate([part for _, part in batches]), targets.astype(np.float32))


def test_float64_from_bytes():
    inputs, _ = next(DataLoader(digits(4), 4, dtype=np.float64).epoch(0))
    assert inputs.dtype == np.float64


def test_loader_in_several_python_threads():
    loader = DataLoader(digits(), 16, shuffle=True, augment=ALL)
    expected = list(loader.epoch(1))
    found = [None] * 4

    def read(number):
        found[number] = [list(loader.epoch(1)) for _ in range(5)]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for epochs in found:
        assert all(same(expected, batches) for batches in epochs)


IMAGES = np.zeros((4, 2, 6, 5), np.float32)
LABELS = np.zeros(4, int)
LOADER_ERRORS = [
    ({"dataset": IMAGES}, TypeError, "dataset: expected an ImageDataset or a tuple (inputs, targets), got ndarray"),
    ({"dataset": (IMAGES,)}, TypeError, "dataset: expected an ImageDataset or a tuple (inputs, targets), got tuple"),
    ({"dataset": ([1], LABELS)}, TypeError, "dataset: expected inputs in an array of uint8, float32 or float64, got "
     "list"),
    ({"dataset": (IMAGES.astype(int), LABELS)}, TypeError, "dataset: expected inputs in an array of uint8, float32 or "
     "float64, got int64"),
    ({"dataset": (IMAGES[:, 0, 0, 0], LABELS)}, ValueError, "dataset: expected inputs of shape (N, C, H, W), (N, C, L) "
     "or (N, F), got (4,)"),
    ({"dataset": (IMAGES, LABELS[:3])}, ValueError, "dataset: expected targets for 4 inputs, got shape (3,)"),
    ({"dataset": (IMAGES, 1)}, ValueError, "dataset: expected targets for 4 inputs, got shape ()"),
    ({"dataset": (IMAGES, ["a"] * 4)}, TypeError, "dataset: expected targets of integers or floats, got <U1"),
    ({"batch_size": 0}, ValueError, "batch_size: expected a positive int, got 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size: expected a positive int, got 2.0"),
    ({"shuffle": 1}, TypeError, "shuffle: expected a bool, got 1"),
    ({"drop_last": None}, TypeError, "drop_last: expected a bool, got None"),
    ({"seed": -1}, ValueError, "seed: expected a non-negative int, got -1"),
    ({"seed": None}, TypeError, "seed: expected a non-negative int, got None"),
    ({"augment": "flip"}, TypeError, "augment: expected an Augment or None, got 'flip'"),
    ({"augment": Augment(crop_padding=5)}, ValueError, "augment: expected crop_padding less than the images' side 5, "
     "got 5"),
    ({"augment": Augment(cutout=7)}, ValueError, "augment: expected cutout less than the images' side 5, got 7"),
    ({"dataset": (IMAGES[:, :, 0], LABELS), "augment": Augment()}, ValueError, "augment: expected None for inputs "
     "other than images (N, C, H, W), got inputs (4, 2, 5)"),
    ({"mean": (0.1, 0.2, 0.3)}, ValueError, "mean: expected a finite number, or 2 of them, one a channel, got "
     "(0.1, 0.2, 0.3)"),
    ({"std": (1, 0)}, ValueError, "std: expected a positive number, or 2 of them, one a channel, got (1, 0)"),
    ({"dtype": np.int64}, TypeError, "dtype: expected float32 or float64, got int64"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "message"), LOADER_ERRORS)
def test_loader_errors(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        DataLoader(**({"dataset": (IMAGES, LABELS), "batch_size": 2} | changes))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1,), ValueError, "epoch: expected a non-negative int, got -1"),
        ((0.5,), TypeError, "epoch: expected a non-negative int, got 0.5"),
        ((0, -1), ValueError, "start_batch: expected a non-negative int, got -1"),
        ((0, 3), ValueError, "start_batch: expected at most 2, the batches of an epoch, got 3"),
    ],
)
def test_epoch_errors_come_at_once(arguments, error, message):
    loader = DataLoader((IMAGES, LABELS), 2)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        loader.epoch(*arguments)
    with pytest.raises(ValueError, match=r"^epoch: expected a non-negative int, got -1$"):
        loader.order(-1)

"""A model carries what was done to its inputs: arrays, data sets and loaders give predictions of what training saw."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest

import fastcnn
from fastcnn import cli, models, nn, optim
from fastcnn.training import (
    Augment,
    Checkpoint,
    CheckpointError,
    DataLoader,
    ImageDataset,
    Trainer,
    load_dataset,
    load_weights,
    read_checkpoint,
    save_weights,
)

safetensors = pytest.importorskip("safetensors.numpy")


def nchw(dataset):
    return dataset.images.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def trained():
    """A network trained on the digits as bytes, and both data sets."""
    fastcnn.manual_seed(0)
    train, test = load_dataset("digits"), load_dataset("digits", "test")
    model = models.digits_cnn()
    trainer = Trainer(model, optim.Adam(model.parameters(), 0.01))
    trainer.fit(DataLoader(train, 64, shuffle=True, augment=Augment(crop_padding=1)), 3, progress=False)
    return trainer, train, test


def accuracy(outputs, labels):
    return (outputs.argmax(1) == labels).mean()


def test_fit_records_what_the_loader_does(trained):
    trainer, train, _ = trained
    known = trainer.model.preprocessing
    assert (
        known
        == train.preprocessing
        == nn.Preprocessing((1, 8, 8), "uint8", 1 / 16, train.mean, train.std, train.classes, "float32")
    )
    assert copy.deepcopy(trainer.model).preprocessing == known == pickle.loads(pickle.dumps(known))


def test_all_kinds_of_data_give_the_same(trained):
    trainer, _, test = trained
    expected = trainer.predict(DataLoader(test, 50))
    assert accuracy(expected, test.labels) > 0.9
    images = nchw(test)
    for inputs in (
        test,
        images,
        np.ascontiguousarray(images),
        images.astype(np.int64),
        images.tolist(),
        DataLoader(test, 30, shuffle=True, augment=Augment(crop_padding=1), drop_last=True),
    ):
        np.testing.assert_array_equal(trainer.predict(inputs), expected)
    np.testing.assert_allclose(trainer.predict(images, batch_size=7), expected, rtol=1e-4, atol=1e-4)
    scores = trainer.evaluate(DataLoader(test, 256))
    assert scores["accuracy"] == accuracy(expected, test.labels)
    assert trainer.evaluate(test) == trainer.evaluate((images, test.labels)) == scores
    assert trainer.evaluate([images, test.labels]) == scores


def test_the_constants_of_training_count(trained):
    """Not those of the data set that is predicted, which may know none."""
    trainer, _, test = trained
    bare = ImageDataset(test.images, test.labels, scale=1 / 16)
    np.testing.assert_array_equal(trainer.predict(bare), trainer.predict(test))
    assert trainer.evaluate(bare) == trainer.evaluate(test)
    with pytest.raises(ValueError, match=r"scale: expected a data set of scale 0.0625, as in training, got 0.00392"):
        trainer.predict(ImageDataset(test.images, test.labels))
    other = DataLoader((nchw(test), test.labels), 64)
    with pytest.warns(UserWarning, match=r"a loader normalises by scale 0.00392157, mean \(0.0,\)") as told:
        trainer.evaluate(other)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="a loader normalises by") as told:
        trainer.predict(other)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.evaluate(DataLoader(test, 64))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            np.zeros((2, 1, 8, 8), np.float32),
            TypeError,
            r"inputs: expected bytes \(uint8\), as in training, got float32",
        ),
        (np.zeros((2, 1, 8, 8), bool), TypeError, r"inputs: expected bytes \(uint8\), as in training, got bool"),
        (np.full((2, 1, 8, 8), 256), ValueError, "inputs: expected values from 0 to 255, got 256 to 256"),
        (np.full((2, 1, 8, 8), -1), ValueError, "inputs: expected values from 0 to 255, got -1 to -1"),
        (np.zeros((2, 3, 8, 8), np.uint8), ValueError, r"expected shape \(N, 1, 8, 8\), as in training, got \(2, 3, 8"),
        (np.zeros((1, 8, 8), np.uint8), ValueError, r"inputs: expected shape \(N, 1, 8, 8\), as in training, got \(1,"),
        (np.zeros((2, 8, 8, 1), np.uint8), ValueError, r"if channels come last, pass inputs.transpose\(0, 3, 1, 2\)"),
        (
            np.zeros((2, 1, 16, 8), np.uint8),
            ValueError,
            r"expected shape \(N, 1, 8, 8\), as in training, got \(2, 1, 16",
        ),
        (("a", "b"), TypeError, "inputs: expected an array, an ImageDataset or a DataLoader, got tuple"),
        (None, TypeError, "inputs: expected an array, an ImageDataset or a DataLoader, got NoneType"),
    ],
)
def test_what_cannot_be_right(trained, inputs, error, message):
    trainer = trained[0]
    with pytest.raises(error, match=message):
        trainer.predict(inputs)
    with pytest.raises(error, match=message):
        trainer.evaluate((inputs, np.zeros(2, int)))


def test_no_inputs(trained):
    trainer, _, test = trained
    assert trainer.predict(nchw(test)[:0]).shape == (0, 10) == trainer.predict(test.subset(slice(0))).shape


def test_a_validation_pair_beside_a_loader_that_normalises():
    fastcnn.manual_seed(0)
    train, test = load_dataset("digits"), load_dataset("digits", "test")
    scores = []
    for validation in (DataLoader(test, 256), test, (nchw(test), test.labels)):
        fastcnn.manual_seed(0)
        model = models.digits_cnn()
        trainer = Trainer(model, optim.Adam(model.parameters(), 0.01))
        history = trainer.fit(DataLoader(train, 64), 2, validation=validation, progress=False)
        scores.append((history["val_accuracy"], history["val_loss"]))
    assert scores[0][0][-1] > 0.9
    assert scores[0] == scores[1] == scores[2]


def test_a_validation_pair_that_cannot_be_right_is_refused_before_training():
    train, model = load_dataset("digits"), models.digits_cnn()
    before = model.state_dict()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    with pytest.raises(TypeError, match=r"inputs: expected bytes \(uint8\), as in training, got float64"):
        trainer.fit(DataLoader(train, 64), 1, validation=(nchw(train) / 16, train.labels), progress=False)
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.preprocessing is None


@pytest.mark.parametrize("data", [None, np.zeros((2, 1, 8, 8), np.uint8), (1, 2, 3), "digits"])
def test_what_evaluate_takes(trained, data):
    with pytest.raises(TypeError, match=r"data: expected a DataLoader, an ImageDataset or a pair \(inputs, targets\)"):
        trained[0].evaluate(data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_that_the_loader_normalises(dtype):
    """Vectors, signals and images; raw floats are predicted as the loader made them."""
    rng = np.random.default_rng(0)
    for shape in ((40, 3), (40, 3, 5), (40, 3, 5, 4)):
        x, y = rng.normal(5, 3, shape).astype(np.float32), rng.integers(0, 2, 40)
        model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 2, dtype=dtype))
        trainer = Trainer(model, optim.SGD(model.parameters(), 0.01))
        loader = DataLoader((x, y), 40, mean=(5, 4, 6), std=(3, 2, 1), dtype=dtype)
        trainer.fit(loader, 1, progress=False)
        assert model.preprocessing.input_type == "float"
        assert model.preprocessing.class_names is None
        expected = model(next(loader.epoch(0))[0])
        np.testing.assert_array_equal(trainer.predict(x), expected)
        np.testing.assert_array_equal(trainer.predict(x.astype(np.float64)), expected)
        np.testing.assert_array_equal(trainer.predict(loader), expected)
        assert trainer.evaluate((x, y)) == trainer.evaluate(loader)
        with pytest.raises(TypeError, match="inputs: expected floats, as in training, got uint8"):
            trainer.predict(x.astype(np.uint8))


def test_arrays_normalised_by_hand_pass_unchanged():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    model = nn.Sequential(nn.Linear(3, 2))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    trainer.fit(DataLoader((x, y), 8), 1, progress=False)
    assert model.preprocessing.is_identity
    assert model.preprocessing(x) is x
    np.testing.assert_array_equal(trainer.predict(x), model(x))
    np.testing.assert_array_equal(trainer.predict(np.array([[1, 0, 2]])), model(np.array([[1, 0, 2]], np.float32)))


def test_other_sizes_that_a_network_takes():
    model = models.resnet20()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    trainer.fit(DataLoader(ImageDataset(pixels, np.arange(8)), 8), 1, progress=False)
    assert trainer.predict(np.zeros((2, 3, 12, 16), np.uint8)).shape == (2, 10)


def test_without_fit_arrays_are_taken_as_they_are():
    model = models.digits_cnn()
    trainer, test = Trainer(model, optim.SGD(model.parameters(), 0.1)), load_dataset("digits", "test")
    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(trainer.predict(x), model.eval()(x))
    trainer.step(x, np.arange(3))
    assert model.preprocessing is None
    batch = next(DataLoader(test, 355).epoch(0))[0]
    np.testing.assert_allclose(trainer.predict(test, batch_size=355), model.eval()(batch))
    model.preprocessing = test.preprocessing  # by hand
    np.testing.assert_allclose(trainer.predict(nchw(test), batch_size=355), model(batch))


def test_a_fit_that_learnt_nothing_records_nothing():
    model = models.lenet5()
    trainer, old = Trainer(model, optim.SGD(model.parameters(), 0.1)), nn.Preprocessing((1, 28, 28))
    model.preprocessing = old
    with pytest.raises(ValueError):
        trainer.fit(DataLoader(load_dataset("digits"), 32), 1, progress=False)
    assert model.preprocessing is old


class Wrapped:
    """A source of batches of one's own, with and without a preprocessing."""

    def __init__(self, loader, **known):
        self.loader = loader
        vars(self).update(known)

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start_batch=0):
        return self.loader.epoch(epoch, start_batch)


def test_a_source_of_ones_own(trained):
    _, train, test = trained
    loader = DataLoader(train.subset(slice(64)), 32)
    for known in ({}, {"preprocessing": loader.preprocessing}):
        model = models.digits_cnn()
        trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
        trainer.fit(Wrapped(loader, **known), 1, progress=False)
        assert model.preprocessing == known.get("preprocessing")
        source = Wrapped(DataLoader(test, 50))
        outputs = trainer.predict(source)
        np.testing.assert_array_equal(outputs[:50], trainer.predict(DataLoader(test, 50), batch_size=50)[:50])
        assert len(outputs) == len(test)


class Named(nn.Sequential):
    """A network whose own `preprocessing` is something else."""

    preprocessing = "mine"


def test_an_attribute_of_the_users_own_is_left_alone(tmp_path):
    model = Named(nn.Flatten(), nn.Linear(64, 10))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    trainer.fit(DataLoader(load_dataset("digits"), 721), 1, progress=False, checkpoint=tmp_path / "run.safetensors")
    assert model.preprocessing == "mine"
    assert "preprocessing" not in read_checkpoint(tmp_path / "run.safetensors")
    assert trainer.predict(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 10)


# --- files ------------------------------------------------------------------------------------------------------------


def test_weights_carry_it(trained, tmp_path):
    trainer, _, test = trained
    path = tmp_path / "weights.safetensors"
    save_weights(trainer.model, path)
    assert safetensors.load_file(path).keys() == trainer.model.state_dict().keys()
    model = models.digits_cnn()
    load_weights(model, path)
    assert model.preprocessing == trainer.model.preprocessing
    again = Trainer(model, optim.SGD(model.parameters(), 0.1))
    np.testing.assert_array_equal(again.predict(nchw(test)), trainer.predict(nchw(test)))
    safetensors.save_file(trainer.model.state_dict(), path)  # as other programs write it
    load_weights(model, path)
    assert model.preprocessing == trainer.model.preprocessing
    bare = models.digits_cnn()
    load_weights(bare, path)
    assert bare.preprocessing is None


def test_checkpoints_carry_it(trained, tmp_path):
    _, train, test = trained
    path = tmp_path / "run.safetensors"

    def build():
        fastcnn.manual_seed(0)
        model = models.digits_cnn()
        return Trainer(model, optim.SGD(model.parameters(), 0.1))

    first, loader = build(), DataLoader(train, 721)
    first.fit(loader, 1, progress=False, callbacks=[Checkpoint(path)])
    assert nn.Preprocessing(**read_checkpoint(path)["preprocessing"]) == loader.preprocessing
    model = models.digits_cnn()
    load_weights(model, path)
    again = Trainer(model, optim.SGD(model.parameters(), 0.1))
    assert model.preprocessing.class_names == train.classes
    np.testing.assert_array_equal(again.predict(test), first.predict(test))
    second = build()
    fastcnn.training.load_checkpoint(path, second, fastcnn.training.TrainingState(settings=second._settings(loader)))
    assert second.model.preprocessing == loader.preprocessing


def edited(path, target, change):
    """Write a checkpoint again with other metadata."""
    tensors = safetensors.load_file(path)
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header["__metadata__"]
    tree = json.loads(metadata["fastcnn.checkpoint"])
    change(tree)
    safetensors.save_file(tensors, target, {"fastcnn.checkpoint": json.dumps(tree)})


def test_old_and_damaged_checkpoints(trained, tmp_path):
    _, train, _ = trained
    path, other = tmp_path / "run.safetensors", tmp_path / "other.safetensors"
    model = models.digits_cnn()
    trainer, loader = Trainer(model, optim.SGD(model.parameters(), 0.1)), DataLoader(train, 721)
    trainer.fit(loader, 1, progress=False, checkpoint=path)
    edited(path, other, lambda tree: tree.pop("preprocessing"))
    model = models.digits_cnn()
    load_weights(model, other)
    assert model.preprocessing is None
    trainer.fit(loader, 2, progress=False, resume=other)
    for change in (
        lambda tree: tree.update(preprocessing=5),
        lambda tree: tree["preprocessing"].pop("mean"),
        lambda tree: tree["preprocessing"].update(std=[0.0]),
        lambda tree: tree["preprocessing"].update(extra=1),
        lambda tree: tree["preprocessing"].update(input_shape="abc"),
    ):
        edited(path, other, change)
        before = model.state_dict()
        with pytest.raises(CheckpointError, match=r"other\.safetensors: "):
            load_weights(model, other)
        assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    safetensors.save_file(model.state_dict(), other, {"fastcnn.preprocessing": "{"})
    with pytest.raises(CheckpointError, match=r"other\.safetensors: "):
        load_weights(model, other)


def test_the_command_saves_it(tmp_path, capsys):
    arguments = ["train", "--epochs", "1", "--no-progress", "--output", str(tmp_path)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    test, model = load_dataset("digits", "test"), models.digits_cnn()
    load_weights(model, tmp_path / "fastcnn-digits.safetensors")
    assert model.preprocessing == load_dataset("digits").preprocessing
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    assert f"test accuracy: {trainer.evaluate((nchw(test), test.labels))['accuracy']:.2%}" in printed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_shape": 3}, TypeError, "input_shape: expected a tuple of one to three ints, got 3"),
        ({"input_shape": (1, 2, 3, 4)}, TypeError, "input_shape: expected a tuple of one to three ints"),
        ({"input_type": "int8"}, ValueError, "input_type: expected 'uint8' or 'float', got 'int8'"),
        ({"scale": 0}, ValueError, "scale: expected a positive number, got 0"),
        ({"mean": (1, 2)}, ValueError, "mean: expected a finite number, or 3 of them"),
        ({"std": 0}, ValueError, "std: expected a positive number"),
        ({"class_names": "abc"}, TypeError, "class_names: expected a sequence of strings or None, got 'abc'"),
        ({"dtype": "float16"}, ValueError, "dtype: expected 'float32' or 'float64', got 'float16'"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.Preprocessing(**{"input_shape": (3, 2, 2), **arguments})

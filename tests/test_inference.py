"""Inference writes nothing shared: many threads predict at once, beside training too; nothing of a model changes."""

import sys
import threading

import numpy as np
import pytest

import fastcnn
from fastcnn import models, nn, optim
from fastcnn.nn.module import inference
from fastcnn.training import DataLoader, ImageDataset, Trainer, load_dataset

THREADS = 8


@pytest.fixture(autouse=True)
def busy_switching():
    """Seeded, and with threads that take turns as often as they can."""
    fastcnn.manual_seed(0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def together(work, threads=THREADS):
    """Run work(number) in threads that start at the same time; raise what any raised."""
    errors, barrier = [], threading.Barrier(threads)

    def run(number):
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def everything(model):
    """All that a model holds but parameters' values: modes, buffers, what is saved for backward."""
    held = []
    for module in model.modules():
        saved = module.__dict__["_saved"]
        held.append((module.__dict__["training"], module.needs_input_grad, id(saved)))
    return held, {name: array.copy() for name, array in model.state_dict().items()}


def assert_unchanged(model, before):
    held, state = everything(model)
    assert held == before[0]
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[1][name], err_msg=name)


class Own(nn.Module):
    """A user's layer that reads its mode."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, input):
        self.seen.add(self.training)
        self.save(input)
        return input + 1 if self.training else input

    def backward(self, grad_output):
        self.saved()
        return grad_output


def digits_network():
    """A bit of everything that has a mode or hands something on."""
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        norm,
        nn.ReLU(),
        models.BasicBlock(8, 8),
        nn.MaxPool2d(2),
        Own(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def small_digits(count=320):
    return load_dataset("digits").subset(slice(count))


@pytest.mark.parametrize("build", [models.digits_cnn, digits_network])
def test_predictions_from_threads_right_after_fit(build):
    model = build()
    trainer = Trainer(model, optim.Adam(model.parameters(), 0.01))
    train = DataLoader(small_digits(), 32)
    trainer.fit(train, 2, progress=False)
    assert model.training
    images = small_digits().images.transpose(0, 3, 1, 2)
    inputs = [images[4 * i : 4 * i + 4] for i in range(THREADS)]
    model.eval()
    with nn.no_grad():
        expected = [model(model.preprocessing(x)) for x in inputs]
    model.train()
    before, state = everything(model), fastcnn.random.get_state()

    def work(number):
        for _ in range(1000):
            np.testing.assert_array_equal(trainer.predict(inputs[number]), expected[number])

    together(work)
    assert_unchanged(model, before)
    assert fastcnn.random.get_state() == state
    if build is digits_network:
        model[8].seen.clear()
        trainer.predict(inputs[0])
        assert model[8].seen == {False}


def test_evaluations_from_threads():
    model = models.digits_cnn()
    trainer = Trainer(model, optim.Adam(model.parameters(), 0.01))
    trainer.fit(DataLoader(small_digits(), 32), 2, progress=False)
    data = [small_digits().subset(slice(40 * i, 40 * i + 40)) for i in range(THREADS)]
    expected, before = [trainer.evaluate(part) for part in data], everything(model)

    def work(number):
        for _ in range(50):
            assert trainer.evaluate(data[number]) == expected[number]

    together(work)
    assert_unchanged(model, before)


@pytest.mark.parametrize("build", [models.digits_cnn, models.lenet5, digits_network, models.resnet20])
@pytest.mark.parametrize("grads", [True, False])
def test_a_model_in_evaluation_mode_called_from_threads(build, grads):
    model = build().eval()
    shape = {models.lenet5: (2, 1, 28, 28), models.resnet20: (2, 3, 8, 8)}.get(build, (2, 1, 8, 8))
    inputs = [normal(shape, i) for i in range(THREADS)]
    with nn.no_grad():
        expected = [model(x) for x in inputs]

    def work(number):
        for _ in range(100):
            if grads:
                np.testing.assert_array_equal(model(inputs[number]), expected[number])
            else:
                with nn.no_grad():
                    np.testing.assert_array_equal(model(inputs[number]), expected[number])

    together(work)


def test_training_beside_predictions_has_the_same_bits():
    """Predictions of weights that move are of no use, but they disturb nothing, and each is whole."""

    def train(beside):
        fastcnn.manual_seed(0)
        model = digits_network()
        trainer = Trainer(model, optim.SGD(model.parameters(), 0.05, momentum=0.9))
        loader, images = DataLoader(small_digits(), 32, shuffle=True), small_digits(8).images.transpose(0, 3, 1, 2)
        model.preprocessing = loader.preprocessing
        done, made = threading.Event(), []

        def work(number):
            if number == 0:
                trainer.fit(loader, 4, progress=False)
                done.set()
            while not done.is_set():
                made.append(np.isfinite(trainer.predict(images)).all())

        together(work, 3 if beside else 1)
        assert all(made)
        assert (len(made) > 10) is beside
        return model.state_dict(), fastcnn.random.get_state()

    alone, beside = train(False), train(True)
    assert alone[1] == beside[1]
    for name in alone[0]:
        np.testing.assert_array_equal(alone[0][name], beside[0][name], err_msg=name)


def test_training_one_model_beside_predictions_of_another():
    served = models.digits_cnn()
    server = Trainer(served, optim.SGD(served.parameters(), 0.1))
    x = normal((4, 1, 8, 8))
    expected = server.predict(x)

    def work(number):
        if number == 0:
            model = models.digits_cnn()
            Trainer(model, optim.SGD(model.parameters(), 0.1)).fit(DataLoader(small_digits(), 32), 3, progress=False)
        for _ in range(200):
            np.testing.assert_array_equal(server.predict(x), expected)

    together(work, 4)


def test_the_mode_within_inference():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    with inference():
        assert not model.training
        assert not model[0].training
        assert not nn.is_grad_enabled()
        with nn.no_grad():  # which a user's forward may enter
            assert not model.training
        assert not model.training
        model.train(False)
        model.train()
        assert not model.training
        seen = []
        worker = threading.Thread(target=lambda: seen.append(model.training))
        worker.start()
        worker.join()
        assert seen == [True]  # another thread is not in it
    assert model.training
    assert nn.is_grad_enabled()
    model.training = False
    assert not model.training
    assert vars(model)["training"] is False


def test_a_layer_in_evaluation_mode_stays_so_in_training():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].eval()
    trainer, before = Trainer(model, optim.SGD(model.parameters(), 0.1)), model[1].running_mean.copy()
    trainer.step(normal((8, 3)), np.zeros(8, int))
    trainer.predict(normal((8, 3)))
    trainer.step(normal((8, 3)), np.zeros(8, int))
    np.testing.assert_array_equal(model[1].running_mean, before)
    assert model.training
    assert not model[1].training


def test_predict_keeps_what_is_saved_for_backward():
    model = digits_network()
    trainer, x = Trainer(model, optim.SGD(model.parameters(), 0.1)), normal((4, 1, 8, 8))
    fastcnn.manual_seed(1)
    expected = model.backward(np.ones_like(model(x))).copy()
    fastcnn.manual_seed(1)
    output = model(x)
    trainer.predict(normal((6, 1, 8, 8), 1))
    trainer.evaluate((normal((6, 1, 8, 8), 2), np.zeros(6, int)))
    np.testing.assert_array_equal(model.backward(np.ones_like(output)), expected)


def test_a_data_set_from_threads():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    data = ImageDataset(pixels, np.zeros(64, int), ("a",) * 10, mean=0.5, std=0.25)
    model = models.digits_cnn()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1))
    expected = trainer.predict(data)
    np.testing.assert_array_equal(expected, trainer.predict(DataLoader(data, 7)))
    together(lambda number: [np.testing.assert_array_equal(trainer.predict(data), expected) for _ in range(50)])

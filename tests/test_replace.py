"""Layers, parameters and methods that are replaced: what runs is what is there now, whatever ran before."""

import copy

import numpy as np
import pytest

import fastcnn
from fastcnn import models, nn, optim
from fastcnn.training import DataLoader, Trainer, load_checkpoint, load_dataset, save_checkpoint
from fastcnn.training.history import TrainingState

BUILDERS = {
    "lenet5": (models.lenet5, (2, 1, 28, 28), "fc3", 84),
    "digits_cnn": (models.digits_cnn, (2, 1, 8, 8), "fc", 256),
    "resnet20": (models.resnet20, (2, 3, 16, 16), "fc", 64),
    "vgg_small": (models.vgg_small, (2, 3, 16, 16), "classifier", 256),
}


@pytest.fixture(autouse=True)
def seed():
    fastcnn.manual_seed(0)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run_before(model, x):
    """Everything that a model may remember of itself: passes with and without gradients, in both modes."""
    for mode in (True, False):
        model.train(mode)
        model.backward(np.ones_like(model(x)))
        with nn.no_grad():
            model(x)
    model.zero_grad()
    return model.train()


def results(model, x, grads=True):
    """Output, gradients and buffers of one pass, all copied; dropout off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    if not grads:
        with nn.no_grad():
            return [model(x)]
    model.zero_grad()
    output = model(x)
    grad = model.backward(normal(output.shape, 9))
    found = [output, grad, *(p.grad for p in model.parameters()), *model.buffers()]
    return [array.copy() for array in found if array is not None]


def fresh(model):
    """A network of the same layers that has never run."""
    if isinstance(model, nn.Sequential):
        return nn.Sequential({name: fresh(layer) for name, layer in model.named_children()})
    if isinstance(model, nn.Residual):
        return nn.Residual(fresh(model.body), None if model.shortcut is None else fresh(model.shortcut))
    return copy.deepcopy(model)


def assert_runs_as_built(model, x):
    for mode in (True, False):
        for grads in (True, False):
            expected = results(fresh(model).train(mode), x, grads)
            got = results(model.train(mode), x, grads)
            assert len(got) == len(expected)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_last_layer_of_a_network(name):
    build, shape, layer, features = BUILDERS[name]
    model, x = build(), normal(shape)
    run_before(model, x)
    setattr(model, layer, nn.Linear(features, 3))
    assert model(x).shape == (2, 3)
    assert getattr(model, layer) is model[layer] is dict(model.named_children())[layer]
    assert model.state_dict()[f"{layer}.weight"].shape == (3, features)
    assert nn.summary(model, shape[1:]).rows[-1].output_shape == (3,)
    assert_runs_as_built(model, x)


# Each changes a layer that runs together with its neighbours, in some pass.
CHANGES = {
    "conv": lambda m: setattr(m, "0", nn.Conv2d(3, 4, 5, padding=2)),
    "norm": lambda m: setattr(m, "1", nn.BatchNorm2d(4, eps=0.5)),
    "relu": lambda m: setattr(m, "2", nn.Tanh()),
    "second conv by position": lambda m: m.__setitem__(3, nn.Conv2d(4, 4, 1)),
    "second conv by name": lambda m: m.__setitem__("3", nn.Conv2d(4, 4, 1)),
    "from the end": lambda m: m.__setitem__(-1, nn.AvgPool2d(2)),
    "a norm is left out": lambda m: m.__delitem__(4),
    "a norm is deleted as an attribute": lambda m: delattr(m, "4"),
    "the last is popped": lambda m: m.pop(),
    "a slice": lambda m: m.__delitem__(slice(4, None)),
    "append": lambda m: m.append(nn.Conv2d(4, 2, 1)),
    "extend": lambda m: m.extend([nn.Conv2d(4, 4, 1), nn.ReLU(), nn.MaxPool2d(2)]),
    "insert in front": lambda m: m.insert(0, nn.Conv2d(3, 3, 1)),
    "insert between": lambda m: m.insert(2, nn.LeakyReLU()),
    "insert before the last": lambda m: m.insert(-1, nn.Sigmoid()),
    "a new name": lambda m: setattr(m, "extra", nn.Flatten()),
    "an identity": lambda m: setattr(m, "5", nn.Identity()),
    "a parameter": lambda m: setattr(m[0], "weight", nn.Parameter(normal((4, 3, 3, 3), 5))),
    "no bias": lambda m: setattr(m[3], "bias", None),
    "a buffer": lambda m: setattr(m[1], "running_mean", np.ones(4, np.float32)),
}


def stack():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_of_a_sequential(change):
    model, x = stack(), normal((2, 3, 6, 6))
    run_before(model, x)
    CHANGES[change](model)
    assert_runs_as_built(model, x)


def test_names_after_a_change():
    model = stack()
    model.insert(1, nn.Identity())
    assert [name for name, _ in model.named_children()] == list("01234567")
    del model[0]
    assert [name for name, _ in model.named_children()] == list("0123456")
    assert isinstance(model.pop(0), nn.Identity)
    named = nn.Sequential({"a": nn.ReLU(), "b": nn.Tanh()})
    named.a = nn.Sigmoid()
    assert [(name, type(layer)) for name, layer in named.named_children()] == [("a", nn.Sigmoid), ("b", nn.Tanh)]
    named.append(nn.ReLU()).insert(0, nn.SiLU())
    assert [name for name, _ in named.named_children()] == ["3", "a", "b", "2"]
    del named.a
    assert not hasattr(named, "a")
    assert "a" not in dict(named.named_children())
    part = stack()[1:3]
    assert isinstance(part, nn.Sequential)
    assert [name for name, _ in part.named_children()] == ["1", "2"]
    assert nn.Sequential({"a": nn.ReLU()}).__dict__.keys() == stack().__dict__.keys()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: setattr(m, "0", 3), TypeError, "layers: expected modules, got 3 as '0'"),
        (lambda m: setattr(m, "0", None), TypeError, "layers: expected modules, got None as '0'"),
        (lambda m: m.__setitem__(9, nn.ReLU()), IndexError, "index: expected one of 7 layers, got 9"),
        (lambda m: m.__setitem__(1.0, nn.ReLU()), TypeError, "index: expected an int or a name, got 1.0"),
        (lambda m: m.__delitem__("x"), KeyError, "key: expected one of '0', '1'"),
        (lambda m: m.insert(9, nn.ReLU()), IndexError, "index: expected an int from -7 to 7, got 9"),
        (lambda m: m.append(m[0]), ValueError, "got the same Conv2d as '0' and '7'"),
        (lambda m: setattr(m, "a.b", nn.ReLU()), ValueError, "names that are not empty and have no dot"),
        (lambda m: setattr(m[0], "weight", np.ones(3)), TypeError, "weight: expected an nn.Parameter or None"),
        (lambda m: m.nothing, AttributeError, "'Sequential' object has no attribute 'nothing'"),
    ],
)
def test_a_wrong_change_changes_nothing(change, error, message):
    model, x = stack().eval(), normal((2, 3, 6, 6))
    expected, names = model(x), [name for name, _ in model.named_modules()]
    with pytest.raises(error, match=message):
        change(model)
    assert [name for name, _ in model.named_modules()] == names
    np.testing.assert_array_equal(model(x), expected)


BLOCK_CHANGES = {
    "conv1": lambda: nn.Conv2d(4, 8, 5, 2, 2),
    "bn1": lambda: nn.BatchNorm2d(8, eps=0.5),
    "relu1": lambda: nn.Tanh(),
    "conv2": lambda: nn.Conv2d(8, 8, 1),
    "bn2": lambda: nn.Identity(),
    "downsample": lambda: nn.Conv2d(4, 8, 1, 2),
    "relu2": lambda: nn.LeakyReLU(),
}


@pytest.mark.parametrize("name", BLOCK_CHANGES)
def test_a_layer_of_a_block(name):
    """A block inside a network that has run, each of its layers."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), models.BasicBlock(4, 8, 2), nn.ReLU()), normal((2, 3, 6, 6))
    run_before(model, x)
    block = model[1]
    names = [child for child, _ in block.named_children()]
    setattr(block, name, BLOCK_CHANGES[name]())
    assert [child for child, _ in block.named_children()] == names
    for mode in (True, False):
        for grads in (True, False):
            again = copy.deepcopy(model)
            block = again[1]
            body = nn.Sequential(block.conv1, block.bn1, block.relu1, block.conv2, block.bn2)
            whole = nn.Sequential(again[0], nn.Residual(body, block.downsample), block.relu2, again[2])
            got, expected = results(model.train(mode), x, grads), results(whole.train(mode), x, grads)
            assert len(got) == len(expected)
            for a, b in zip(got[: 2 if grads else 1], expected, strict=False):
                np.testing.assert_array_equal(a, b)


def test_a_block_without_its_downsampling():
    block, x = models.BasicBlock(4, 4), normal((2, 4, 6, 6))
    run_before(block, x)
    block.downsample = nn.Conv2d(4, 4, 1)
    with_it = block(x)
    block.downsample = None
    assert not np.array_equal(block(x), with_it)
    assert "downsample" not in dict(block.named_children())


@pytest.mark.parametrize("part", ["body", "shortcut", "a layer of the body", "a layer deeper inside"])
def test_a_residual(part):
    inner = nn.Sequential(nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), nn.ReLU())
    body = nn.Sequential(inner, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    model, x = nn.Sequential(nn.Residual(body, nn.Conv2d(4, 4, 1)), nn.ReLU()), normal((2, 4, 6, 6))
    run_before(model, x)
    if part == "a layer of the body":
        body[1] = nn.Conv2d(4, 4, 1)
    elif part == "a layer deeper inside":
        inner[0].body[1] = nn.BatchNorm2d(4, eps=0.5)
    else:
        setattr(model[0], part, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    assert_runs_as_built(model, x)


class Two(nn.Module):
    """A user's network: children as attributes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.second = nn.Linear(4, 2)

    def forward(self, input):
        return self.second(self.first(input))

    def backward(self, grad_output):
        return self.first.backward(self.second.backward(grad_output))


def test_a_users_network():
    model, x = Two(), normal((5, 3))
    run_before(model, x)
    model.first = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    model.first[1] = nn.Sigmoid()
    assert [name for name, _ in model.named_children()] == ["first", "second"]  # each in its old place
    for a, b in zip(results(model, x), results(copy.deepcopy(model), x), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(model.first(x), 1 / (1 + np.exp(-model.first[0](x))), rtol=1e-6)
    with pytest.raises(TypeError, match=r"second: expected an nn.Module or None, to replace one, got 3"):
        model.second = 3


def test_a_method_is_called_and_given_back():
    model, x = stack(), normal((2, 3, 6, 6))
    model.eval()
    for grads in (True, False):
        with nn.no_grad() if not grads else np.errstate():
            expected = model(x)
            model[2].forward = lambda input: 0 * input
            assert not np.array_equal(model(x), expected)
            del model[2].forward
            np.testing.assert_array_equal(model(x), expected)


def test_between_forward_and_backward_the_old_layers_count():
    """As in torch, whose backward pass follows what the forward pass ran."""
    for model in (stack(), nn.Sequential(models.BasicBlock(3, 3), nn.ReLU())):
        x = normal((2, 3, 6, 6))
        twin = copy.deepcopy(model)
        dy = normal(model(x).shape, 1)
        twin(x)
        if isinstance(model[0], models.BasicBlock):
            model[0].conv1 = nn.Conv2d(3, 3, 1)
        else:
            model[3] = nn.Conv2d(4, 4, 1)
        np.testing.assert_array_equal(model.backward(dy), twin.backward(dy))


def test_tied_weights():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU()), normal((5, 3))
    run_before(model, x)
    apart = copy.deepcopy(model)
    apart[2].weight.data = apart[0].weight.data
    model[2].weight = model[0].weight
    assert len(list(model.parameters())) == 3
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    dy = normal((5, 3), 1)
    for network in (model, apart):
        network.backward(network(x) * 0 + dy)
    expected = apart[0].weight.grad + apart[2].weight.grad
    np.testing.assert_allclose(model[0].weight.grad, expected, rtol=1e-5, atol=1e-6)
    optimizer.zero_grad()
    model.backward(model(x) * 0 + dy)  # written in place, and then added to
    np.testing.assert_allclose(model[0].weight.grad, expected, rtol=1e-5, atol=1e-6)
    optimizer.step()
    np.testing.assert_array_equal(model[0].weight.data, model[2].weight.data)


def test_the_optimizer_trains_what_it_was_given():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), normal((5, 3))
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1))
    trainer.step(x, np.zeros(5, int))
    new, old = nn.Linear(4, 2), model[2].weight
    before, kept = new.weight.data.copy(), old.data.copy()
    model[2] = new
    trainer.step(x, np.zeros(5, int))
    np.testing.assert_array_equal(new.weight.data, before)
    np.testing.assert_array_equal(old.data, kept)
    assert new.weight.grad.any()


@pytest.mark.parametrize("whole", [True, False])
def test_the_input_gradient_flag_follows_the_first_layer(whole):
    """What was first returns its gradient again, and what is first now does not."""
    model, x = stack(), normal((2, 3, 6, 6))
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    target = normal((2, 4, 3, 3), 1)
    trainer.step(x, target)
    if whole:
        model.requires_input_grad(False)
    old = model[0]
    model.insert(0, nn.Conv2d(3, 3, 1))
    assert old.needs_input_grad
    assert model[0].needs_input_grad is not whole
    trainer.step(x, target)
    assert (model.backward(model(x)) is None) is whole
    block = models.BasicBlock(4, 4).requires_input_grad(False)
    block.conv1, block.conv2 = nn.Conv2d(4, 4, 3, padding=1), block.conv1
    y = block(normal((2, 4, 6, 6)))
    assert block.backward(y) is None
    assert block.conv1.weight.grad.any()


def test_a_trainer_sees_replaced_layers(tmp_path):
    """Running statistics and generators of layers that came after the trainer was built."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Identity(), nn.Linear(4, 2))
    trainer, x = Trainer(model, optim.SGD(model.parameters(), lr=0.1)), normal((8, 3))
    trainer.step(x, np.zeros(8, int))
    model[1] = nn.BatchNorm1d(4)
    model[2] = nn.Dropout(0.5, rng=np.random.default_rng(1))
    before, state = model.state_dict(), model[2].rng.bit_generator.state
    with pytest.raises(ValueError, match="class numbers"):
        trainer.step(x, np.full(8, 9))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert model[2].rng.bit_generator.state == state
    assert list(trainer.generators.state_dict()["layers"]) == ["2"]
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, trainer, TrainingState())
    model[2].rng.random()
    load_checkpoint(path, trainer, TrainingState())
    assert model[2].rng.bit_generator.state == state


def test_fine_tuning_learns():
    """The point of it all: another last layer on a trained network."""
    model = models.digits_cnn()
    train = DataLoader(load_dataset("digits"), 64, shuffle=True)
    Trainer(model, optim.Adam(model.parameters(), 0.01)).fit(train, 1, progress=False)
    model.fc = nn.Linear(256, 2)
    odd = load_dataset("digits")
    odd = DataLoader((odd.images.transpose(0, 3, 1, 2), odd.labels % 2), 64, shuffle=True)
    history = Trainer(model, optim.Adam(model.fc.parameters(), 0.01)).fit(odd, 2, progress=False)
    assert history["accuracy"][-1] > 0.85


def test_a_plan_counts_the_new_layers():
    model = stack()
    first = model.plan((4, 3, 8, 8))
    model[0], model[3] = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
    model[4] = nn.BatchNorm2d(8)
    second = model.plan((4, 3, 8, 8))
    assert second.parameters > first.parameters
    assert second.activations > first.activations
    assert second == stack_like(model).plan((4, 3, 8, 8))


def stack_like(model):
    return nn.Sequential(*copy.deepcopy(list(model.children())))

"""What a typed program does with fastcnn. `mypy --strict` and pyright check it; the tests run it as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fastcnn
from fastcnn import functional as F
from fastcnn import nn, optim
from fastcnn.kernels import table


def kernels(images: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Functions over arrays, each with what it returns."""
    output: np.ndarray = F.conv2d(images, weight, stride=2, padding=(1, 1))
    same: np.ndarray = F.conv2d(images, weight, padding="same")
    pooled: np.ndarray = F.max_pool2d(output, 2)
    pooled, indices = F.max_pool2d(output, (2, 2), return_indices=True)
    grad_output: np.ndarray = F.max_pool2d_backward(np.ones_like(pooled), indices, output.shape)
    grad_images, grad_weight, grad_bias = F.conv2d_backward(
        grad_output, images, weight, stride=2, padding=1, needs=(True, True, False)
    )
    assert grad_images is not None
    assert grad_weight is not None
    assert grad_bias is None
    columns: np.ndarray = F.im2col(images, 3, padding=1)
    mean: np.ndarray = F.avg_pool2d(same, 2, count_include_pad=False)
    whole: np.ndarray = F.adaptive_avg_pool2d(mean, (1, 1))
    statistics = np.zeros(8, np.float32), np.ones(8, np.float32)
    normal: np.ndarray = F.batch_norm(same, *statistics, training=True)
    normal, batch_mean, invstd = F.batch_norm(same, *statistics, training=True, return_saved=True)
    F.batch_norm_backward(normal, same, None, batch_mean, invstd)
    dropped: np.ndarray = F.dropout(F.relu(normal), 0.1, rng=np.random.default_rng(0))
    dropped, mask = F.dropout(dropped, return_mask=True)
    scores: np.ndarray = F.linear(whole.reshape(len(images), 8), np.ones((4, 8), np.float32))
    loss, grad_scores = F.cross_entropy(scores, np.zeros(len(images), np.int64))
    each, grad_scores = F.cross_entropy(scores, np.zeros(len(images), np.int64), reduction="none")
    shares: np.ndarray = F.softmax(scores, dim=1)
    total: float = loss + F.mse_loss(shares, scores)[0]
    assert np.isfinite(total + float(each.sum()) + float(columns.sum()) + float(dropped.sum()))
    assert mask is not None
    assert mask.dtype == np.uint8
    return np.asarray(grad_scores, np.float32)


class Net(nn.Module):
    """A module of the user's own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, (3, 3), padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(64, classes)

    def forward(self, input: np.ndarray) -> np.ndarray:
        features = self.features(input)
        return self.head(features.reshape(len(input), -1))


def train(folder: Path) -> fastcnn.History:
    """A training run as in the README."""
    fastcnn.manual_seed(0)
    data: fastcnn.ImageDataset = fastcnn.load_dataset("digits", "train")
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = optim.StepLR(optimizer, step_size=10)
    trainer = fastcnn.Trainer(model, optimizer, schedule=schedule)
    loader = fastcnn.DataLoader(data, batch_size=256, shuffle=True)
    history = trainer.fit(loader, epochs=1, progress=False)
    for inputs, targets in loader.epoch(1):
        loss: float = trainer.step(inputs, targets)
        assert loss > 0
        break
    accuracy: float = trainer.evaluate(loader)["accuracy"]
    assert 0 <= accuracy <= 1
    state: dict[str, np.ndarray] = model.state_dict()
    model.load_state_dict(state)
    for name, parameter in model.named_parameters():
        assert parameter.data.shape == state[name].shape
    fastcnn.save_weights(model, folder / "weights.safetensors")
    fastcnn.load_weights(model, folder / "weights.safetensors")
    return history


def settings() -> None:
    """What the package tells and takes."""
    before: int = fastcnn.get_num_threads()
    fastcnn.set_num_threads(1)
    fastcnn.set_num_threads(before)
    config: dict[str, str] = fastcnn.show_config(mode="dicts")
    include: str = fastcnn.get_include()
    address: int = table.functions()["conv_forward_f32"]
    print(config["openmp"], include, address, fastcnn.__version__)


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    kernels(rng.standard_normal((2, 8, 9, 9), np.float32), rng.standard_normal((8, 8, 3, 3), np.float32))
    settings()
    print(train(folder))

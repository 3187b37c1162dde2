"""Networks built from `fastcnn.nn`, each a function that returns a module.

Their parameters have the names that torch's usual versions have, so that weights trained there load by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastcnn import nn
from fastcnn.random import resolve

__all__ = ["BasicBlock", "digits_cnn", "lenet5", "resnet20", "vgg_small"]


def lenet5(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    rng: np.random.Generator | None = None,
    dtype: DTypeLike = np.float32,
) -> nn.Sequential:
    """LeNet-5 for 28x28 images, in its modern form: ReLU, max-pooling, full connections.

    The network of 1998 has tanh, pooling with learnt weights, partial connections between its first two convolutions
    and Gaussian outputs, for 32x32 images; here padding 2 in the first convolution makes up for 28x28.

    Parameters
    ----------
    num_classes : int, default 10
    in_channels : int, default 1
    rng : numpy.random.Generator, optional
        Source of the first weights; the default generator if not given.
    dtype : float32 or float64, default float32

    Returns
    -------
    Sequential
        Takes (N, in_channels, 28, 28), returns class scores (N, num_classes). Its parameters are ``conv1``, ``conv2``,
        ``fc1``, ``fc2``, ``fc3``, with torch's default initialisation.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings
    of the IEEE 86, 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import models
    >>> model = models.lenet5()
    >>> model(np.zeros((2, 1, 28, 28), np.float32)).shape
    (2, 10)
    >>> sum(p.size for p in model.parameters())
    61706
    """
    options: dict[str, Any] = {"rng": resolve(rng), "dtype": dtype}
    return nn.Sequential(
        {
            "conv1": nn.Conv2d(in_channels, 6, 5, padding=2, **options),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(6, 16, 5, **options),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(16 * 5 * 5, 120, **options),
            "relu3": nn.ReLU(),
            "fc2": nn.Linear(120, 84, **options),
            "relu4": nn.ReLU(),
            "fc3": nn.Linear(84, num_classes, **options),
        }
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the block's input, then ReLU.

    Where the shape changes, a 1x1 convolution with batch norm brings the input to the new one.

    Parameters
    ----------
    in_channels, out_channels : int
    stride : int, default 1
        Of the first convolution.
    rng : numpy.random.Generator, optional
        Source of the first weights; the default generator if not given.
    dtype : float32 or float64, default float32

    Notes
    -----
    The layers are named ``conv1``, ``bn1``, ``conv2``, ``bn2`` and ``downsample.0``, ``downsample.1``, as torchvision
    names them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import models
    >>> models.BasicBlock(16, 32, stride=2)(np.ones((1, 16, 8, 8), np.float32)).shape
    (1, 32, 4, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"bias": False, "rng": rng, "dtype": dtype}
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, **options)
        self.bn1 = nn.BatchNorm2d(out_channels, dtype=dtype)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, **options)
        self.bn2 = nn.BatchNorm2d(out_channels, dtype=dtype)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, **options), nn.BatchNorm2d(out_channels, dtype=dtype)
            )
        self.relu2 = nn.ReLU()
        # (layers, network of them), in a tuple, as the network is no child; the second that of the last forward pass.
        self._built: tuple[list[nn.Module | None], nn.Sequential] | None = None
        self._ran: tuple[list[nn.Module | None], nn.Sequential] | None = None
        self._network()

    def _network(self) -> tuple[list[nn.Module | None], nn.Sequential]:
        """The layers and one network of them, which is built again when a layer is replaced."""
        layers = [self.conv1, self.bn1, self.relu1, self.conv2, self.bn2, self.downsample, self.relu2]
        built = self._built
        if built is None or built[0] != layers:
            if built is not None:
                built[1].requires_input_grad(True)
            names = ("conv1", "bn1", "relu1", "conv2", "bn2")
            body = nn.Sequential(dict(zip(names, layers, strict=False)))
            built = layers, nn.Sequential(nn.Residual(body, self.downsample), self.relu2)
            built[1].requires_input_grad(self.needs_input_grad)
            self._built = built
        return built

    @property
    def _whole(self) -> nn.Sequential:
        return self._network()[1]

    def forward(self, input: np.ndarray) -> np.ndarray:
        """Return the block's output for `input` (N, in_channels, H, W)."""
        built = self._network()
        if nn.is_grad_enabled():
            self.__dict__["_ran"] = built
        return built[1](input)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """Run the layers' backward; see `Module.backward`."""
        return (self._ran or self._network())[1].backward(grad_output)

    def requires_input_grad(self, flag: bool = True) -> nn.Module:
        """Say whether the gradient of the input is needed; see `Module.requires_input_grad`."""
        self._whole.requires_input_grad(flag)
        return super().requires_input_grad(flag)


def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    rng: np.random.Generator | None = None,
    dtype: DTypeLike = np.float32,
) -> nn.Sequential:
    """ResNet-20 for 32x32 images: 19 convolutions in three stages of 16, 32 and 64 channels, and a linear layer.

    Section 4.2 of the paper, with projections (1x1 convolution and batch norm) where the shape changes.

    Parameters
    ----------
    num_classes : int, default 10
    in_channels : int, default 3
    rng : numpy.random.Generator, optional
        Source of the first weights; the default generator if not given.
    dtype : float32 or float64, default float32

    Returns
    -------
    Sequential
        Takes (N, in_channels, H, W), returns class scores (N, num_classes). Its children are ``conv1``, ``bn1``,
        ``layer1.0`` to ``layer3.2`` (`BasicBlock`), and ``fc``. Convolutions have He's normal initialisation by
        fan-out.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import models
    >>> model = models.resnet20()
    >>> model.eval()(np.zeros((2, 3, 32, 32), np.float32)).shape
    (2, 10)
    >>> sum(p.size for p in model.parameters())
    272474
    """
    options: dict[str, Any] = {"rng": resolve(rng), "dtype": dtype}

    def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride, **options)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, **options) for _ in range(2)))

    model = nn.Sequential(
        {
            "conv1": nn.Conv2d(in_channels, 16, 3, padding=1, bias=False, **options),
            "bn1": nn.BatchNorm2d(16, dtype=dtype),
            "relu": nn.ReLU(),
            "layer1": stage(16, 16, 1),
            "layer2": stage(16, 32, 2),
            "layer3": stage(32, 64, 2),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(64, num_classes, **options),
        }
    )
    return _he(model, rng)


def vgg_small(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    rng: np.random.Generator | None = None,
    dtype: DTypeLike = np.float32,
) -> nn.Sequential:
    """A small network in the manner of VGG, for 32x32 images: pairs of 3x3 convolutions with 64, 128, 256 channels.

    Each convolution has batch norm and ReLU after it, each pair a max-pool; the mean over the image and one linear
    layer take the place of the three fully connected layers of the paper.

    Parameters
    ----------
    num_classes : int, default 10
    in_channels : int, default 3
    rng : numpy.random.Generator, optional
        Source of the first weights; the default generator if not given.
    dtype : float32 or float64, default float32

    Returns
    -------
    Sequential
        Takes (N, in_channels, H, W) of at least 8x8, returns class scores (N, num_classes). Its children are
        ``features`` (numbered layers) and ``classifier``. Convolutions have He's normal initialisation by fan-out.

    References
    ----------
    K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import models
    >>> model = models.vgg_small()
    >>> model.eval()(np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 10)
    """
    options: dict[str, Any] = {"rng": resolve(rng), "dtype": dtype}
    layers: list[nn.Module] = []
    channels = in_channels
    for width in (64, 128, 256):
        for _ in range(2):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False, **options),
                nn.BatchNorm2d(width, dtype=dtype),
                nn.ReLU(),
            ]
            channels = width
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(
        {
            "features": nn.Sequential(*layers),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "classifier": nn.Linear(channels, num_classes, **options),
        }
    )
    return _he(model, rng)


def digits_cnn(
    num_classes: int = 10,
    in_channels: int = 1,
    *,
    rng: np.random.Generator | None = None,
    dtype: DTypeLike = np.float32,
) -> nn.Sequential:
    """A small network for 8x8 images, such as the digits that come with fastcnn; it trains in seconds.

    Parameters
    ----------
    num_classes : int, default 10
    in_channels : int, default 1
    rng : numpy.random.Generator, optional
        Source of the first weights; the default generator if not given.
    dtype : float32 or float64, default float32

    Returns
    -------
    Sequential
        Takes (N, in_channels, 8, 8), returns class scores (N, num_classes). Its parameters are ``conv1``, ``bn1``,
        ``conv2``, ``bn2`` and ``fc``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import models
    >>> models.digits_cnn().eval()(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    """
    options: dict[str, Any] = {"rng": resolve(rng), "dtype": dtype}
    model = nn.Sequential(
        {
            "conv1": nn.Conv2d(in_channels, 32, 3, padding=1, bias=False, **options),
            "bn1": nn.BatchNorm2d(32, dtype=dtype),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(32, 64, 3, padding=1, bias=False, **options),
            "bn2": nn.BatchNorm2d(64, dtype=dtype),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "dropout": nn.Dropout(0.25),
            "fc": nn.Linear(64 * 2 * 2, num_classes, **options),
        }
    )
    return _he(model, rng)


def _he(model: nn.Sequential, rng: np.random.Generator | None) -> nn.Sequential:
    """Give all convolutions of `model` He's normal initialisation for ReLU, by fan-out."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", rng=rng)
    return model

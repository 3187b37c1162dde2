"""Labelled images in memory, and the data sets that fastcnn knows by name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional.image import per_channel
from fastcnn.nn import Preprocessing
from fastcnn.training import files
from fastcnn.training.locate import Source, find

DIGITS = tuple("0123456789")
IDX_LAYOUTS = {
    "train": (("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),),
    "test": (("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),),
}
CIFAR_BATCHES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR_ARCHIVE = "cifar-10-binary.tar"

# The sums are those that tensorflow/datasets publishes (tensorflow_datasets/url_checksums); torchvision and
# Fashion-MNIST's own page give MD5 sums of the same files.
SOURCES = {
    source.name: source
    for source in (
        Source(
            name="mnist",
            subfolders=("mnist", "MNIST/raw"),
            layouts=IDX_LAYOUTS,
            url="https://storage.googleapis.com/cvdf-datasets/mnist/",
            sha256={
                "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            },
        ),
        Source(
            name="fashion-mnist",
            subfolders=("fashion-mnist", "FashionMNIST/raw"),
            layouts=IDX_LAYOUTS,
            url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            sha256={
                "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            },
            advice="\nOn Debian and Ubuntu, `apt-get install dataset-fashion-mnist` is enough.",
        ),
        Source(
            name="cifar10",
            subfolders=("cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin"),
            layouts={split: (batches, (CIFAR_ARCHIVE,)) for split, batches in CIFAR_BATCHES.items()},
            url="https://www.cs.toronto.edu/~kriz/",
            sha256={
                "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            },
        ),
    )
}
NAMES = ("digits", *SOURCES)
CLASSES = {
    "digits": DIGITS,
    "mnist": DIGITS,
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
# Mean and standard deviation of each channel over the training images, after scaling.
MEAN = {
    "digits": (0.3051,),
    "mnist": (0.1307,),
    "fashion-mnist": (0.2860,),
    "cifar10": (0.4914, 0.4822, 0.4465),
}
STD = {
    "digits": (0.3762,),
    "mnist": (0.3081,),
    "fashion-mnist": (0.3530,),
    "cifar10": (0.2470, 0.2435, 0.2616),
}
DIGITS_SCALE = 1 / 16


class ImageDataset:
    """Labelled images in memory, with the constants that normalise them.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, H, W, C)
        The pixels, channels last. Kept as they are, not copied.
    labels : ndarray of int, shape (N,)
        The class of each image, from 0 to `len(classes) - 1`.
    classes : sequence of str, optional
        The names of the classes; by default "0", "1", ... up to the greatest label.
    mean, std : float or sequence of C floats, default 0 and 1
        Mean and standard deviation of each channel of `images * scale`, to be subtracted and divided by.
    scale : float, default 1/255
        What brings a pixel's byte into the range from 0 to 1.

    Attributes
    ----------
    images, labels : ndarray
        As given; labels as int64.
    classes : tuple of str
    mean, std : tuple of float
        One number a channel.
    scale : float

    Raises
    ------
    TypeError, ValueError
        If types or shapes do not fit together, or a label has no class.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn.training.datasets import ImageDataset
    >>> pixels = np.zeros((2, 8, 8, 1), np.uint8)
    >>> ImageDataset(pixels, [1, 0], classes=("cat", "dog"))
    ImageDataset(2 images of 8x8x1, 2 classes)
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: tuple[str, ...] | None = None,
        *,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
        scale: float = 1 / 255,
    ) -> None:
        images, labels = check.array_like("images", images), check.array_like("labels", labels)
        if images.dtype != np.uint8:
            check.fail("images", "an array of uint8", images.dtype, TypeError)
        if images.ndim != 4:
            check.fail("images", "shape (N, H, W, C)", images.shape)
        if labels.size and labels.dtype.kind not in "iu":
            check.fail("labels", "an array of integers", labels.dtype, TypeError)
        if labels.shape != (len(images),):
            check.fail("labels", f"shape ({len(images)},), one label an image", labels.shape)
        if labels.size and labels.max() > np.iinfo(np.int64).max:
            check.fail("labels", "integers of 64 bits", labels.max())
        labels = labels.astype(np.int64)
        if classes is None:
            classes = tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))
        outside = labels[(labels < 0) | (labels >= len(classes))]
        if outside.size:
            check.fail("labels", f"values from 0 to {len(classes) - 1}", outside[0])
        channels = images.shape[3]
        self.images = images
        self.labels = labels
        self.classes = tuple(classes)
        self.mean = per_channel("mean", mean, channels)
        self.std = per_channel("std", std, channels, positive=True)
        self.scale = per_channel("scale", scale, 1, positive=True)[0]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        return f"{type(self).__name__}({len(self)} images of {size}, {len(self.classes)} classes)"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image as a network sees it: (C, H, W)."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    @property
    def preprocessing(self) -> Preprocessing:
        """The constants that normalise the images, as a network keeps them."""
        return Preprocessing(self.input_shape, scale=self.scale, mean=self.mean, std=self.std, class_names=self.classes)

    def subset(self, indices: np.ndarray | slice) -> ImageDataset:
        """Return the data set of some of the images, with the same classes and constants.

        Parameters
        ----------
        indices : slice, or array of int or bool
            Which images. A slice shares the pixels' memory.

        Returns
        -------
        ImageDataset

        Examples
        --------
        >>> from fastcnn.training.datasets import load_dataset
        >>> load_dataset("digits").subset(slice(100))
        ImageDataset(100 images of 8x8x1, 10 classes)
        """
        images, labels = self.images[indices], self.labels[indices]
        return ImageDataset(images, labels, self.classes, mean=self.mean, std=self.std, scale=self.scale)


def load_dataset(
    name: str, split: str = "train", data_dir: str | os.PathLike | None = None, *, download: bool = True
) -> ImageDataset:
    """Load a data set by name.

    Parameters
    ----------
    name : {'digits', 'mnist', 'fashion-mnist', 'cifar10'}
        'digits' comes with fastcnn: 1,442 and 355 images of 8x8 pixels. The others are files that are looked for in
        `data_dir`, in the folder that the environment variable `FASTCNN_DATA` names, in `share/datasets` of the
        system, and in the user's cache; in each of them first in its subfolders (`mnist`, `fashion-mnist`,
        `cifar-10-batches-bin`, ...), then in the folder itself.
    split : {'train', 'test'}, default 'train'
    data_dir : path, optional
        The folder to look in first. Not needed, and not looked at, for 'digits'.
    download : bool, default True
        Whether to download files that no folder has into the user's cache; needs pooch (`fastcnn[train]`). Their
        SHA-256 sums are checked. Files found in a folder need no sum, but must be whole.

    Returns
    -------
    ImageDataset
        With the mean and standard deviation of the training split, whichever the split.

    Raises
    ------
    ValueError
        If `name` or `split` is not one of those named, or a file is truncated or altered; names the file.
    FileNotFoundError
        If the files are nowhere and could not be downloaded; lists where they were looked for and how to get them.

    References
    ----------
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition" (1998).
    H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms" (2017).
    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).

    Examples
    --------
    >>> from fastcnn.training.datasets import load_dataset
    >>> load_dataset("digits", "test")
    ImageDataset(355 images of 8x8x1, 10 classes)
    """
    if name not in NAMES:
        check.fail("name", f"one of {', '.join(map(repr, NAMES))}", repr(name))
    if split not in ("train", "test"):
        check.fail("split", "'train' or 'test'", repr(split))
    scale = 1 / 255
    if name == "digits":
        images, labels = _digits(split)
        scale = DIGITS_SCALE
    else:
        source = SOURCES[name]
        others = frozenset(other.subfolders[0] for other in SOURCES.values() if other is not source)
        paths = find(source, split, data_dir, others, download)
        images, labels = _cifar(paths, split) if name == "cifar10" else _idx(*paths)
    return ImageDataset(images, labels, CLASSES[name], mean=MEAN[name], std=STD[name], scale=scale)


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Every fifth sample of each class is the test set; the order is the file's."""
    with resources.as_file(resources.files("fastcnn") / "data" / "digits.npz") as path:
        images, labels = files.read_npz(path, images=(1797, 8, 8), labels=(1797,))
        files.check_labels(labels, 10, str(path))
    images = images[..., np.newaxis]
    chosen = np.zeros(len(labels), bool)
    for label in range(10):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    if split == "train":
        chosen = ~chosen
    return images[chosen], labels[chosen]


def _idx(image_path: Path, label_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = files.read_idx(image_path, 3), files.read_idx(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{image_path}: expected images of 28x28 pixels, got {images.shape[1]}x{images.shape[2]}")
    if len(images) != len(labels):
        raise ValueError(f"{label_path}: expected {len(images)} labels, one an image, got {len(labels)}")
    files.check_labels(labels, 10, str(label_path))
    return images[..., np.newaxis], labels


def _cifar(paths: list[Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    names = CIFAR_BATCHES[split]
    if len(paths) == 1 and paths[0].name.startswith(CIFAR_ARCHIVE):
        named = [f"{paths[0]}: {name}" for name in names]
        contents = files.read_tar_members(paths[0], names)
    else:
        named = [str(path) for path in paths]
        contents = [files.read_bytes(path, files.CIFAR_RECORDS * files.CIFAR_RECORD) for path in paths]
    images, labels = [], []
    for content, source in zip(contents, named, strict=True):
        batch_images, batch_labels = files.parse_cifar(content, source)
        files.check_labels(batch_labels, 10, source)
        images.append(batch_images)
        labels.append(batch_labels)
    return np.concatenate(images), np.concatenate(labels)

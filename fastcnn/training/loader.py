"""Batches in a random order that (seed, epoch, batch number) alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.functional.image import PIXELS, image_batch, per_channel
from fastcnn.nn import Preprocessing
from fastcnn.training.augment import Augment
from fastcnn.training.datasets import ImageDataset


class DataLoader:
    """Normalised, shuffled and augmented batches of a data set.

    What a batch holds depends on `seed`, the epoch and the batch number, and on nothing that came before: to go on in
    the middle of an epoch takes these three numbers and no other state.

    Parameters
    ----------
    dataset : ImageDataset or tuple of two ndarrays
        The images and labels, or your own arrays as `(inputs, targets)`:
        `inputs` of uint8, float32 or float64 and shape (N, C, H, W), (N, C, L) or (N, F), in any memory order (for
        (N, H, W, C) memory, pass `images.transpose(0, 3, 1, 2)`); `targets` with N entries, integers for classes or
        floats for values. They are kept, not copied.
    batch_size : int
        Images in a batch; the last batch has what is left.
    shuffle : bool, default False
        Whether each epoch has a random order of its own.
    augment : Augment, optional
        Random changes of the images. Targets stay as they are.
    mean, std : float or sequence of C floats, optional
        Subtracted from and dividing each channel. By default the data set's, and 0 and 1 for arrays. Bytes are brought
        into the range from 0 to 1 before (by `dataset.scale`, or 1/255); float arrays are taken as they are.
    drop_last : bool, default False
        Whether to leave out a last batch that is not full.
    seed : int, default 0
        Of the order and the augmentation.
    dtype : float32 or float64, default float32
        Of the inputs, and of float targets.

    Attributes
    ----------
    dataset, batch_size, shuffle, augment, drop_last, seed
        As given.
    inputs, targets : ndarray
        All inputs before normalisation, and all targets as int64 or `dtype`.
    mean, std : tuple of float
        One number a channel.
    scale : float
        What inputs are multiplied by, before `mean` is subtracted.
    dtype : numpy.dtype

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or shape, or two of them do not fit together.

    Examples
    --------
    >>> from fastcnn.training.datasets import load_dataset
    >>> from fastcnn.training.loader import DataLoader
    >>> loader = DataLoader(load_dataset("digits"), 32, shuffle=True)
    >>> len(loader)
    46
    >>> inputs, targets = next(loader.epoch(0))
    >>> inputs.shape, inputs.dtype, targets.shape, targets.dtype
    ((32, 1, 8, 8), dtype('float32'), (32,), dtype('int64'))
    """

    def __init__(
        self,
        dataset: ImageDataset | tuple[np.ndarray, np.ndarray],
        batch_size: int,
        shuffle: bool = False,
        augment: Augment | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        drop_last: bool = False,
        seed: int = 0,
        *,
        dtype: np.dtype | type = np.float32,
    ) -> None:
        self.batch_size = check.integer("batch_size", batch_size, 1)
        self.seed = check.integer("seed", seed, 0)
        for name, flag in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(flag, bool):
                check.fail(name, "a bool", repr(flag), TypeError)
        if augment is not None and not isinstance(augment, Augment):
            check.fail("augment", "an Augment or None", repr(augment), TypeError)
        self.dataset, self.shuffle, self.augment, self.drop_last = dataset, shuffle, augment, drop_last
        if isinstance(dataset, ImageDataset):
            self.inputs, self.targets = dataset.images.transpose(0, 3, 1, 2), dataset.labels
            self.scale, default_mean, default_std = dataset.scale, dataset.mean, dataset.std
        else:
            self.inputs, self.targets = _pair(dataset, check.float_type("dtype", dtype))
            self.scale = 1 / 255 if self.inputs.dtype == np.uint8 else 1.0
            default_mean, default_std = 0.0, 1.0
        if augment is not None:
            self._check_augment(augment)
        channels = self.inputs.shape[1]
        self.mean = per_channel("mean", default_mean if mean is None else mean, channels)
        self.std = per_channel("std", default_std if std is None else std, channels, positive=True)
        # Signals (N, C, L) and vectors (N, F) pass through the kernel as images of one row or one pixel.
        self._images = self.inputs.reshape((*self.inputs.shape, 1, 1)[:4])
        self.dtype = check.float_type("dtype", dtype)
        self._batch(np.empty(0, np.intp), 0, 0)  # the rest of the arguments is checked where they are used

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.inputs), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to the inputs, augmentation aside, as a network that is trained on them keeps it."""
        return Preprocessing(
            self.inputs.shape[1:],
            "uint8" if self.inputs.dtype == np.uint8 else "float",
            self.scale,
            self.mean,
            self.std,
            self.dataset.classes if isinstance(self.dataset, ImageDataset) else None,
            self.dtype.name,
        )

    def order(self, epoch: int) -> np.ndarray:
        """Return the order in which an epoch visits the images.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.

        Returns
        -------
        ndarray of int, shape (N,)
            A permutation of 0 to N-1; these numbers in order, without `shuffle`.
        """
        epoch = check.integer("epoch", epoch, 0)
        order = np.arange(len(self.inputs), dtype=np.intp)
        if self.shuffle:
            self._rng(epoch).shuffle(order)
        return order

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of an epoch.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 0.
        start_batch : int, default 0
            Number of the first batch to yield; with `len(loader)`, nothing is left to yield.

        Returns
        -------
        iterator of tuple of two ndarrays
            The inputs, float (n, C, H, W) and channels-last in memory, and the targets, int64 (n,) for classes. Each
            batch is memory of its own.

        Raises
        ------
        TypeError, ValueError
            If a number is negative, or there is no such batch.
        """
        epoch = check.integer("epoch", epoch, 0)
        start_batch = check.integer("start_batch", start_batch, 0)
        if start_batch > len(self):
            check.fail("start_batch", f"at most {len(self)}, the batches of an epoch", start_batch)
        order = self.order(epoch)
        size = self.batch_size
        return (
            self._batch(order[batch * size : (batch + 1) * size], epoch, batch)
            for batch in range(start_batch, len(self))
        )

    def _batch(self, indices: np.ndarray, epoch: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        changes = {}
        if self.augment is not None:
            changes = self.augment.draw(self._rng(epoch, batch), len(indices), *self.inputs.shape[2:])
        inputs = image_batch(
            self._images, indices, scale=self.scale, mean=self.mean, std=self.std, dtype=self.dtype, **changes
        )
        return inputs.reshape(len(indices), *self.inputs.shape[1:]), self.targets[indices]

    def _rng(self, *place: int) -> np.random.Generator:
        """A generator for one epoch's order (one number), or one batch's augmentation (two)."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=place)))

    def _check_augment(self, augment: Augment) -> None:
        if self.inputs.ndim != 4:
            check.fail("augment", "None for inputs other than images (N, C, H, W)", f"inputs {self.inputs.shape}")
        side = min(self.inputs.shape[2:])
        for name in ("crop_padding", "cutout"):
            if getattr(augment, name) >= side:
                check.fail("augment", f"{name} less than the images' side {side}", getattr(augment, name))


def _pair(dataset: object, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(dataset, tuple) or len(dataset) != 2:
        check.fail("dataset", "an ImageDataset or a tuple (inputs, targets)", type(dataset).__name__, TypeError)
    inputs, targets = dataset
    inputs = check.array("dataset", inputs, "inputs in an array of uint8, float32 or float64")
    if inputs.dtype not in PIXELS:
        check.fail("dataset", "inputs in an array of uint8, float32 or float64", inputs.dtype, TypeError)
    if inputs.ndim not in (2, 3, 4):
        check.fail("dataset", "inputs of shape (N, C, H, W), (N, C, L) or (N, F)", inputs.shape)
    targets = check.array_like("targets", targets)
    if targets.ndim == 0 or len(targets) != len(inputs):
        check.fail("dataset", f"targets for {len(inputs)} inputs", f"shape {targets.shape}")
    if targets.dtype.kind not in "iuf":
        check.fail("dataset", "targets of integers or floats", targets.dtype, TypeError)
    if targets.dtype == np.uint64 and targets.size and targets.max() > np.iinfo(np.int64).max:
        check.fail("dataset", "targets of 64-bit integers with sign", targets.max())
    return inputs, targets.astype(dtype if targets.dtype.kind == "f" else np.int64, copy=False)

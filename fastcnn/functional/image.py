"""Batches of images: picked, cropped, flipped, normalised and cut out in one compiled pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fastcnn.functional import _checks as check
from fastcnn.kernels import augment as kernels

PIXELS = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64))


def image_batch(
    images: np.ndarray,
    indices: np.ndarray,
    *,
    scale: float = 1.0,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    shift: np.ndarray | None = None,
    flip: np.ndarray | None = None,
    cutout: np.ndarray | None = None,
    dtype: np.dtype | type = np.float32,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Make a batch of chosen images: shifted, flipped, normalised as (x*scale - mean)/std, and cut out, in this order.

    Parameters
    ----------
    images : ndarray of uint8, float32 or float64, shape (M, C, H, W)
        The images to choose from, in any memory order; not copied.
    indices : ndarray of int, shape (N,)
        Which images, each from 0 to M-1; repeats are welcome.
    scale : float, default 1
        Multiplies every pixel first; positive.
    mean, std : float or sequence of C floats, default 0 and 1
        Of each channel, after scaling; `std` positive.
    shift : ndarray of int, shape (N, 2), optional
        For each image the row and column of the pixel that comes to its top left corner. Pixels outside of the image
        are zeros before normalisation, so that a random crop with padding is a random shift.
    flip : ndarray of bool, shape (N,), optional
        Which images are mirrored left to right, after the shift.
    cutout : ndarray of int, shape (N, 4), optional
        For each image a box (top, left, bottom, right), bottom and right excluded, that is set to 0 after
        normalisation, which is the mean. What is outside of the image is ignored.
    dtype : float32 or float64, default float32
        Of the batch.
    out : ndarray of `dtype`, shape (N, C, H, W) with channels-last memory, optional
        Array to write the batch to, such as the one of an earlier call.

    Returns
    -------
    ndarray of `dtype`, shape (N, C, H, W)
        The batch, channels-last in memory; `out` where that is given.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or shape, or an index names no image.

    References
    ----------
    T. DeVries, G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).

    Examples
    --------
    >>> import numpy as np
    >>> import fastcnn.functional as F
    >>> images = np.array([[[[0, 51], [102, 255]]]], np.uint8)
    >>> F.image_batch(images, np.array([0, 0]), scale=1 / 255, flip=np.array([False, True]))[:, 0].round(2)
    array([[[0. , 0.2],
            [0.4, 1. ]],
    <BLANKLINE>
           [[0.2, 0. ],
            [1. , 0.4]]], dtype=float32)
    """
    given = {"images": images, "indices": indices, "shift": shift, "flip": flip, "cutout": cutout}
    images = check.array("images", images, "a NumPy array of uint8, float32 or float64")
    if images.dtype.newbyteorder("=") not in PIXELS:
        check.fail("images", "an array of uint8, float32 or float64", images.dtype, TypeError)
    check.ndim("images", images, 4)
    dtype = check.float_type("dtype", dtype)
    count, channels, height, width = images.shape
    indices = _whole("indices", indices)
    check.ndim("indices", indices, 1)
    outside = indices[(indices < 0) | (indices >= count)]
    if outside.size:
        check.fail("indices", f"values from 0 to {count - 1}", outside[0])
    n = len(indices)
    if shift is not None:
        shift = _whole("shift", shift)
        check.shape("shift", shift, (n, 2))
        shift = np.clip(shift, (-height, -width), (height, width))  # beyond, no pixel of the image is seen
    if flip is not None:
        flip = _listed("flip", flip, "an array of bool")
        if flip.dtype != np.bool_:
            check.fail("flip", "an array of bool", flip.dtype, TypeError)
        check.shape("flip", flip, (n,))
        flip = np.ascontiguousarray(flip).view(np.uint8)
    if cutout is not None:
        cutout = _whole("cutout", cutout)
        check.shape("cutout", cutout, (n, 4))
        cutout = np.clip(cutout, 0, (height, width, height, width))
    usual = isinstance(mean, tuple) and isinstance(std, tuple) and {type(n) for n in (scale, *mean, *std)} == {float}
    gain, offset = (_gain_and_offset if usual else _gain_and_offset.__wrapped__)(scale, mean, std, channels, dtype)
    if out is None:
        out = check.empty((n, channels, height, width), dtype, channels_last=True)
        target = out
    else:
        target = check.destination(out, (n, channels, height, width), dtype, **given)
        check.in_order(target, True)
    if target.size:
        if not (images.flags.aligned and images.dtype.isnative):
            images = images.astype(images.dtype.newbyteorder("="))
        kernels.image_batch(images, indices, shift, flip, cutout, gain, offset, target.transpose(0, 2, 3, 1))
    return out


@lru_cache(maxsize=256)  # a loader asks for the same with every batch
def _gain_and_offset(scale, mean, std, channels, dtype):
    """What each channel's pixels are multiplied by, and what is then added."""
    (scale,) = per_channel("scale", scale, 1, positive=True)
    means = np.asarray(per_channel("mean", mean, channels))
    deviations = np.asarray(per_channel("std", std, channels, positive=True))
    return (scale / deviations).astype(dtype), (-means / deviations).astype(dtype)


def per_channel(
    name: str, value: float | Sequence[float], channels: int, *, positive: bool = False
) -> tuple[float, ...]:
    """Check one finite number, or one for each channel, and return one for each channel."""
    wanted = f"a {'positive' if positive else 'finite'} number, or {channels} of them, one a channel"
    try:
        numbers = check.array_like(name, value)
    except ValueError:  # lists of different lengths
        check.fail(name, wanted, check.shown(value))
    if numbers.dtype.kind not in "iuf":
        check.fail(name, wanted, check.shown(value), TypeError)
    if (
        numbers.shape not in ((), (channels,))
        or not np.isfinite(numbers).all()
        or (positive and not (numbers > 0).all())
    ):
        check.fail(name, wanted, check.shown(value))
    return tuple(np.broadcast_to(numbers, (channels,)).astype(np.float64).tolist())


def _whole(name: str, array: object) -> np.ndarray:
    """Check an array of whole numbers and return it as the kernels take it."""
    array = _listed(name, array, "an array of integers")
    if array.size and array.dtype.kind not in "iu":
        check.fail(name, "an array of integers", array.dtype, TypeError)
    if array.size and array.dtype.kind == "u":  # what is greater than an intp would turn negative
        array = np.minimum(array, array.dtype.type(min(np.iinfo(array.dtype).max, np.iinfo(np.intp).max)))
    return np.require(array, np.intp, ["C", "A"])


def _listed(name: str, value: object, wanted: str) -> np.ndarray:
    """Return an array as `check.array` does, or a list as an array."""
    return check.array_like(name, value) if isinstance(value, (list, tuple)) else check.array(name, value, wanted)

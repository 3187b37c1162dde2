"""Random changes of training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastcnn.functional import _checks as check


@dataclass(frozen=True)
class Augment:
    """Which random changes a `DataLoader` makes to its images, each image anew in every epoch.

    Parameters
    ----------
    crop_padding : int, default 0
        Pad each side by this many zero pixels, then crop back to the old size at a random place.
    horizontal_flip : bool, default False
        Mirror half of the images, chosen at random.
    cutout : int, default 0
        Side of a square at a random place that is set to the mean; its centre is a pixel of the image, so that part
        of the square may lie outside.

    Raises
    ------
    TypeError, ValueError
        If an argument is negative or of another type.

    References
    ----------
    T. DeVries, G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).

    Examples
    --------
    The usual choice for CIFAR-10:

    >>> from fastcnn.training.augment import Augment
    >>> Augment(crop_padding=4, horizontal_flip=True)
    Augment(crop_padding=4, horizontal_flip=True, cutout=0)
    """

    crop_padding: int = 0
    horizontal_flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        check.integer("crop_padding", self.crop_padding, 0)
        check.integer("cutout", self.cutout, 0)
        if not isinstance(self.horizontal_flip, bool):
            check.fail("horizontal_flip", "a bool", repr(self.horizontal_flip), TypeError)

    def draw(self, rng: np.random.Generator, count: int, height: int, width: int) -> dict[str, np.ndarray]:
        """Draw the changes of `count` images.

        Parameters
        ----------
        rng : numpy.random.Generator
            Where the random numbers come from.
        count, height, width : int
            How many images, of what size.

        Returns
        -------
        dict of str to ndarray
            The arguments `shift`, `flip` and `cutout` of `fastcnn.functional.image_batch`, those that are in use.
        """
        changes = {}
        if self.crop_padding:
            changes["shift"] = rng.integers(-self.crop_padding, self.crop_padding + 1, (count, 2))
        if self.horizontal_flip:
            changes["flip"] = rng.random(count) < 0.5
        if self.cutout:
            corner = rng.integers(0, (height, width), (count, 2)) - self.cutout // 2
            changes["cutout"] = np.hstack((corner, corner + self.cutout))
        return changes

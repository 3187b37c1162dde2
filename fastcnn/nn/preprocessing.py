"""What is done to raw inputs before a network sees them, kept with the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastcnn._numbers import number
from fastcnn.functional import _checks as check
from fastcnn.functional.image import image_batch, per_channel

__all__ = ["Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of a network's inputs, ``(input * scale - mean) / std``, with their shape and the class names.

    `Trainer.fit` records that of its `DataLoader` as ``model.preprocessing``, checkpoints and weight files keep it, and
    `Trainer.predict` and `Trainer.evaluate` apply it to raw arrays and data sets.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of one input as the network gets it: (C, H, W), (C, L) or (F,).
    input_type : {'uint8', 'float'}
        What raw inputs are: bytes, or floating-point numbers.
    scale : float, optional
        Multiplies every element first; by default 1/255 for bytes and 1 for floats.
    mean, std : float or sequence of C floats, default 0 and 1
        Of each channel, after scaling.
    class_names : sequence of str, optional
        What the classes are called, in the order of the network's outputs.
    dtype : {'float32', 'float64'}
        What the network gets.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import nn
    >>> preprocessing = nn.Preprocessing((1, 1, 2), mean=0.5, std=0.25)
    >>> preprocessing(np.array([[[[0, 255]]]], np.uint8))
    array([[[[-2.,  2.]]]], dtype=float32)
    >>> preprocessing(np.zeros((1, 3, 1, 2), np.uint8))
    Traceback (most recent call last):
        ...
    ValueError: inputs: expected shape (N, 1, 1, 2), as in training, got (1, 3, 1, 2)
    """

    input_shape: Sequence[int]
    input_type: str = "uint8"
    scale: float | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    class_names: Sequence[str] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.input_shape, (tuple, list)) or not 1 <= len(self.input_shape) <= 3:
            check.fail("input_shape", "a tuple of one to three ints", repr(self.input_shape), TypeError)
        shape = tuple(check.integer("input_shape", size, 0) for size in self.input_shape)
        if self.input_type not in ("uint8", "float"):
            check.fail("input_type", "'uint8' or 'float'", repr(self.input_type))
        if self.dtype not in ("float32", "float64"):
            check.fail("dtype", "'float32' or 'float64'", repr(self.dtype))
        scale = self.scale
        if scale is None:
            scale = 1 / 255 if self.input_type == "uint8" else 1.0
        names = self.class_names
        if names is not None:
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                check.fail("class_names", "a sequence of strings or None", repr(names), TypeError)
            names = tuple(names)
        scale = number("scale", scale, 0)
        if not 0 < scale < math.inf:
            check.fail("scale", "a positive number", scale)
        for name, value in (
            ("input_shape", shape),
            ("scale", scale),
            ("mean", per_channel("mean", self.mean, shape[0])),
            ("std", per_channel("std", self.std, shape[0], positive=True)),
            ("class_names", names),
        ):
            object.__setattr__(self, name, value)

    @property
    def is_identity(self) -> bool:
        """Whether inputs of type `dtype` pass unchanged."""
        return self.input_type == "float" and self.scale == 1 and not any(self.mean) and set(self.std) <= {1.0}

    def same_normalisation(self, other: Preprocessing) -> bool:
        """Whether `other` makes the same of the same raw inputs."""
        names = ("input_type", "scale", "mean", "std")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def raw(self, inputs: ArrayLike) -> np.ndarray:
        """Check raw inputs, and return them as an array of a type that can be normalised.

        Integers become bytes or floats where they keep their values. Height, width and length may differ from those
        of training, as many networks take other sizes; channels, features and the number of axes may not.

        Raises
        ------
        TypeError
            If the inputs are floats and those of training were bytes, or the other way round: 0 to 1, 0 to 255 and
            what is normalised already cannot be told from each other.
        ValueError
            If the shape or an integer is none that the training inputs could have had.
        """
        array = check.array_like("inputs", inputs)
        kind = array.dtype.kind
        if self.input_type == "uint8":
            if kind not in "iu":
                check.fail(
                    "inputs",
                    "bytes (uint8), as in training",
                    f"{array.dtype}; for a batch that is normalised already, call the model itself",
                    TypeError,
                )
            if array.dtype != np.uint8 and array.size and (array.min() < 0 or array.max() > 255):
                check.fail("inputs", "values from 0 to 255", f"{array.min()} to {array.max()}")
            array = array.astype(np.uint8, copy=False)
        else:
            if kind not in "fiu" or array.dtype == np.uint8:
                check.fail("inputs", "floats, as in training", f"{array.dtype}; scale them as in training", TypeError)
            if array.dtype not in (np.float32, np.float64):
                array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
        shape = (len(self.input_shape) + 1, self.input_shape[0])
        if array.ndim != shape[0] or array.shape[1] != shape[1]:
            advice = ""
            if array.ndim == 4 == shape[0] and array.shape[3] == shape[1]:
                advice = "; if channels come last, pass inputs.transpose(0, 3, 1, 2)"
            check.fail("inputs", self.expected_shape, f"{array.shape}{advice}")
        return array

    @property
    def expected_shape(self) -> str:
        """The shape of a batch, in words."""
        return f"shape ({', '.join(['N', *map(str, self.input_shape)])}), as in training"

    def __call__(self, inputs: ArrayLike) -> np.ndarray:
        """Return raw inputs as the network was trained on them; see `raw` for what is accepted."""
        array = self.raw(inputs)
        if self.is_identity:
            return array.astype(self.dtype, copy=False)
        images = array.reshape((*array.shape, 1, 1)[:4])  # signals and vectors are images of one row or one pixel
        indices = np.arange(len(array))
        batch = image_batch(images, indices, scale=self.scale, mean=self.mean, std=self.std, dtype=np.dtype(self.dtype))
        return batch.reshape(array.shape)

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments that make an equal object, as JSON can hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Preprocessing:
        """Return the object that `state_dict` was taken of.

        Raises
        ------
        TypeError, ValueError
            If names are missing or unknown, or a value is not valid.
        """
        names = set(cls.__dataclass_fields__)
        if not isinstance(state, Mapping) or set(state) != names:
            check.fail("preprocessing", f"the entries {', '.join(sorted(names))}", repr(state))
        return cls(**state)

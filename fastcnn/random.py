"""The one random generator that everything random in fastcnn draws from unless it is given another."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["default_generator", "get_state", "manual_seed", "resolve", "set_state"]

# Seeded by the operating system until manual_seed is called, as NumPy and PyTorch do.
_generator = np.random.Generator(np.random.PCG64())


def manual_seed(seed: int) -> np.random.Generator:
    """Restart the default generator from a seed.

    Parameters
    ----------
    seed : int
        Any non-negative integer.

    Returns
    -------
    numpy.random.Generator
        The default generator. It is the same object before and after, so a reference kept elsewhere is reseeded too.

    Raises
    ------
    TypeError
        If `seed` is not an integer.
    ValueError
        If `seed` is negative.

    Examples
    --------
    >>> import fastcnn
    >>> first = fastcnn.manual_seed(0).integers(100)
    >>> bool(first == fastcnn.manual_seed(0).integers(100))
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: expected a non-negative int, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed: expected a non-negative int, got {seed!r}")
    _generator.bit_generator.state = np.random.PCG64(int(seed)).state
    return _generator


def default_generator() -> np.random.Generator:
    """Return the generator that ``rng=None`` means.

    Returns
    -------
    numpy.random.Generator
        A PCG64 generator, one for the whole process.

    Examples
    --------
    >>> from fastcnn import random
    >>> random.default_generator() is random.default_generator()
    True
    """
    return _generator


def resolve(rng: np.random.Generator | None) -> np.random.Generator:
    """Return `rng`, or the default generator when it is None.

    Parameters
    ----------
    rng : numpy.random.Generator or None
        What a caller passed as ``rng``.

    Returns
    -------
    numpy.random.Generator
        The generator to draw from.

    Raises
    ------
    TypeError
        If `rng` is anything else.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcnn import random
    >>> random.resolve(None) is random.default_generator()
    True
    >>> random.resolve(42)
    Traceback (most recent call last):
        ...
    TypeError: rng: expected a numpy.random.Generator or None, got 42
    """
    if rng is None:
        return _generator
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator or None, got {rng!r}")
    return rng


def get_state() -> dict[str, Any]:
    """Return the default generator's state, for a later `set_state`.

    Returns
    -------
    dict
        Strings and integers only, so that it can be written as JSON. The integers have up to 128 bits.

    Examples
    --------
    >>> import json
    >>> from fastcnn import random
    >>> text = json.dumps(random.get_state())
    >>> before = random.default_generator().random()
    >>> random.set_state(json.loads(text))
    >>> before == random.default_generator().random()
    True
    """
    return _generator.bit_generator.state


def set_state(state: dict[str, Any]) -> None:
    """Put the default generator back to a state that `get_state` returned.

    Parameters
    ----------
    state : dict
        A state of a PCG64 generator.

    Raises
    ------
    TypeError
        If `state` is not a dict.
    ValueError
        If it is not the state of a PCG64 generator. The generator is then unchanged.

    Examples
    --------
    >>> from fastcnn import random
    >>> random.set_state({"bit_generator": "MT19937"})
    Traceback (most recent call last):
        ...
    ValueError: state: expected the state of a PCG64 generator, got {'bit_generator': 'MT19937'}
    """
    if not isinstance(state, dict):
        raise TypeError(f"state: expected a dict from get_state, got {state!r}")
    trial = np.random.PCG64(0)
    wrong = f"state: expected the state of a PCG64 generator, got {state!r}"
    try:
        trial.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(wrong) from error
    if trial.state != state:  # NumPy truncates fractions
        raise ValueError(wrong)
    _generator.bit_generator.state = state

"""Checks of arguments that choose between a few ways to do something."""

from __future__ import annotations

import numpy as np

from fastcnn.functional import _checks as check


def flag(name: str, value: object) -> bool:
    """Check a bool."""
    if not isinstance(value, (bool, np.bool_)):
        check.fail(name, "a bool", check.shown(value), TypeError)
    return bool(value)


def choice(name: str, value: object, *allowed: str) -> str:
    """Check a string that must be one of a few."""
    if not isinstance(value, str) or value not in allowed:
        check.fail(name, f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}", check.shown(value))
    return value

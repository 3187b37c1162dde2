"""Packages of the ``train`` extra, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(name: str, purpose: str) -> ModuleType:
    """Import module `name`; where its package is missing, say what for and how to install it."""
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed: pip install 'fastcnn[train]'", name=package
        ) from None

"""Checkpoints: one safetensors file that holds a whole run, written so that a kill at any moment does no harm.

The tensors are ``model.*`` (the state dict), ``optimizer.*`` and whatever arrays callbacks keep. All else (counters,
schedule, generator state, history) is JSON in the file's metadata, in which ``{"$tensor": name}`` stands for an array.
Nothing is ever pickled, so reading a file runs no code of it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastcnn.config import __version__
from fastcnn.functional import _checks as check
from fastcnn.nn import Module, Preprocessing
from fastcnn.training._extras import require
from fastcnn.training.history import TrainingState

if TYPE_CHECKING:
    from fastcnn.training.callbacks import Callback
    from fastcnn.training.trainer import Trainer

_METADATA = "fastcnn.checkpoint"
_PREPROCESSING = "fastcnn.preprocessing"
_FORMAT = 1
_PARTS = ("model", "optimizer", "state", "random", "kinds", "extra")


class CheckpointError(ValueError):
    """A file that is not a whole checkpoint, or one of another model or run. The message names the file."""


def save_weights(model: Module, path: str | os.PathLike[str]) -> None:
    """Save a model's parameters and buffers as a plain safetensors state dict, its preprocessing in the metadata.

    Parameters
    ----------
    model : Module
        The model.
    path : str or path
        The file; it is replaced only once the new one is safely on the disk.

    Raises
    ------
    OSError
        The file cannot be written. An older file of that name is then as it was.
    ModuleNotFoundError
        safetensors is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastcnn import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "linear.safetensors")
    ...     save_weights(nn.Linear(2, 3), path)
    ...     load_weights(nn.Linear(2, 3), path)
    """
    preprocessing = _preprocessing_of(model)
    _write(path, model.state_dict(), {} if preprocessing is None else {_PREPROCESSING: json.dumps(preprocessing)})


def load_weights(model: Module, path: str | os.PathLike[str]) -> None:
    """Load parameters and buffers by name, from a plain state dict (as PyTorch users save) or from a checkpoint.

    Parameters
    ----------
    model : Module
        A model of the same shape. When anything is wrong it is not changed. If the file has a preprocessing, the model
        gets it; otherwise ``model.preprocessing`` stays as it is.
    path : str or path
        A safetensors file.

    Raises
    ------
    CheckpointError
        The file is damaged or foreign, or names or shapes differ from the model's: the message lists all that do.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        safetensors is not installed.

    Notes
    -----
    In PyTorch, ``safetensors.torch.save_file(model.state_dict(), path)`` writes such a file.
    """
    tensors, tree, preprocessing = _read(path)
    with _naming(path):
        model.load_state_dict(tensors if tree is None else tree["model"])
    if preprocessing is not None:
        model.preprocessing = preprocessing


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint without loading it into anything.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    dict
        ``version`` (of the fastcnn that wrote it), ``model``, ``optimizer``, ``state`` (epoch, batch, history and so
        on), ``random``, ``kinds`` (names of classes), ``extra`` (what `Checkpoint` was given), and where the run has
        them ``preprocessing`` (the arguments of `nn.Preprocessing`), ``schedule`` and ``callback.0``, ...

    Raises
    ------
    CheckpointError
        The file is truncated, foreign or of another format; the message says which.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        safetensors is not installed.
    """
    _, tree, _ = _read(path)
    if tree is None:
        raise CheckpointError(
            f"{os.fspath(path)}: expected a fastcnn checkpoint, got a safetensors file without its metadata "
            "(load_weights reads plain state dicts)"
        )
    return tree


def save_checkpoint(
    path: str | os.PathLike[str],
    trainer: Trainer,
    state: TrainingState,
    callbacks: Sequence[Callback] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save everything that a run needs to go on exactly as if it had never stopped.

    Parameters
    ----------
    path : str or path
        The file. The new one is written beside it under a temporary name, synced, and renamed over the old one, so
        that at every moment one of the two is there, whole. (A process that is killed while it writes leaves the
        temporary file, ``.<name>.<random>.tmp``.)
    trainer : Trainer
        Its model, optimizer and schedule are saved.
    state : TrainingState
        Where the run stands.
    callbacks : sequence of Callback
        Those that have a state are saved.
    extra : mapping, optional
        Anything else worth keeping that JSON can hold.

    Raises
    ------
    OSError
        The file cannot be written. The old one is then as it was, and no temporary file is left.
    ModuleNotFoundError
        safetensors is not installed.
    """
    tree = {
        "format": _FORMAT,
        "version": __version__,
        "kinds": _kinds(trainer, callbacks),
        "extra": dict(extra or {}),
    }
    tree |= {name: part.state_dict() for name, part in _parts(trainer, state, callbacks).items()}
    preprocessing = _preprocessing_of(trainer.model)
    if preprocessing is not None:
        tree["preprocessing"] = preprocessing
    tensors: dict[str, np.ndarray] = {}
    tree = {name: _pack(value, name, tensors) for name, value in tree.items()}
    _write(path, tensors, {_METADATA: json.dumps(tree)})


def load_checkpoint(
    path: str | os.PathLike[str],
    trainer: Trainer,
    state: TrainingState,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Put model, optimizer, schedule, run state, callbacks and random generators back to a checkpoint.

    The model gets the preprocessing that the run saved; a file of an older version has none, and changes none.

    Parameters
    ----------
    path : str or path
        A file that `save_checkpoint` wrote.
    trainer, state, callbacks
        As for `save_checkpoint`, of the same kinds; `state.settings` must be those of the run that was saved.

    Raises
    ------
    CheckpointError
        The file is damaged, or of another model, optimizer or run. Nothing is changed.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        safetensors is not installed.

    Examples
    --------
    `Trainer.fit` does this by ``checkpoint=`` and ``resume=``. By hand:

    >>> import os, tempfile
    >>> from fastcnn import Trainer, nn, optim
    >>> def build():
    ...     layer = nn.Linear(2, 3)
    ...     return Trainer(layer, optim.Adam(layer.parameters()))
    >>> first, second = build(), build()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.safetensors")
    ...     save_checkpoint(path, first, TrainingState(step=7))
    ...     state = TrainingState()
    ...     load_checkpoint(path, second, state)
    >>> state.step, bool((first.model.weight.data == second.model.weight.data).all())
    (7, True)
    """
    tree = read_checkpoint(path)
    preprocessing = _preprocessing_in(path, tree)
    parts = _parts(trainer, state, callbacks)
    with _naming(path):
        for what, kind in _kinds(trainer, callbacks).items():
            if tree["kinds"][what] != kind:
                check.fail(what, f"{tree['kinds'][what]}, as the run was saved", kind)
        before = {}
        try:
            for name, part in parts.items():
                before[name] = copy.deepcopy(part.state_dict())
                part.load_state_dict(tree[name])
        except BaseException:
            for name, value in before.items():
                parts[name].load_state_dict(value)
            raise
    if preprocessing is not None:
        trainer.model.preprocessing = preprocessing


def _preprocessing_of(model: Module) -> dict[str, Any] | None:
    """Return what is saved of a model's preprocessing; a user's own attribute of that name is left alone."""
    known = model.preprocessing
    return known.state_dict() if isinstance(known, Preprocessing) else None


def _preprocessing_in(path: str | os.PathLike[str], tree: Mapping[str, Any] | None) -> Preprocessing | None:
    """Return the preprocessing of what was read from a file, if it has one."""
    if not isinstance(tree, Mapping) or "preprocessing" not in tree:
        return None
    with _naming(path):
        return Preprocessing.from_state_dict(tree["preprocessing"])


def _parts(trainer: Trainer, state: TrainingState, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Return what has a state, by the name it is saved under."""
    parts: dict[str, Any] = {
        "model": trainer.model,
        "optimizer": trainer.optimizer,
        "state": state,
        "random": trainer.generators,
    }
    if trainer.schedule is not None:
        parts["schedule"] = trainer.schedule
    stateful = [callback for callback in callbacks if callback.state_dict()]
    return parts | {f"callback.{i}": callback for i, callback in enumerate(stateful)}


def _kinds(trainer: Trainer, callbacks: Sequence[Callback]) -> dict[str, str]:
    """Return the class names of what a run is made of; a resumed run must have the same."""
    stateful = [type(callback).__name__ for callback in callbacks if callback.state_dict()]
    return {
        "optimizer": type(trainer.optimizer).__name__,
        "schedule": "none" if trainer.schedule is None else type(trainer.schedule).__name__,
        "loss": type(trainer.loss).__name__,
        "parameters": ", ".join(sorted({parameter.dtype.name for parameter in trainer.model.parameters()})),
        "callbacks": ", ".join(stateful) or "none",
    }


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]):
    """Turn what a wrong content raises into a CheckpointError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        message = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{os.fspath(path)}: {message}") from error


def _pack(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """Move the arrays in `value` to `tensors` and return the rest as JSON can hold it."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, Mapping):
        return {str(key): _pack(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$tensor"}:
            return tensors[value["$tensor"]]
        return {key: _unpack(item, tensors) for key, item in value.items()}
    return [_unpack(item, tensors) for item in value] if isinstance(value, list) else value


def _write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file so that the old or the new one is there at every moment."""
    safetensors = require("safetensors.numpy", "saving a checkpoint")
    contents = safetensors.save({name: np.array(value, order="C") for name, value in tensors.items()}, metadata)
    target = os.path.realpath(path)  # a link stays a link
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(folder)
    except OSError as error:
        reason = f"the checkpoint is not saved: {os.strerror(error.errno)}"
        raise OSError(error.errno, reason, os.fspath(path)) from error


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None, Preprocessing | None]:
    """Return a file's tensors, and where it has them its unpacked checkpoint tree and the preprocessing."""
    safetensors = require("safetensors", "reading a checkpoint")
    path = os.fspath(path)
    with open(path, "rb"):  # OSError with number and name for what is missing, forbidden or a folder
        pass
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        problem = f"expected a whole safetensors file, got a truncated or foreign one ({error})"
        raise CheckpointError(f"{path}: {problem}") from error
    except TypeError as error:  # bfloat16 and the 8-bit floats
        raise CheckpointError(f"{path}: expected tensors of types that NumPy has, got another ({error})") from error
    if _METADATA not in metadata:
        if _PREPROCESSING not in metadata:
            return tensors, None, None
        with _naming(path):
            return tensors, None, Preprocessing.from_state_dict(json.loads(metadata[_PREPROCESSING]))
    try:
        tree = json.loads(metadata[_METADATA])
        written_by, number = tree["version"], tree["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected the metadata of a fastcnn checkpoint, got damaged metadata") from error
    if number != _FORMAT:
        raise CheckpointError(
            f"{path}: expected checkpoint format {_FORMAT}, got format {number}, written by fastcnn {written_by}"
        )
    missing = [name for name in _PARTS if name not in tree]
    if missing:
        raise CheckpointError(f"{path}: expected a whole checkpoint, got one without {', '.join(missing)}")
    with _naming(path):
        tree = _unpack(tree, tensors)
    return tensors, tree, _preprocessing_in(path, tree)

"""Readers of data-set files: IDX (MNIST, Fashion-MNIST) and CIFAR-10's binary layout, plain or compressed.

A file that is cut short or altered raises a ValueError that names the file and says what is wrong with it.
"""

from __future__ import annotations

import gzip
import io
import math
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
CIFAR_IMAGE = (3, 32, 32)
CIFAR_RECORD = 1 + math.prod(CIFAR_IMAGE)
CIFAR_RECORDS = 10_000


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, decompressed where they start as gzip data does.

    Parameters
    ----------
    path : Path
        The file; its name does not matter.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the gzip data is cut short or damaged.
    OSError
        If the file cannot be read.
    """
    data = path.read_bytes()
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip data: {error}") from error


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The file, plain or gzipped.
    ndim : int
        The number of dimensions that it must have: 3 for images, 1 for labels.

    Returns
    -------
    ndarray
        uint8, read-only, of the shape in the file's header.

    Raises
    ------
    ValueError
        If the file does not start with the magic number of such a file, or has another length than its header says.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", section "File formats" (1998).
    """
    data = read_bytes(path)
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if data[:4] != magic:
        raise ValueError(
            f"{path}: not an IDX file of {ndim}-D unsigned bytes: expected it to start with 0x{magic.hex()}, "
            f"got {f'0x{data[:4].hex()}' if data else 'an empty file'}"
        )
    if len(data) < header:
        raise ValueError(f"{path}: truncated IDX header: expected {header} bytes, got {len(data)}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", ndim, offset=4))
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise ValueError(f"{path}: expected {expected} bytes for shape {shape}, got {len(data)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def parse_cifar(data: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of CIFAR-10's binary layout: records of a label byte and 3x32x32 pixel bytes.

    Parameters
    ----------
    data : bytes
        The file's content.
    source : str
        What to call the file in an error.

    Returns
    -------
    images, labels : ndarray
        uint8 (10000, 32, 32, 3) and uint8 (10000,).

    Raises
    ------
    ValueError
        If the length is not that of 10,000 records.

    References
    ----------
    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report (2009).
    """
    if len(data) != CIFAR_RECORDS * CIFAR_RECORD:
        raise ValueError(
            f"{source}: expected {CIFAR_RECORDS * CIFAR_RECORD} bytes "
            f"({CIFAR_RECORDS} records of {CIFAR_RECORD}), got {len(data)}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    images = records[:, 1:].reshape(-1, *CIFAR_IMAGE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0]


def read_tar_members(path: Path, names: tuple[str, ...]) -> list[bytes]:
    """Read files out of a tar archive, into memory.

    Parameters
    ----------
    path : Path
        The archive, plain or gzipped.
    names : tuple of str
        File names without their folders.

    Returns
    -------
    list of bytes
        In the order of `names`.

    Raises
    ------
    ValueError
        If the archive is damaged, or lacks one of the files.
    """
    found: dict[str, bytes] = {}
    data = io.BytesIO(read_bytes(path))  # whole, so that gzip compares its check sum
    try:
        with tarfile.open(fileobj=data, mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in names:
                    found[name] = archive.extractfile(member).read()
    except tarfile.TarError as error:
        raise ValueError(f"{path}: damaged or truncated tar archive: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: the archive lacks {', '.join(missing)}")
    return [found[name] for name in names]


def check_labels(labels: np.ndarray, classes: int, source: str) -> None:
    """Raise a ValueError that names `source` if a label is not one of 0 to `classes` - 1."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise ValueError(f"{source}: expected labels from 0 to {classes - 1}, got {labels[wrong[0]]} at {wrong[0]}")

"""Readers of data-set files: IDX (MNIST, Fashion-MNIST), CIFAR-10's binary layout, plain or compressed, and npz.

A file that is cut short or altered raises a ValueError that names the file and says what is wrong with it. No reader
takes more memory than the right file needs, or than the file's own header announces and the file holds.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
CIFAR_IMAGE = (3, 32, 32)
CIFAR_RECORD = 1 + math.prod(CIFAR_IMAGE)
CIFAR_RECORDS = 10_000
ARCHIVE_BYTES = 1 << 29  # CIFAR-10's has 184 MB, uncompressed
CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed where it starts as gzip data does; its name does not matter.

    Raises
    ------
    ValueError
        If, inside the with statement, gzip data turns out to be cut short or damaged.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if compressed else file  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged or truncated gzip data: {error}") from error


def read_from(stream: IO[bytes], most: int) -> bytes:
    """Return the next bytes of a stream, to its end or `most`; memory is taken as they come."""
    chunks = []
    while most > 0 and (chunk := stream.read(min(most, CHUNK_BYTES))):
        chunks.append(chunk)
        most -= len(chunk)
    return b"".join(chunks)


def read_bytes(path: Path, most: int) -> bytes:
    """Return the bytes of a file, decompressed where they start as gzip data does.

    Parameters
    ----------
    path : Path
        The file; its name does not matter.
    most : int
        The bytes that the right file has, or may have.

    Returns
    -------
    bytes
        `most` + 1 of them where there are more.

    Raises
    ------
    ValueError
        If the gzip data is cut short or damaged.
    OSError
        If the file cannot be read.
    """
    with opened(path) as stream:
        return read_from(stream, most + 1)


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
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    with opened(path) as stream:
        data = read_from(stream, header)
        if data[:4] != magic:
            raise ValueError(
                f"{path}: not an IDX file of {ndim}-D unsigned bytes: expected it to start with 0x{magic.hex()}, "
                f"got {f'0x{data[:4].hex()}' if data else 'an empty file'}"
            )
        if len(data) < header:
            raise ValueError(f"{path}: truncated IDX header: expected {header} bytes, got {len(data)}")
        shape = tuple(int(size) for size in np.frombuffer(data, ">u4", ndim, offset=4))
        expected = math.prod(shape)
        data = read_from(stream, expected + 1)
    if len(data) != expected:
        more = " or more" if len(data) > expected else ""
        raise ValueError(
            f"{path}: expected {header + expected} bytes for shape {shape}, got {header + len(data)}{more}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


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
    expected = CIFAR_RECORDS * CIFAR_RECORD
    if len(data) != expected:
        more = " or more" if len(data) > expected else ""
        raise ValueError(
            f"{source}: expected {expected} bytes ({CIFAR_RECORDS} records of {CIFAR_RECORD}), got {len(data)}{more}"
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
    data = read_bytes(path, ARCHIVE_BYTES)  # whole, so that gzip compares its check sum
    if len(data) > ARCHIVE_BYTES:
        raise ValueError(f"{path}: expected an archive of at most {ARCHIVE_BYTES} bytes, got more")
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                if not 0 <= member.size <= len(data):  # tarfile goes back in a file by a negative size, for ever
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                name = PurePosixPath(member.name).name
                if member.isfile() and name in names:
                    found[name] = archive.extractfile(member).read()
    except Exception as error:  # beside its own errors, tarfile's are those of int(), seek(), slices, ...
        raise ValueError(f"{path}: damaged or truncated tar archive: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: the archive lacks {', '.join(missing)}")
    return [found[name] for name in names]


def read_npz(path: Path, **shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Read arrays of uint8 out of an npz file.

    Parameters
    ----------
    path : Path
        The file.
    **shapes : tuple of int
        The arrays' names and shapes.

    Returns
    -------
    list of ndarray
        In the order of `shapes`.

    Raises
    ------
    ValueError
        If the file is damaged, lacks an array, or has one of another type or shape.
    OSError
        If the file cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.errstate(all="ignore"), np.load(content, allow_pickle=False) as archive:
            arrays = [np.asarray(archive[name]) for name in shapes]  # a member that is no array is read as bytes
    except Exception as error:  # zipfile's, zlib's and NumPy's errors are of a dozen types
        raise ValueError(f"{path}: damaged or truncated npz file: {error}") from error
    for array, (name, shape) in zip(arrays, shapes.items(), strict=True):
        if array.dtype != np.uint8 or array.shape != shape:
            raise ValueError(f"{path}: {name}: expected uint8 of shape {shape}, got {array.dtype} of {array.shape}")
    return arrays


def check_labels(labels: np.ndarray, classes: int, source: str) -> None:
    """Raise a ValueError that names `source` if a label is not one of 0 to `classes` - 1."""
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise ValueError(f"{source}: expected labels from 0 to {classes - 1}, got {labels[wrong[0]]} at {wrong[0]}")

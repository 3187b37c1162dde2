"""Where data-set files are looked for, and how they are fetched where no folder has them."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FASTCNN_DATA"
# Where Debian's dataset-... packages put their files is a `datasets` folder in the first of these.
SYSTEM_SHARES = tuple(dict.fromkeys((Path("/usr/share"), Path("/usr/local/share"), Path(sys.prefix, "share"))))


@dataclass(frozen=True)
class Source:
    """The files of one data set.

    Parameters
    ----------
    name : str
        The data set's name in fastcnn.
    subfolders : tuple of str
        Folders that may hold it inside a folder of data sets; the first is the one downloads go to.
    layouts : dict of str to tuple of tuple of str
        For each split, the sets of files that hold it, any of which will do. Each file may be gzipped, with `.gz`
        added to its name. The last set is the one that is downloaded, gzipped.
    url : str
        Folder on the web that holds the gzipped files.
    sha256 : dict of str to str
        The published sum of each gzipped file.
    advice : str
        Another way to get the files, for the error message.
    """

    name: str
    subfolders: tuple[str, ...]
    layouts: dict[str, tuple[tuple[str, ...], ...]]
    url: str
    sha256: dict[str, str]
    advice: str = ""


def cache_dir() -> Path:
    """Return the folder of this user's downloads, which may not exist yet.

    Returns
    -------
    Path
        `fastcnn` in `$XDG_CACHE_HOME` or `~/.cache`; on macOS in `~/Library/Caches`, on Windows in `%LOCALAPPDATA%`.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastcnn"


def search_roots(data_dir: str | os.PathLike | None) -> list[tuple[str, Path]]:
    """Return the folders of data sets to look in, in order, each with what named it.

    Parameters
    ----------
    data_dir : path or None
        The caller's folder.

    Returns
    -------
    list of tuple of str and Path
        For example ("FASTCNN_DATA", Path("/data")).
    """
    given = [("data_dir", data_dir), (VARIABLE, os.environ.get(VARIABLE))]
    roots = [(origin, Path(root).expanduser()) for origin, root in given if root]
    roots += [("system", share / "datasets") for share in SYSTEM_SHARES]
    return [*roots, ("cache", cache_dir())]


def find(
    source: Source, split: str, data_dir: str | os.PathLike | None, others: frozenset[str], download: bool
) -> list[Path]:
    """Return the paths of the files of one split, downloaded if no folder has them.

    Parameters
    ----------
    source : Source
        The data set.
    split : str
        A key of `source.layouts`.
    data_dir : path or None
        The folder to look in first.
    others : frozenset of str
        Folder names of other data sets: such a folder is searched for subfolders, but not itself. MNIST's and
        Fashion-MNIST's files have the same names and sizes, and only the folder tells them apart.
    download : bool
        Whether to download what no folder has.

    Returns
    -------
    list of Path
        One set of files of `source.layouts[split]`.

    Raises
    ------
    FileNotFoundError
        If no folder has the files and they could not be downloaded; says where was looked and how to get them.
    ValueError
        If a downloaded file does not have its published sum.
    """
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise FileNotFoundError(f"data_dir: expected an existing folder, got {str(data_dir)!r}")
    layouts = source.layouts[split]
    searched = []
    for origin, root in search_roots(data_dir):
        folders = [root / subfolder for subfolder in source.subfolders]
        if root.absolute().name not in others:
            folders.append(root)
        note = "" if root.is_dir() else f" (no folder {root})"
        searched.append(f"  {origin}: {', '.join(map(str, folders))}{note}")
        for folder in folders:
            for layout in layouts:
                paths = [path for name in layout if (path := plain_or_gzipped(folder / name))]
                if len(paths) == len(layout):
                    return paths
                if paths:
                    searched.append(f"    (found only {', '.join(map(str, paths))})")

    names = [f"{name}.gz" for name in layouts[-1]]
    reason = "Downloading was not asked for."
    if download:
        try:
            return fetch(source, names)
        except ImportError as error:
            reason = f"To download it, install what fastcnn[train] needs ({error})."
        except OSError as error:
            reason = f"Downloading failed: {error}"
    wanted = "\n  or ".join(", ".join(layout) for layout in layouts)
    places = "\n".join(searched)
    urls = " and ".join(source.url + name for name in names)
    raise FileNotFoundError(
        f"data set {source.name!r}: the {split} files were not found. Looked for (plain, or gzipped as .gz)\n"
        f"  {wanted}\nin\n{places}\n{reason}\n"
        f"To get it by hand, put {urls}\n"
        f"into a folder, and name that folder by data_dir (--data-dir) or {VARIABLE}.{source.advice}"
    )


def plain_or_gzipped(path: Path) -> Path | None:
    """Return the path as it is or with `.gz` added, whichever is a file, or None."""
    gzipped = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else gzipped if gzipped.is_file() else None


def fetch(source: Source, names: list[str]) -> list[Path]:
    """Download files into the user's cache, and check their sums.

    Parameters
    ----------
    source : Source
        The data set.
    names : list of str
        Keys of `source.sha256`.

    Returns
    -------
    list of Path
        The files in the cache.

    Raises
    ------
    ImportError
        If pooch, or what it needs for HTTP, is not installed.
    OSError
        If the download fails.
    ValueError
        If a file does not have its published sum; it is not kept.
    """
    import pooch

    downloader = pooch.HTTPDownloader(progressbar=importlib.util.find_spec("tqdm") is not None)
    folder = cache_dir() / source.subfolders[0]
    paths = []
    for name in names:
        known = f"sha256:{source.sha256[name]}"
        try:
            paths.append(Path(pooch.retrieve(source.url + name, known, name, folder, downloader=downloader)))
        except ValueError as error:
            raise ValueError(f"{source.url}{name}: not the published file, so it was not kept: {error}") from error
    return paths

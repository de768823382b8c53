"""Weights from elsewhere: a file that the manifest names by URL and SHA-256, fetched once into ``data/cache/``.

A file is used only after its SHA-256 was compared with the manifest's; what does not match is deleted. Until then it
lies beside its place as ``….part``, from which a download that was cut off goes on (HTTP range requests, RFC 9110,
§14). Several processes may ask for the same file: one fetches it, the others wait.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from tqdm import tqdm

from ..errors import UserError
from ..provenance import ROOT

__all__ = ["CACHE", "check_url", "fetch"]

CACHE = ROOT / "data" / "cache" / "checkpoints"
"""Where downloads are kept."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
CHUNK = 1 << 16
"""Bytes of a piece; of a piece that did not come whole nothing is kept."""
TIMEOUT = (10, 60)
"""Seconds until a connection stands, and between two pieces of an answer."""


def check_url(url: str) -> None:
    """Compare a URL with what may be fetched: https, or http from this machine itself.

    Raises:
        UserError: for any other scheme or host, or no URL at all.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{url!r} is not a URL; https://… is needed") from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise UserError(f"{url} is not fetched; a URL that begins with https:// is needed")


def fetch(url: str, sha256: str, name: str, size: int | None = None, cache: Path | None = None) -> Path:
    """The file at a URL, from the cache or fetched into it.

    Args:
        url: where it lies; https, or http on this machine.
        sha256: its SHA-256 in hexadecimal.
        name: its name, without a folder.
        size: its length in bytes, if known.
        cache: the folder of downloads; default :data:`CACHE`.

    Returns:
        The path of a file with this SHA-256.

    Raises:
        UserError: if the URL, the name or the SHA-256 is not allowed, the server cannot be reached or has no such
            file, the connection broke off (what came is kept, and the next call goes on from there), the disk has no
            room, or the content is another one (then nothing is kept).
    """
    check_url(url)
    if not name or Path(name).name != name:
        raise UserError(f"{name!r} is not the name of a file; a name without a folder is needed")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UserError(f"{sha256!r} is not a SHA-256; 64 hexadecimal digits are needed to check {url}")
    target = Path(cache or CACHE) / f"{sha256[:12]}-{name}"
    try:
        return _fetch(url, sha256, target, size)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; room and rights are needed there") from None


def _fetch(url: str, sha256: str, target: Path, size: int | None) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    with FileLock(target.with_name(f"{target.name}.lock")):
        if target.exists() and _digest(target) == sha256:
            return target
        partial.touch()
        if _digest(partial) != sha256:  # it is whole where a process ended just before the renaming
            _download(url, partial, size)
        if _digest(partial) != sha256:
            got = partial.stat().st_size
            partial.unlink()
            expected = "" if size in (None, got) else f", {got} bytes instead of {size}"
            raise UserError(f"{url} does not have the SHA-256 that its manifest states{expected}; it is not used")
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    return target


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, partial: Path, size: int | None) -> None:
    """Append to a partial file what it lacks, in as many requests as it takes while each of them brings something."""
    parts = urlsplit(url)
    with requests.Session() as session:
        # Redirects lead to nothing but https, and the server of this machine that was asked for.
        session.adapters.pop("http://")
        if parts.scheme == "http":
            session.mount(f"http://{parts.netloc}/", requests.adapters.HTTPAdapter())
        while True:
            had = partial.stat().st_size
            try:
                return _request(session, url, partial, had, size)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                got = partial.stat().st_size
                if got > had:
                    continue
                problem = "the server cannot be reached" if not got else f"the connection breaks off at byte {got}"
                advice = "the same command goes on from there once the network does"
            except requests.HTTPError as error:
                assert error.response is not None
                if had and error.response.status_code == 416:  # Range Not Satisfiable: no part of this file
                    partial.write_bytes(b"")
                    continue
                problem = f"the server says {error.response.status_code} {error.response.reason}"
                advice = "the manifest needs another URL"
            except requests.RequestException as error:  # too many redirects, or one to another scheme
                problem, advice = str(error), "the manifest needs another URL"
            if not partial.stat().st_size:
                partial.unlink()
            raise UserError(f"cannot fetch {url}: {problem}; {advice}")


def _request(session: requests.Session, url: str, partial: Path, had: int, size: int | None) -> None:
    """One request for the rest of a file, or for all of it where the server knows no ranges."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        if answer.status_code != 206:
            had = 0
        rest = answer.raw.length_remaining or 0  # by its Content-Length, if it has one
        if rest > (free := shutil.disk_usage(partial.parent).free):
            partial.unlink()
            raise UserError(f"{url} needs {rest} bytes and {partial.parent} has {free} free; more room is needed")
        total = size or (had + rest) or None
        bar = tqdm(
            desc=partial.name.removesuffix(".part"), total=total, initial=had, unit="B", unit_scale=True, disable=None
        )
        with bar, open(partial, "ab" if had else "wb") as file:
            for piece in answer.iter_content(CHUNK):
                file.write(piece)
                bar.update(len(piece))
                had += len(piece)
                if size is not None and had > size:
                    return  # another file than the manifest's; its hash will say so

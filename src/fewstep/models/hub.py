"""A model hub: what it says that it has (:func:`resolve`), and the files of a pin (:func:`fetch`).

Files are kept in ``data/cache/hub``; there, a download that was cut off goes on. All errors of ``huggingface_hub``
become one line.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UserError
from ..provenance import ROOT
from .checkpoints import sha256
from .pins import AGAIN, COMMIT, FILE, SHA256, Pin

__all__ = ["CACHE", "fetch", "resolve"]

CACHE = ROOT / "data" / "cache" / "hub"
"""Where files are kept."""


class NoSuchFileError(UserError):
    """A hub's repository does not have a file."""


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _page(repository: str, endpoint: str | None) -> str:
    from huggingface_hub import constants

    return f"{(endpoint or constants.ENDPOINT).rstrip('/')}/{repository}"


@contextlib.contextmanager
def _one_line(name: str, page: str, revision: str, file: str) -> Iterator[None]:
    """Say in one line why a hub does not give a file.

    Raises:
        NoSuchFileError: if the repository has no such file.
        UserError: for any other reason.
    """
    from huggingface_hub import errors

    try:
        yield
        return
    except UserError:
        raise
    except errors.GatedRepoError:
        reason = f"{name} is gated: accept its terms at {page}, then log in with 'hf auth login'"
    except errors.RepositoryNotFoundError:
        reason = f"there is no {page}, or it is private; another source is needed in data/models.yml"
    except errors.RevisionNotFoundError:
        advice = f"name another one or none in data/models.yml, then {AGAIN.format(name)}"
        reason = f"{page} has no revision {revision}; {advice}"
    except errors.RemoteEntryNotFoundError:
        reason = f"{page} has no file {file} at revision {revision}; another source is needed in data/models.yml"
        raise NoSuchFileError(reason) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        reason = f"{file} of {name} is not in {CACHE} and {page} cannot be reached; run it once with a network"
    except Exception as error:  # of its HTTP client and the file system, each by its own name
        reason = f"cannot fetch {file} of {name} from {page}: {first_line(error)}; the same command goes on from there"
    raise UserError(reason)


def resolve(
    name: str, repository: str, revision: str | None, weights: Iterable[Sequence[str]], endpoint: str | None = None
) -> Pin:
    """What a hub says that it has: the commit of a revision, and the SHA-256 of the weights; nothing is fetched.

    Args:
        name: of the network, for messages.
        repository: owner/name.
        revision: a commit; default the last one of ``main``.
        weights: for each file of weights the names that it may have; the first that is there is taken.
        endpoint: the hub's address; default that of ``huggingface_hub``.

    Raises:
        UserError: if the hub cannot be reached, does not have all that, or states no SHA-256.
    """
    found = {}
    for names in weights:
        file, revision, digest = _stated(name, repository, revision or "main", names, endpoint)
        found[file] = digest
    return Pin(hub=repository, revision=revision, sha256=found)


def _stated(
    name: str, repository: str, revision: str, names: Sequence[str], endpoint: str | None
) -> tuple[str, str, str]:
    """The first of these files that is there, its commit and its SHA-256."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    page = _page(repository, endpoint)
    missing: NoSuchFileError | None = None
    for file in names:
        url = hf_hub_url(repository, file, revision=revision, endpoint=endpoint)
        try:
            with _one_line(name, page, revision, file):
                try:
                    answer = get_hf_file_metadata(url, endpoint=endpoint)
                except errors.HfHubHTTPError:
                    raise
                except Exception as error:  # of its HTTP client
                    reason = f"{page} cannot be reached ({first_line(error)})"
                    raise UserError(f"{reason}, which pinning {name} needs once; run it with a network") from None
        except NoSuchFileError as error:
            missing = missing or error
            continue
        commit, digest = answer.commit_hash or "", answer.etag or ""  # of a file in Git LFS, the ETag is its SHA-256
        known = re.fullmatch(COMMIT, commit) and revision in ("main", commit) and re.fullmatch(SHA256, digest)
        if not known:
            what = f"{page} states no commit or no SHA-256 of {file} at revision {revision}"
            raise UserError(f"{what}; another source is needed in data/models.yml")
        return file, commit, digest
    assert missing is not None
    raise missing


def fetch(
    name: str, pin: Pin, others: Iterable[str], endpoint: str | None = None, *, pinned: bool
) -> dict[str, Path]:
    """The weights of a pin and other files of its commit, from the cache or fetched into it.

    Args:
        name: of the network, for messages.
        pin: what is wanted.
        others: files beside the weights.
        endpoint: as in :func:`resolve`.
        pinned: whether the pin comes from the lock file; otherwise it is what the hub states.

    Raises:
        UserError: if a file is not there or cannot be fetched, or weights have another SHA-256; they are not kept if
            they were fetched just now.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    assert pin.hub is not None and pin.revision is not None
    found = {}
    for file in (*others, *pin.sha256):
        with _one_line(name, _page(pin.hub, endpoint), pin.revision, file):
            kept = try_to_load_from_cache(pin.hub, file, cache_dir=CACHE, revision=pin.revision)
            path = Path(hf_hub_download(pin.hub, file, revision=pin.revision, cache_dir=CACHE, endpoint=endpoint))
            if file in pin.sha256 and (digest := sha256(path)) != pin.sha256[file]:
                has, blob = f"{path} of {name} has SHA-256 {digest}", path.resolve()  # the path is a link
                who = f"{FILE} pins" if pinned else "the hub states"
                if isinstance(kept, str):
                    raise UserError(f"{has}, {who} {pin.sha256[file]}; delete {blob}, and it is fetched again")
                blob.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                again = f"; {AGAIN.format(name)}" if pinned else ""
                raise UserError(f"{has}, {who} {pin.sha256[file]}; it is not kept{again}")
        found[file] = path
    return found

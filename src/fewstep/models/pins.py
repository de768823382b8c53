"""What the papers' networks were resolved to: ``data/models.lock.json``, written here and kept in git.

``data/models.yml`` says which network is wanted; this file says of each which commit of the hub that is and which
content its weights have, as ``requirements.lock`` does for ``pyproject.toml``. The first use of a network enters it
(:func:`fewstep.models.zoo.load`), and so does ``fewstep pin``. From then on nothing else is loaded under its name
until ``fewstep pin --again`` replaces the entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ..errors import UserError
from ..files import complaint, write_atomically
from ..provenance import ROOT
from .declared import Hub, Record

__all__ = ["FILE", "Pin", "of", "read", "write"]

FILE = "data/models.lock.json"
"""Its place in the clone."""
AGAIN = "fewstep pin --again {} pins it anew"
"""What to do where another commit or content is meant."""
COMMIT, SHA256 = "^[0-9a-f]{40}$", "^[0-9a-f]{64}$"


class Pin(BaseModel):
    """What a network was resolved to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hub: str | None = Field(default=None, description="owner/name; none for a converted file")
    revision: str | None = Field(default=None, pattern=COMMIT, description="commit of the hub")
    sha256: dict[str, Annotated[str, Field(pattern=SHA256)]] = Field(min_length=1, description="of weights, by file")

    @model_validator(mode="after")
    def _consistent(self) -> Pin:
        if (self.hub is None) != (self.revision is None):
            raise ValueError("a hub's repository and its commit are stated together")
        return self

    def __str__(self) -> str:
        if self.hub is None:
            return f"SHA-256 {', '.join(self.sha256.values())}"
        return f"{self.hub} at {self.revision}"

    @property
    def short(self) -> str:
        """The same in few characters."""
        return f"commit {self.revision[:12]}" if self.revision else f"SHA-256 {next(iter(self.sha256.values()))[:12]}"

    def files(self, record: Record) -> dict[str, str]:
        """The file of weights of each part of a network."""
        return {part: file for part, names in record.weights.items() for file in names if file in self.sha256}

    def provenance(self, record: Record) -> dict[str, str]:
        """What the record of a measurement states of the network."""
        files = self.files(record)
        where = {"hub": self.hub, "revision": str(self.revision)} if self.hub else {"file": files["sha256"]}
        return where | {part: self.sha256[file] for part, file in files.items()}


Pins = dict[str, Pin]


def read(root: Path = ROOT) -> Pins:
    """The content of the lock file, by the networks' names; empty if there is none.

    Raises:
        UserError: if it does not fit its schema.
    """
    path = root / FILE
    try:
        return TypeAdapter(Pins).validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {complaint(error)}; restore it with git") from None


def of(name: str, record: Record, root: Path = ROOT) -> Pin | None:
    """What a network is pinned to; None before its first use.

    Raises:
        UserError: if that is not what its record names, or the lock file does not fit its schema.
    """
    pin, source = read(root).get(name), record.source
    if pin is None:
        return None
    if isinstance(source, Hub):
        wanted = source.hub + (f" at {source.revision}" if source.revision else "")
        same = pin.hub == source.hub and source.revision in (None, pin.revision)
    else:
        wanted, same = source.file, pin.hub is None
    files = pin.files(record)
    if not same or files.keys() != record.weights.keys() or len(files) != len(pin.sha256):
        has = f"{pin} ({', '.join(pin.sha256)})"
        raise UserError(f"{FILE} pins {name} to {has}, data/models.yml names {wanted}; {AGAIN.format(name)}")
    return pin


def write(new: Mapping[str, Pin], root: Path = ROOT, *, again: bool = False) -> bool:
    """Enter networks in the lock file; several processes may do so at once.

    Args:
        new: what the networks were resolved to, by name.
        root: the clone.
        again: replace what is there.

    Returns:
        Whether that changed the file.

    Raises:
        UserError: if one of them is pinned to something else by now, or the file cannot be written; nothing is then.
    """
    guard = root / "data" / "cache" / "models.lock.json.guard"
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(guard):
            pins = read(root)
            for name, pin in new.items():
                if not again and pins.get(name, pin) != pin:
                    raise UserError(f"{name} was pinned to {pins[name]} just now, not to {pin}; run it again")
            both = {**pins, **new}
            if changed := both != pins:
                text = json.dumps({name: both[name].model_dump(exclude_none=True) for name in sorted(both)}, indent=2)
                write_atomically(root / FILE, lambda path: path.write_text(text + "\n", encoding="utf-8"))
            return changed
    except OSError as error:
        raise UserError(f"cannot write {root / FILE}: {error.strerror or error}; room and rights are needed") from None

"""What was done to a store, by whom and when: lines that are added and never changed, each with the digest of the last.

A line that was changed, taken out or put in does not fit the one behind it. That the end was cut off shows by the
count and the digest that `trust.json` has of it. Who may write into the store may of course write all of it again: the
digest of the last line, copied elsewhere now and then, shows that, too.
"""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import BinaryIO, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.release import moment
from edgeq.errors import OutputError
from edgeq.install.store import Store, sync_directory
from edgeq.strict_json import read_model

__all__ = ["HISTORY", "Act", "Entry", "Head", "append", "read_history"]

HISTORY: Final = "history.jsonl"
"""The file, in the store's directory."""

_NOTHING: Final = "0" * 64
_MODE: Final = 0o644
_SHOWN: Final = 300

Act = Literal["install", "failed", "rollback", "keys", "revoke"]


class Entry(BaseModel):
    """One thing that was done.

    Attributes:
        number: 1 for the first.
        before: SHA-256 of the line before, in hexadecimal; zeros for the first.
        at: when, by the device's clock, which may be wrong; the order of the lines is not.
        who: the user, and whom sudo was called by.
        did: `install`; `failed` its check; `rollback`; `keys`: a list of keys was taken; `revoke`: a key was revoked.
        id: of the version: SHA-256 of its manifest; of a list of keys, its number; of a key, its id.
        product, sequence: which release it is; None where it does not say so.
        signed_by: id of the key whose signature was checked; None where none was.
        because: why something was done that is refused otherwise, or a key revoked; empty for all else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.history/1"] = "edgeq.history/1"
    did: Act
    id: str
    number: int = 0
    before: str = _NOTHING
    at: str = ""
    who: str = ""
    product: str | None = None
    sequence: int | None = None
    signed_by: str | None = None
    because: str = ""


class Head(BaseModel):
    """The end of a history: how many lines there are, and the SHA-256 of the last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    digest: str = _NOTHING


def append(store: Store, entry: Entry) -> Head:
    """Add a line, which is on the disk when this returns; the lock must be held.

    Args:
        store: that something is done to.
        entry: what is done; its number, the line before, the moment and the user are filled in.

    Raises:
        OutputError: it cannot be written.
    """
    path = store.root / HISTORY
    new = not path.exists()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        with open(descriptor, "r+b") as file:
            head = _added(file, entry)
            file.flush()
            os.fsync(descriptor)
        if new:
            sync_directory(store.root)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return head


def _added(file: BinaryIO, entry: Entry) -> Head:
    """Write the line behind the last one, and tell the new end.

    What a power cut or a full disk left of a line was never told to anybody, and is cut off.
    """
    data = file.read()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        file.truncate(end)
    lines = _lines(data[:end])
    now = moment(datetime.now(timezone.utc))
    place = {"number": len(lines) + 1, "before": _digest(lines[-1]) if lines else _NOTHING, "at": now, "who": _who()}
    line = entry.model_copy(update=place).model_dump_json(exclude_none=True).encode()
    file.seek(0, os.SEEK_END)
    file.write(line + b"\n")
    return Head(number=len(lines) + 1, digest=_digest(line))


def read_history(store: Store, head: Head) -> tuple[tuple[Entry, ...], str]:
    """Every line that can be read, and what is wrong with them; empty where nothing is. No lock is needed.

    Args:
        store: to look into.
        head: the end, as `trust.json` knows it; there may be more, never less.
    """
    data = b""
    with suppress(FileNotFoundError):
        data = (store.root / HISTORY).read_bytes()
    entries, faults = list[Entry](), list[str]()
    digests = [_NOTHING]
    for number, line in enumerate(_lines(data[: data.rfind(b"\n") + 1]), start=1):
        try:
            entry = read_model(Entry, line)
        except ValueError:
            faults.append(f"line {number} is none")
        else:
            entries.append(entry)
            faults += _faults(entry, number, digests[-1])
        digests.append(_digest(line))
    if len(digests) <= head.number:
        faults.append(f"there are {len(digests) - 1} lines, and there were {head.number}")
    elif digests[head.number] != head.digest:
        faults.append(f"line {head.number} is not the one that was written")
    return tuple(entries), faults[0] if faults else ""


def _faults(entry: Entry, number: int, before: str) -> Iterator[str]:
    if entry.before != before:
        yield (
            f"line {number} does not follow line {number - 1}, one of which was changed"
            if number > 1
            else ("line 1 does not begin the history")
        )
    elif entry.number != number:
        yield f"line {number} has the number {entry.number}"


def _lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _who() -> str:
    """The user's name, and the name of whom sudo was called by."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    caller = os.environ.get("SUDO_USER", "")
    return f"{name} for {caller[:_SHOWN]}" if caller and caller.isprintable() else name

"""Who has a file open: one locked file for each store object, beside the file that they share.

Owns those files, `<name>-owner-<id>`. Refuses to believe in a process because its file is there: only the lock counts,
which the kernel lets go of however a process ends. To be used from one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import Final

_ID: Final = re.compile(r"[0-9a-f]{32}")  # nothing else becomes part of a path
_PRIVATE: Final = 0o600


class Presence:
    """The sign that one object is there, under its id, for a file. Every method but `leave` may raise `OSError`."""

    def __init__(self, path: Path, owner: str) -> None:
        self._directory = path.parent
        self._prefix = f"{path.name}-owner-"
        self._owner = owner
        self._descriptor: int | None = None

    def show(self) -> None:
        """Be there, if not already, until `leave`; what others left behind is cleared away at the first time."""
        own = self._file(self._owner)
        if self._descriptor is not None and not _is_at(self._descriptor, own):
            self._let_go()  # somebody has removed our file, so nobody sees its lock any more
        if self._descriptor is None:
            self._descriptor = _locked(own)
            for file in self._directory.iterdir():
                if file.name.startswith(self._prefix):
                    with contextlib.suppress(OSError):
                        self.is_there(file.name.removeprefix(self._prefix))

    def is_there(self, owner: str) -> bool:
        """Whether the object with that id is there; if it is not, nothing is left of it."""
        if owner == self._owner:
            return True
        if not _ID.fullmatch(owner):
            return False
        file = self._file(owner)
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two who look at the same time don't take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if not _is_at(descriptor, file):
                return self.is_there(owner)  # it is gone, or was made anew before it was locked
            file.unlink(missing_ok=True)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def leave(self) -> None:
        """Be there no more."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._file(self._owner).unlink(missing_ok=True)
            self._let_go()

    def _file(self, owner: str) -> Path:
        return self._directory / (self._prefix + owner)

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _locked(file: Path) -> int:
    """The descriptor of a file that we alone have locked, and that is where others look for it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # others hold it only while they look
            if _is_at(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # somebody took it for a dead one's before it was locked


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)

"""Notices that a file of the configuration has changed.

Owns the comparison of what files look like now and before. Refuses to read them, and to know of a loop or a clock.
Looking is deliberate: notifications of the kernel miss a directory that is swapped behind a symbolic link, as
Kubernetes does it, and some mounts send none; a look at a file costs microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_Signature = tuple[int, int, int, int, int] | None


class Watcher:
    """Watches files by what `stat` says of what they resolve to."""

    def __init__(self) -> None:
        self._seen: dict[Path, _Signature] = {}

    def watch(self, files: Iterable[Path]) -> None:
        """Watch these files, and no others.

        Those that were watched already keep what was last seen of them: what happened to them while a new version
        was being read would be missed otherwise.
        """
        self._seen = {path: self._seen[path] if path in self._seen else _signature(path) for path in files}

    def changed(self) -> bool:
        """Whether a file has changed, gone or come since it was last asked."""
        now = {path: _signature(path) for path in self._seen}
        changed = now != self._seen
        self._seen = now
        return changed


def _signature(path: Path) -> _Signature:
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, like opening it would
    except (OSError, ValueError):  # the latter for what can't be the name of a file
        return None
    # The last is also when its owner or its mode changed, so that it may be read where it could not be.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

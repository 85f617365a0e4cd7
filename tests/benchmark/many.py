"""`python -m tests.benchmark.many CONFIGURATION KEYS`: `dial-gateway serve`, but knowing the keys of another file.

A configuration file may not be large enough for a hundred thousand keys, and reading them is not what is to be
measured. So the gateway starts with what its configuration says, and its table of keys is exchanged before it is
asked anything. Each line of the other file is a digest, the service that it belongs to, and that service's account.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

from gateway.auth import ApiKey, ApiKeys
from gateway.model import Medium, Operation, Principal
from gateway.server import Server, event_loop


class _ServerOfMany(Server):
    def __init__(self, configuration: Path, keys: Path) -> None:
        super().__init__(configuration)
        self._keys = keys

    async def start(self) -> None:
        await super().start()
        gc.unfreeze()
        api = self._gateway.api
        api.runtime = dataclasses.replace(api.runtime, keys=ApiKeys(_read(self._keys)))
        gc.collect()
        gc.freeze()


def _read(file: Path) -> Iterator[ApiKey]:
    principals: dict[str, Principal] = {}
    with file.open(encoding="ascii") as lines:
        for line in lines:
            digest, service, account = line.split()
            if service not in principals:
                principals[service] = Principal(service, (account,), frozenset(Medium), frozenset(Operation))
            yield ApiKey(bytes.fromhex(digest), None, principals[service])


def main() -> int:
    """Serve until told to stop."""
    with asyncio.Runner(loop_factory=event_loop) as runner:
        return runner.run(_ServerOfMany(Path(sys.argv[1]), Path(sys.argv[2])).run())


if __name__ == "__main__":
    raise SystemExit(main())

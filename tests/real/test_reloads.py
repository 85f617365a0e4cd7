"""What a reload must leave as it was: the locks on a database, and accounts that are no more."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import yaml
from cryptography.fernet import Fernet

from gateway.simulator import Simulator
from tests.harness import KEY, Farm, merge, settings, until
from tests.running import Process

OPENED_AND_CLOSED = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM records'); c.close()"
)


async def dial(gateway: Process, key: str) -> tuple[int, str]:
    """A dial with a key: the status and the id."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-w", "\n%{http_code}", f"{gateway.base}/dial", "-H", f"X-API-Key: {KEY}"),
        *("-H", "Content-Type: application/json", "-H", f"Idempotency-Key: {key}", "-d", '{"media": "voice"}'),
        stdout=asyncio.subprocess.PIPE,
    )
    body, _, status = (await process.communicate())[0].decode().rpartition("\n")
    return int(status), str(yaml.safe_load(body).get("id"))


def configured(farm: Farm, simulator: Simulator) -> tuple[Path, Path]:
    """A configuration with a store in a file, and that file."""
    token = farm.directory / "token"
    token.write_text(simulator.issue_token("gateway-sales"))
    key = farm.directory / "encryption-key"
    key.write_bytes(Fernet.generate_key())
    database = farm.directory / "state.db"
    document = settings(simulator, token)
    merge(document, {"store": {"url": f"sqlite://{database}", "encryption_keys": [{"file": str(key)}]}})
    path = farm.directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return path, database


async def test_after_a_reload_others_may_open_the_database_and_nothing_is_lost(farm: Farm) -> None:
    """A process that closes any descriptor of a file loses its locks on it; another one then deletes the log of it."""
    simulator = await farm.simulator()
    path, database = configured(farm, simulator)
    gateway = await Process.serve(path)
    before = await dial(gateway, "one")
    path.write_text(path.read_text() + "\n# changed\n")
    await until(lambda: gateway.of("config.reloaded"))

    other = await asyncio.create_subprocess_exec(sys.executable, "-c", OPENED_AND_CLOSED, str(database))
    assert await other.wait() == 0
    assert Path(f"{database}-wal").exists()
    after = await dial(gateway, "two")
    gateway.process.kill()
    await gateway.process.wait()
    again = await Process.serve(path)

    assert [await dial(again, "one"), await dial(again, "two")] == [before, after]
    assert before[0] == after[0] == 201
    assert len(simulator.creates()) == 2
    again.process.terminate()
    assert await again.process.wait() == 0
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_an_account_that_becomes_another_user_is_not_refreshed_any_more(farm: Farm) -> None:
    simulator = await farm.simulator(token_lifetime=1.0)
    gateway = await farm.gateway(simulator, farm.applied(simulator, lifetime_seconds=1.0))
    await until(lambda: simulator.tokens.current("gateway-sales"))
    changed = gateway.settings | farm.applied(simulator, lifetime_seconds=1.0, user_id="gateway-other")
    gateway.write(changed)
    assert await gateway.server.reload()
    await until(lambda: simulator.tokens.current("gateway-other"))
    former = simulator.tokens.current("gateway-sales")
    renewed = simulator.tokens.current("gateway-other")

    await until(lambda: simulator.tokens.current("gateway-other") != renewed)

    assert simulator.tokens.current("gateway-sales") == former
    static = farm.directory / "static"
    static.write_text(simulator.issue_token("gateway-third"))
    gateway.write(changed | {"accounts": {"sales": {"token": {"file": str(static)}}}})
    assert await gateway.server.reload()
    applied = simulator.fabric.apply_token_requests
    await asyncio.sleep(1.1)  # two half-lives of the token that nobody is to refresh
    assert simulator.fabric.apply_token_requests == applied
    assert not [name for name in await gateway.metrics() if name.startswith("gateway_token_expiry")]

"""`dial-gateway demo`: a simulated contact centre over TLS, a gateway before it, and a whole call through both.

Owns a directory that it deletes again (unless it was told which to use), and in it a certificate authority and a key
that nobody else will ever trust, and `env`, which tells a shell where everything is. Refuses to listen beyond loopback.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.auth import new_key
from gateway.client import DialClient, DialError
from gateway.model import Secret
from gateway.server import Server, event_loop
from gateway.simulator import APP_KEY, APP_SECRET, Simulator

_PORT: Final = 8080
_ADMIN_PORT: Final = 9090
_USER: Final = "demo"
_VARIABLES: Final = "env"


def demo(*, once: bool, directory: Path | None = None) -> int:
    """Run the demonstration; with `once` it ends after the call. 0 if the call was accepted, else 1.

    What it writes goes into `directory` and stays there; without one it goes into a new one, which is deleted.
    """
    with (
        asyncio.Runner(loop_factory=event_loop) as runner,
        tempfile.TemporaryDirectory(prefix="dial-gateway-demo-") as scratch,
    ):
        place = (directory or Path(scratch)).absolute()
        variables = place / _VARIABLES
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A former one may be readable by others, and tells of ports that are gone.
            variables.unlink(missing_ok=True)
            variables.touch(mode=0o600)
        except OSError as exc:
            print(f"{place} can't be used: {exc.strerror}", file=sys.stderr)
            return 1
        return runner.run(_demo(place, once=once))


async def _demo(directory: Path, *, once: bool) -> int:
    async with Simulator(directory) as simulator:
        key = new_key()
        application = {
            "app_key": (directory / "app-key", APP_KEY),
            "app_secret": (directory / "app-secret", APP_SECRET),
        }
        for path, secret in application.values():
            path.write_text(secret, encoding="ascii")
        configuration = directory / "gateway.yaml"
        files = {name: path for name, (path, _) in application.items()}
        configuration.write_text(_configuration(simulator, key, files), encoding="utf-8")
        server = Server(configuration)
        await server.start()
        variables = directory / _VARIABLES
        names = _names(server, simulator, key, configuration)
        variables.write_text(_variables(names), encoding="utf-8")
        try:
            _say(f"The contact centre (simulated) is at {simulator.endpoints[0]}, the gateway at {server.address}.")
            _say("A call, as a service would make it: dialled, followed, and released once somebody has answered.")
            ended = await _call(server.address, key) == "ended" and len(simulator.creates()) == 1
            _say(
                "The call was accepted, and the contact centre saw exactly one request for it."
                if ended
                else "The call was NOT placed and released."
            )
            if not once:
                _say(_what_to_try(names, variables))
                await _until_told()
        finally:
            await server.drain()
    return 0 if ended else 1


async def _call(address: str, key: Secret) -> str:
    """Make a call and follow it to its end; how it ended."""
    status = "not placed"
    try:
        async with DialClient(f"http://{address}", key.reveal().decode()) as client:
            call = await client.dial("voice")
            _tell(call.status, f"call {call.id} by account {call.account}")
            async for event in client.events(call.id):
                status = event.status
                _tell(status, f"event {event.number}: {event.description}")
                if status == "connected":
                    await client.release(call.id)
    except DialError as error:
        _tell(error.outcome, error.detail)
    return status


def _tell(word: str, what: str) -> None:
    print(f"{word:<10}{what}", flush=True)


async def _until_told() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def _configuration(simulator: Simulator, key: Secret, application: Mapping[str, Path]) -> str:
    return f"""\
listen: {{address: 127.0.0.1:{_free_or_any(_PORT)}}}
admin: {{address: 127.0.0.1:{_free_or_any(_ADMIN_PORT)}}}
upstream:
  endpoints: {json.dumps(simulator.endpoints)}
  tls: {{ca: {json.dumps(str(simulator.ca))}, server_name: {simulator.server_name}}}
accounts:
  demo:
    apply_token:
      url: {simulator.fabric_url}
      app_key: {{file: {json.dumps(str(application["app_key"]))}}}
      app_secret: {{file: {json.dumps(str(application["app_secret"]))}}}
      user_id: {_USER}
      channel_id: "2023"
      tls: {{ca: {json.dumps(str(simulator.ca))}, server_name: {simulator.fabric_name}}}
services:
  demo:
    accounts: [demo]
    credentials:
      - api_key: sha256:{hashlib.sha256(key.reveal()).hexdigest()}
"""


def _free_or_any(port: int) -> int:
    """The port if nobody listens on it now, else 0, which means any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _names(server: Server, simulator: Simulator, key: Secret, configuration: Path) -> dict[str, str]:
    """What the README's commands use by name."""
    return {
        "GATEWAY": f"http://{server.address}",
        "OPERATORS": f"http://{server.admin_address}",
        "CONTROL": simulator.control_url,
        "NSLB": simulator.endpoints[0].removeprefix("https://"),
        "KEY": key.reveal().decode("ascii"),
        "CONFIG_FILE": str(configuration),
    }


def _variables(names: Mapping[str, str]) -> str:
    """What a shell reads (`. FILE`) to know them."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in names.items())


def _what_to_try(names: Mapping[str, str], variables: Path) -> str:
    """Commands to copy, each of which works as it stands, in a shell that knows none of the names."""
    dial = f"curl -i {names['GATEWAY']}/dial -H 'Content-Type: application/json'"
    good = f"-H 'Authorization: Bearer {names['KEY']}'"
    configuration = shlex.quote(names["CONFIG_FILE"])
    return f"""\
What to try in another terminal. Ctrl-C ends this demonstration. The addresses, the key and the files that the README
uses by name are in a file for your shell:
. {shlex.quote(str(variables))}

# a call
{dial} {good} -d '{{"media": "voice"}}'

# a whole call: its next event, twice, and its release
call=$({dial.replace(" -i ", " -s ")} {good} -d '{{"media": "voice"}}' | sed 's/.*"id":"\\([^"]*\\)".*/\\1/')
curl {names["GATEWAY"]}/dial/$call/events {good}
curl {names["GATEWAY"]}/dial/$call/events {good}
curl -X DELETE {names["GATEWAY"]}/dial/$call {good}

# the same key: the same answer, and one call
{dial} {good} -H 'Idempotency-Key: order-1' -d '{{"media": "voice"}}'
{dial} {good} -H 'Idempotency-Key: order-1' -d '{{"media": "voice"}}'

# a wrong key: refused, and the contact centre sees nothing of it
{dial} -H 'Authorization: Bearer dgw_wrong' -d '{{"media": "voice"}}'

# a mistake: refused, and the answer says what is wrong
{dial} {good} -d '{{"media": "voice", "acount": "demo"}}'

# the account's token ends: the gateway applies for another one, and sends the call once more
curl -X POST {names["CONTROL"]}/expire
{dial} {good} -d '{{"media": "voice"}}'

# nobody makes tokens any more: calls go on for as long as the present token lives
curl {names["CONTROL"]}/faults -d '{{"kind": "status", "operation": "applyToken", "status": 500, "times": null}}'
{dial} {good} -d '{{"media": "voice"}}'
curl -X DELETE {names["CONTROL"]}/faults

# break the configuration: the old one goes on, and the log says what is wrong and where
echo 'listn: {{}}' >> {configuration}
sed -i '$d' {configuration}

# what the contact centre received, and what the operators see
curl -s {names["CONTROL"]}/received
curl -s {names["OPERATORS"]}/status
curl -s {names["OPERATORS"]}/metrics | grep ^gateway_
"""


def _say(text: str) -> None:
    print(f"\n{text}\n", flush=True)

"""Owns the simulator as a program: the files that it leaves, what it prints, and how it ends.

Refuses to print a token: it gives the path of the file that holds it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from gateway.simulator.certificates import write_private
from gateway.simulator.simulator import APP_KEY, APP_SECRET, Simulator

USERS = ("gateway-sales", "gateway-support")


async def serve(directory: Path, *, nslb_port: int, fabric_port: int, control_port: int, token_lifetime: float) -> int:
    """Run a simulator until SIGTERM or SIGINT; the exit code is 0, or 1 if a port is taken.

    Leaves `ca.pem`, `app-key`, `app-secret` and a token for each user (`tokens/<user>`) in the directory. A token that
    is applied for at the control port replaces its file. Port 0 is any; `token_lifetime` in seconds.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    simulator = Simulator(
        directory,
        nslb_ports=(nslb_port,),
        fabric_port=fabric_port,
        control_port=control_port,
        token_lifetime=token_lifetime,
        keep=10_000,
    )
    try:
        await simulator.start()
    except OSError as problem:
        _say(f"A port is taken: {problem}")
        return 1
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        _leave_files(simulator, directory)
        _say(_addresses(simulator, directory))
        await told.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        await simulator.stop()
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _leave_files(simulator: Simulator, directory: Path) -> None:
    tokens = directory / "tokens"
    tokens.mkdir(exist_ok=True)
    for user in USERS:
        simulator.token_files[user] = tokens / user
        simulator.issue_token(user)
    write_private(directory / "app-key", APP_KEY.encode())
    write_private(directory / "app-secret", APP_SECRET.encode())


def _addresses(simulator: Simulator, directory: Path) -> str:
    users = "\n".join(f"  {user}: {path}" for user, path in simulator.token_files.items())
    return f"""\
The simulated contact centre is up.

NSLB:          {simulator.endpoints[0]}   (its certificate names {simulator.server_name})
API Fabric:    {simulator.fabric_url}   (its certificate names {simulator.fabric_name})
Control:       {simulator.control_url}
CA:            {simulator.ca}
App key:       {directory / "app-key"}
App secret:    {directory / "app-secret"}
Tokens:
{users}

# what NSLB received
curl -s {simulator.control_url}/received
# the next create is answered with a reset
curl -s {simulator.control_url}/faults -d '{{"kind": "reset-request", "operation": "create"}}'
# every token expires
curl -s -X POST {simulator.control_url}/expire
# a new token, into its file
curl -s {simulator.control_url}/tokens -d '{{"user": "{USERS[0]}"}}'
# the call of a user ends
curl -s -X POST {simulator.control_url}/calls/{USERS[0]}/end

Ctrl-C ends it."""

"""Places a call each minute through the gateway beside it, follows it, and hangs up when somebody has answered.

Owns nothing but the calls. Refuses to begin another one when it is told to stop, and lets the present one end, for as
long as application.yaml has time for that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

from gateway.client import DialClient, DialError

LAST_SECONDS = float(os.environ.get("LAST_SECONDS", "30"))


def read(file: Path) -> str:
    """The key in a file, which has nothing else."""
    words = file.read_text().split()
    if len(words) != 1:
        sys.exit(f"{file} is to have the key alone: of what `dial-gateway key new` prints, the first line.")
    return words[0]


async def call(client: DialClient) -> None:
    """Place one call, and tell what becomes of it."""
    try:
        # It ends before the time does, so that nobody is left to guess whether a phone rang.
        made = await client.dial("voice", timeout=LAST_SECONDS / 2)
        print(made.id, made.status, flush=True)
        async with aclosing(client.events(made.id)) as events:
            async for event in events:
                print(made.id, event.status, flush=True)
                if event.status == "connected":
                    await client.release(made.id)
    except DialError as error:
        print(error.outcome, error.detail, flush=True)


async def calls(client: DialClient, told: asyncio.Event) -> None:
    """One call after the other, until told to stop."""
    pause = float(os.environ.get("PAUSE_SECONDS", "60"))
    while not told.is_set():
        await call(client)
        try:
            async with asyncio.timeout(pause):
                await told.wait()
        except TimeoutError:
            continue


async def main() -> None:
    """Call until told to stop, and a little longer if a call is under way."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    file = Path(os.environ["GATEWAY_KEY_FILE"])
    read(file)
    async with DialClient(os.environ["GATEWAY"], lambda: read(file)) as client:
        calling = loop.create_task(calls(client, told))
        telling = loop.create_task(told.wait())
        await asyncio.wait({calling, telling}, return_when=asyncio.FIRST_COMPLETED)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await calling
        except TimeoutError:
            print("The call goes on without us.", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

"""Places a call each minute through the gateway beside it, follows it, and hangs up when somebody has answered.

Owns nothing but the calls. Refuses to begin another one when it is told to stop, and lets the present one end.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from gateway.client import DialClient, DialError


async def call(client: DialClient) -> None:
    """Place one call, and tell what becomes of it."""
    try:
        made = await client.dial("voice")
        print(made.id, made.status, flush=True)
        async for event in client.events(made.id):
            print(made.id, event.status, flush=True)
            if event.status == "connected":
                await client.release(made.id)
    except DialError as error:
        print(error.outcome, error.detail, flush=True)


async def main() -> None:
    """Call until told to stop."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    key = Path(os.environ["GATEWAY_KEY_FILE"])
    pause = float(os.environ.get("PAUSE_SECONDS", "60"))
    async with DialClient(os.environ["GATEWAY"], lambda: key.read_text().strip()) as client:
        while not told.is_set():
            await call(client)
            try:
                async with asyncio.timeout(pause):
                    await told.wait()
            except TimeoutError:
                continue


if __name__ == "__main__":
    asyncio.run(main())

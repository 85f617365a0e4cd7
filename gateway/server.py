"""A running gateway: its listeners, its signals, reloading and draining.

Owns the life of the process, from a configuration file to the exit code. Refuses to serve by half of a
configuration, and to end while a request is under way and there is time left for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from gateway import __version__
from gateway.app import Gateway
from gateway.config import Address, Configuration, ConfigurationError, Loaded, Watcher, load, traced
from gateway.http import CallersApi, CallersServer, Health, Limits, operators_application
from gateway.listening import bound, callers_tls, listen, load_chain, make_room
from gateway.telemetry import LineWriter, Log, Metrics, Output, Telemetry
from gateway.telemetry.logs import BinarySink, capture_libraries, loop_exception_handler

if TYPE_CHECKING:
    from gateway.telemetry.traces import Traces

_TICK_SECONDS: Final = 1.0
_RETRY_TICKS: Final = 10
_FIRST_TOKEN_SECONDS: Final = 30.0
_LAST_SECONDS: Final = 1.0  # for answers that are being written, requests that are cut off, and the last lines
_STANDARD_OUTPUT: Final = 1
# What is alive after the start stays alive: looking at it again at every collection is a fifth of the CPU.
_GC_THRESHOLDS: Final = (50_000, 25, 100)


class Server:
    """One gateway with its listeners.

    `sink` takes the log lines (default: standard output); `environ` holds the secrets of `{env: NAME}`.
    """

    def __init__(self, path: Path, *, sink: BinarySink | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self._path = path
        self._environ = environ
        self._output: Output | None = None
        if sink is None:
            sink = self._output = Output(_STANDARD_OUTPUT)
        self.log = Log(LineWriter(sink))
        self._metrics = Metrics(__version__)
        self._health = Health()
        self._watcher = Watcher()
        self._stop = asyncio.Event()
        self._stop_reason = ""
        self._reloading = asyncio.Lock()
        self._reload_asked: asyncio.Task[None] | None = None
        self._rejected: list[str] | None = None
        self._retry_in = 0
        self._tls: ssl.SSLContext | None = None
        self._traces: Traces | None = None
        self._gateway: Gateway
        self._callers: CallersServer
        self._listener: asyncio.Server
        self._operators: web.AppRunner
        self._ticker: asyncio.Task[None]
        self.address = ""
        self.admin_address = ""

    async def start(self) -> None:
        """Load the configuration and listen. Raises `ConfigurationError`, or `OSError` for an address in use."""
        loaded = load(self._path, self._environ)
        self._watcher.watch(loaded.files)
        configuration = loaded.configuration
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(loop_exception_handler(self.log))
        if traced(self._environ):
            from gateway.telemetry.traces import Traces  # noqa: PLC0415 - an extra, and heavy

            self._traces = Traces(__version__, "http" if configuration.listen.tls is None else "https")
        telemetry = Telemetry(self.log, self._metrics, time.monotonic, self._traces)
        self._gateway = Gateway(configuration, telemetry, loop)
        self._callers = CallersServer(self._gateway.api, _limits(configuration), loop)
        application = operators_application(self._health, self._metrics, self._gateway.status)
        self._operators = web.AppRunner(application, access_log=None, handle_signals=False)
        try:
            await self._listen_for_operators(configuration.admin.address)
            await self._gateway.prepare()
            await self._listen_for_callers(configuration, loop)
        except BaseException:
            await self._operators.cleanup()
            await self._gateway.close()
            raise
        self._gateway.tend()
        give_up = loop.time() + _FIRST_TOKEN_SECONDS
        # A sidecar's readiness gates its whole pod, so a fabric that is down may delay it, and no more.
        self._health.usable = lambda: self._gateway.roster.usable() or loop.time() > give_up
        self._ticker = loop.create_task(self._tick())
        self._health.started = True
        self.log.info("gateway.started", version=__version__, listen=self.address, admin=self.admin_address)
        vault = self._gateway.roster.vault
        if not vault.store.shared:
            self.log.info("store.volatile", kind=vault.kind)

    async def run(self) -> int:
        """Start, serve until `SIGTERM` or `SIGINT`, drain; the exit code."""
        loop = asyncio.get_running_loop()
        capture_libraries(self.log)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number.name)
        # Its default would end the process; a change of now is found a second after the start.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        await self.start()
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        await self._stop.wait()
        await self.drain()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Told once more while the interpreter ends, it must not die of it.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        return 0

    def stop(self, reason: str) -> None:
        """Ask a running `run` to drain and to return."""
        self._stop_reason = reason
        self._stop.set()

    async def drain(self) -> None:
        """Take nothing more, finish what is under way, and close."""
        self.log.info("gateway.stopping", reason=self._stop_reason or "asked")
        self._health.draining = True
        api = self._gateway.api
        api.begin_draining()
        self._listener.close()
        # A caller that fetches nothing must be cut off now as ever, and the store told of what it could not take.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._gateway.configuration.drain_seconds):
                await api.idle()
        self._ticker.cancel()
        self._callers.pre_shutdown()
        await self._callers.shutdown(timeout=_LAST_SECONDS)
        await api.cut_off()
        await self._gateway.close()
        await self._operators.cleanup()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticker
        if self._traces is not None:
            await self._traces.finish(_LAST_SECONDS)
        self.log.info("gateway.stopped")
        self.log.flush()
        if self._output is not None:
            with contextlib.suppress(OSError):
                self._output.finish(_LAST_SECONDS)

    def tend(self) -> None:
        """What is to be done once a second: look after connections on both sides, and after the log."""
        self._gateway.tend()
        self._callers.sweep()
        if self._output is not None and (lost := self._output.take_lost()):
            self._metrics.lines_lost(lost)
            self.log.warning("log.lost", lines=lost)

    async def look(self) -> None:
        """Reload if a file has changed, or if what was rejected a while ago may be better now.

        What was wrong may not have been in the files: no descriptor was left, or a mount was not there. To be called
        about once a second.
        """
        if self._watcher.changed():
            await self.reload()
        elif self._rejected is not None:
            self._retry_in -= 1
            if self._retry_in <= 0:
                await self.reload(again=True)

    @property
    def api(self) -> CallersApi:
        """What answers callers."""
        return self._gateway.api

    def status(self) -> dict[str, Any]:
        """The document of `/status`."""
        return self._gateway.status()

    # --- reloading

    def _reload_soon(self) -> None:
        """Reload once for all who ask before it begins."""
        if self._reload_asked is None:
            self._reload_asked = asyncio.get_running_loop().create_task(self._reload_as_asked())

    async def _reload_as_asked(self) -> None:
        async with self._reloading:
            self._reload_asked = None
            await self._reload()

    async def reload(self, *, again: bool = False) -> bool:
        """Load the configuration again and serve by it, whole or not at all; whether it was taken.

        `again` says that nothing asked for it but an earlier rejection, which is not told a second time.
        """
        async with self._reloading:
            return await self._reload(again=again)

    async def _reload(self, *, again: bool = False) -> bool:
        self._watcher.changed()  # what changes from here on is another change
        cause: Exception | None = None
        try:
            loaded = await asyncio.to_thread(load, self._path, self._environ)
            self._watcher.watch(loaded.files)
            faults = self._unchangeable(loaded)
            if not faults:
                await self._replace(loaded.configuration)
        except ConfigurationError as exc:
            self._watcher.watch(exc.files)
            faults = [str(fault) for fault in exc.faults]
        except (OSError, ValueError) as exc:
            faults = [f"{self._path}: a file that it names can't be used ({type(exc).__name__})"]
        except Exception as exc:  # noqa: BLE001 - whatever it is, the gateway goes on as before, and tries again
            cause = exc
            faults = [f"{self._path}: a fault of the gateway ({type(exc).__name__}); see internal.fault"]
        if faults:
            return self._reject(faults, cause, again=again)
        self._rejected = None
        self._callers.limits = _limits(self._gateway.configuration)
        self._metrics.reloaded("success")
        self.log.info("config.reloaded")
        return True

    async def _replace(self, configuration: Configuration) -> None:
        if configuration.listen.tls is not None and self._tls is not None:
            load_chain(self._tls, configuration.listen.tls)
        await self._gateway.replace(configuration)

    def _reject(self, faults: list[str], cause: Exception | None, *, again: bool) -> bool:
        self._retry_in = _RETRY_TICKS
        if again and faults == self._rejected:
            return False
        if cause is not None:
            self.log.fault(cause)
        self._rejected = faults
        self._metrics.reloaded("failure")
        self.log.error("config.rejected", faults=faults)
        return False

    def _unchangeable(self, loaded: Loaded) -> list[str]:
        """What a running gateway can't change: where it listens, and whether with TLS."""
        old, new = self._gateway.configuration, loaded.configuration
        pairs = (
            (("listen", "address"), old.listen.address, new.listen.address),
            (("admin", "address"), old.admin.address, new.admin.address),
            (("listen", "tls"), old.listen.tls is None, new.listen.tls is None),
            (("store", "url"), old.store.url, new.store.url),
            (("store", "username"), old.store.username, new.store.username),
            (("store", "tls"), old.store.tls, new.store.tls),
        )
        reason = "can't be changed while the gateway runs; restart it"
        return [str(loaded.fault(path, reason)) for path, before, after in pairs if before != after]

    # --- listening

    async def _listen_for_operators(self, address: Address) -> None:
        await self._operators.setup()
        make_room(address)
        site = (
            web.UnixSite(self._operators, address.path)
            if address.kind == "unix"
            else web.TCPSite(self._operators, address.host, address.port)
        )
        await site.start()
        self.admin_address = bound(address, self._operators.addresses)

    async def _listen_for_callers(self, configuration: Configuration, loop: asyncio.AbstractEventLoop) -> None:
        address, tls = configuration.listen.address, configuration.listen.tls
        if tls is not None:
            self._tls = callers_tls(tls)
        self._listener = await listen(loop, self._callers, address, self._tls)
        self.address = bound(address, [listening.getsockname() for listening in self._listener.sockets])

    # --- once a second

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            expected = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self._metrics.loop_was_late(loop.time() - expected)
            try:
                self.tend()
                if not self._health.draining:
                    await self.look()
            except Exception as exc:  # noqa: BLE001 - the next second is another try; without it nothing is tended
                self.log.fault(exc)


def _limits(configuration: Configuration) -> Limits:
    timeouts = configuration.listen.timeouts
    return Limits(head=timeouts.head, body=timeouts.body, idle=timeouts.idle)


def event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's, where that installs."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def serve(path: Path) -> int:
    """Run a gateway in this thread until it is told to stop; the exit code."""
    _take_all_descriptors()
    with asyncio.Runner(loop_factory=event_loop) as runner:
        return runner.run(_serve(path))


def _take_all_descriptors() -> None:
    """Raise the limit of open files as far as allowed: it is low for programs that use `select`, and we don't."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(path: Path) -> int:
    server = Server(path)
    try:
        return await server.run()
    except ConfigurationError as exc:
        for fault in exc.faults:
            sys.stderr.write(f"{fault}\n")
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        sys.stderr.write(f"{path}: the gateway can't listen: {reason}\n")
    return 1

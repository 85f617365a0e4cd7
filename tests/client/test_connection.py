"""The way to the gateway: what a general client would do by itself, and this one does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.client import DialClient, DialError, NotDone, OutcomeUnknown, Problem, Refused
from gateway.simulator import Certificates
from tests.client.scripted import CALL, KEY, ScriptedGateway, Time, answer, free_port, problem, silence


@asynccontextmanager
async def raw(said: bytes | None) -> AsyncIterator[str]:
    """A server that says just these bytes to each request, and closes; or nothing at all, and stays."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        if said is None:
            await reader.read()
        else:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"Content-Length" in head:
                await reader.readuntil(b"}")
            writer.write(said)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*(task for task in serving if task is not None))


def client(base: str, time: Time, key: str = KEY) -> DialClient:
    return DialClient(base, key, clock=time.clock, sleep=time.sleep)


async def test_a_socket_file_is_an_address(tmp_path: Path) -> None:
    async with ScriptedGateway(answer(), path=tmp_path / "dial.sock") as gateway, gateway.client() as client:
        assert (await client.dial("voice")).id == CALL["id"]


async def test_a_socket_file_that_nobody_listens_at_got_nothing(tmp_path: Path) -> None:
    async with client(f"unix:{tmp_path}/none.sock", Time()) as dialling:
        with pytest.raises(NotDone, match="gateway-unreachable"):
            await dialling.dial("voice")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8080",
        "ftp://h",
        "http://",
        "http://user:password@h",
        "http://h/path",
        "http://h?q",
        "http://h#f",
        "http://h:port",
        "unix:relative",
        "unix:",
        "",
    ],
)
def test_an_address_that_is_none_is_said_at_once(address: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        DialClient(address, KEY)

    assert "password" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments", [{"attempts": 0}, {"timeout": 0}, {"timeout": float("nan")}, {"answer_timeout": -1}]
)
def test_a_setting_that_makes_no_sense_is_said_at_once(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DialClient("http://h", KEY, **arguments)  # type: ignore[arg-type]


async def test_redirects_are_not_followed() -> None:
    async with ScriptedGateway(answer()) as elsewhere:
        away = answer(307, b"", {"Location": f"{elsewhere.base}/dial"})
        async with ScriptedGateway(away) as gateway, gateway.client() as client:
            with pytest.raises(OutcomeUnknown) as raised:
                await client.dial("voice")

    assert raised.value.status == 307
    assert elsewhere.received == []


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("default login evil password evil\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with ScriptedGateway(answer()) as proxy, ScriptedGateway(answer()) as gateway:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base)
        async with gateway.client() as client:
            await client.dial("voice")

    assert proxy.received == []
    assert gateway.received[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_cookies_are_not_kept() -> None:
    async with ScriptedGateway(answer(headers={"Set-Cookie": "a=b; Path=/"}), answer()) as gateway:
        # An address in numbers would get no cookies from any client.
        gateway.base = gateway.base.replace("127.0.0.1", "localhost")
        async with gateway.client() as client:
            await client.dial("voice")
            await client.dial("voice")

    assert "Cookie" not in gateway.received[1].headers


async def test_compressed_answers_are_not_asked_for() -> None:
    async with ScriptedGateway(answer()) as gateway, gateway.client() as client:
        await client.dial("voice")

    assert gateway.received[0].headers["Accept-Encoding"] == "identity"


async def test_a_gateway_whose_certificate_is_not_trusted_gets_nothing(certificates: Certificates) -> None:
    async with ScriptedGateway(answer(), tls=served(certificates)) as gateway, gateway.client() as client:
        with pytest.raises(NotDone) as raised:
            await client.dial("voice")

    assert raised.value.code == "gateway-untrusted"
    assert gateway.received == []
    assert gateway.time.slept == []


async def test_a_gateway_with_an_authority_of_its_own_can_be_trusted(certificates: Certificates) -> None:
    trusting = ssl.create_default_context(cafile=certificates.ca)
    async with ScriptedGateway(answer(), tls=served(certificates)) as gateway, gateway.client(tls=trusting) as client:
        assert (await client.dial("voice")).id == CALL["id"]


def served(certificates: Certificates) -> ssl.SSLContext:
    """TLS for a server on loopback, from the tests' own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = certificates.issue("127.0.0.1")
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def test_a_connection_that_is_not_made_in_time_got_nothing(certificates: Certificates) -> None:
    trusting = ssl.create_default_context(cafile=certificates.ca)
    async with (
        raw(None) as address,
        DialClient(f"https://{address}", KEY, attempts=1, answer_timeout=0.05, tls=trusting) as dialling,
    ):
        with pytest.raises(NotDone, match="gateway-unreachable"):
            await dialling.dial("voice")


async def test_the_time_that_a_connection_took_is_not_the_gateways(certificates: Certificates) -> None:
    trusting = ssl.create_default_context(cafile=certificates.ca)
    async with ScriptedGateway(answer(), tls=served(certificates)) as gateway:
        port = int(gateway.base.rpartition(":")[2])

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            gateway.time.now += 4
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(relay(reader, back), relay(there, writer))

        async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
            gateway.base = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with gateway.client(tls=trusting, timeout=30, answer_timeout=15) as client:
                for _ in range(2):
                    await client.dial("voice")

    assert [request.headers["Request-Timeout"] for request in gateway.received] == ["11.000", "15.000"]


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on all that comes."""
    while piece := await reader.read(65_536):
        writer.write(piece)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_the_credential_is_asked_for_each_time() -> None:
    keys = iter(["first", "second"])
    async with (
        ScriptedGateway(problem(500, "internal"), answer()) as gateway,
        gateway.client(key=lambda: next(keys)) as client,
    ):
        await client.dial("voice")

    assert [request.headers["Authorization"] for request in gateway.received] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("key", ["", "s3cret\r\nX: y", "s3cret s3cret", "s3crét"])
async def test_a_credential_that_cant_be_sent_is_neither_sent_nor_shown(key: str) -> None:
    async with ScriptedGateway(answer()) as gateway, gateway.client(key=key) as client:
        with pytest.raises(ValueError, match="the key is empty, or") as raised:
            await client.dial("voice")

    assert "s3cr" not in "".join(traceback.format_exception(raised.value))
    assert gateway.received == []


async def test_a_fault_of_the_credentials_source_is_the_services_own() -> None:
    def gone() -> str:
        raise FileNotFoundError("key")

    async with ScriptedGateway(answer()) as gateway, gateway.client(key=gone) as client:
        with pytest.raises(FileNotFoundError):
            await client.dial("voice")


async def test_the_credential_is_in_no_representation_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    for said in (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"):
        async with raw(said) as address, client(f"http://{address}", Time()) as dialling:
            with pytest.raises(DialError) as raised:
                await dialling.dial("voice")
            errors.append(raised.value)
            assert repr(dialling) == f"DialClient('http://{address}')"
            assert KEY not in repr(vars(dialling))
    async with client(f"http://127.0.0.1:{await free_port()}", Time()) as dialling:
        with pytest.raises(DialError) as raised:
            await dialling.dial("voice")
        errors.append(raised.value)

    while errors:
        error = errors.pop()
        assert KEY not in repr(error) + str(error) + "".join(traceback.format_exception(error))
        errors.extend(inner for inner in (error.__cause__, error.__context__) if inner is not None)
    assert KEY not in caplog.text


async def test_it_is_used_open_and_opened_once() -> None:
    dialling = DialClient("http://127.0.0.1:1", KEY)
    with pytest.raises(RuntimeError, match="async with"):
        await dialling.dial("voice")
    async with dialling:
        with pytest.raises(RuntimeError, match="open already"):
            await dialling.__aenter__()


async def test_who_gives_up_waiting_is_let_go() -> None:
    async with ScriptedGateway(silence) as gateway, gateway.client() as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.dial("voice")


HEAD = st.sampled_from(
    [
        b"",
        b"HTTP/1.1 201 Created\r\n",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 99999999999999999999\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n",
        b"HTTP/1.1 502 Bad\r\nContent-Type: application/problem+json\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Type: ;;\xff=\r\nSet-Cookie: =;\xff;=\r\nContent-Encoding: gzip\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ://\r\n",
        b"HTTP/1.1 999 \xff\r\nX-Request-ID: \xff\r\nRetry-After: \xb2\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ]
)
FRAMING = st.sampled_from(
    [b"\r\n", b"Content-Length: 5\r\n\r\n", b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b""]
)
BODY = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b'{"code": "x", "outcome": "unknown", "errors": [1]}', b"data: {}\n\n", b"5\r\n{}\r\n"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HEAD, FRAMING, BODY)
def test_no_bytes_for_an_answer_raise_anything_but_errors_of_ours(head: bytes, framing: bytes, body: bytes) -> None:
    async def scene() -> None:
        # A stream in which something is heard each time is followed for ever, so the first wait ends it.
        async def enough(_seconds: float) -> None:
            raise NotDone(Problem("enough", "unknown", ""))

        async with raw(head + framing + body) as address:
            base = f"http://{address}"
            async with DialClient(base, KEY, attempts=1, timeout=0.5, sleep=enough) as dialling:
                for asked in (dialling.dial("voice"), dialling.state(CALL["id"]), dialling.support()):
                    with pytest.raises(DialError):
                        await asked
                try:
                    assert [event.status async for event in dialling.events(CALL["id"])] in ([], ["message"])
                except DialError as error:
                    assert isinstance(error, NotDone | Refused)  # noqa: PT017 - an end without an error is one as well

    asyncio.run(scene())

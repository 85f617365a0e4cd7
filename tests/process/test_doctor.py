"""`dial-gateway doctor` looks at every step, says what to do, places no call and shows no secret."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from gateway.simulator import Certificates, Fault, Simulator
from tests.harness import KEY, Farm, merge, settings
from tests.redis_server import redis_server
from tests.running import COMMAND


class Clinic:
    """A configuration with one account that has a token and one that applies for it, and what the doctor says of it."""

    def __init__(self, farm: Farm, simulator: Simulator) -> None:
        self.farm = farm
        self.simulator = simulator
        self.token = farm.directory / "token"
        self.token.write_text(simulator.issue_token("gateway-static"))
        applied = farm.applied(simulator)["accounts"]["sales"]["apply_token"]
        self.applying: dict[str, Any] = applied
        self.settings = settings(simulator, self.token)
        self.settings["accounts"] = {
            "static": {"token": {"file": str(self.token)}},
            "applied": {"apply_token": applied},
        }
        self.settings["services"]["billing"]["accounts"] = ["static", "applied"]

    async def visit(self, *flags: str) -> tuple[int, list[str]]:
        """The exit code and the lines."""
        path = self.farm.directory / "gateway.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "doctor",
            "--config",
            str(path),
            *flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert errors.decode() == ""
        text = output.decode()
        for secret in (self.token.read_text(), self.simulator.tokens.current("gateway-sales"), "simulated-secret", KEY):
            assert secret is None or secret not in text
        for request in self.simulator.fabric_received:
            for value in request.fields("authorization"):
                assert value.removeprefix("Bearer ") not in text
        assert self.simulator.creates() == []
        assert self.simulator.rings == 0
        assert process.returncode is not None
        return process.returncode, text.splitlines()

    def durable(self) -> tuple[Path, Path]:
        """A store in a file that is there, and its key."""
        file, key = self.farm.directory / "state.db", self.farm.directory / "encryption-key"
        file.touch(0o600)
        key.write_bytes(Fernet.generate_key())
        merge(self.settings, {"store": {"url": f"sqlite://{file}", "encryption_keys": [{"file": str(key)}]}})
        return file, key


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator()


@pytest.fixture
def clinic(farm: Farm, simulator: Simulator) -> Clinic:
    return Clinic(farm, simulator)


def words(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if line and not line[0].isspace() and "to be looked after" not in line]


def told(lines: list[str], word: str, *parts: str) -> str:
    """The advice under the one line that begins with a word and has all these parts."""
    found = [n for n, line in enumerate(lines) if line.startswith(word) and all(part in line for part in parts)]
    assert len(found) == 1, lines
    advice = lines[found[0] + 1] if found[0] + 1 < len(lines) else ""
    return advice if advice.startswith("     -> ") else ""


async def test_when_all_is_well_each_step_is_told(clinic: Clinic) -> None:
    code, lines = await clinic.visit()

    assert code == 0, lines
    assert set(words(lines)) == {"ok"}
    assert lines[-1] == "0 failed, 0 to be looked after."
    endpoint = clinic.simulator.endpoints[0]
    for parts in (
        (endpoint, "name"),
        (endpoint, "connection"),
        (endpoint, "TLS", "TLSv1.3, verified as nslb.example"),
        (endpoint, "certificate", "nslb.example", "days left"),
        ("fabric", "AccessToken"),
        ("store memory", "contents"),
        ("account static", "token", "from file"),
        ("account applied", "token", "applied for"),
        (f"account static at {endpoint}", "check", "click-to-call yes"),
        (f"account applied at {endpoint}", "check", "click-to-call yes"),
        (f"account applied at {endpoint}", "clock"),
    ):
        assert any(all(part in line for part in parts) for line in lines), parts
    assert [request.operation for request in clinic.simulator.received] == ["check", "check"]
    assert {request.status for request in clinic.simulator.received} == {200}


async def test_a_configuration_with_faults_is_told_as_check_does(clinic: Clinic) -> None:
    clinic.settings["upstreem"] = {}

    code, lines = await clinic.visit()

    assert code == 1
    assert re.search(r"gateway.yaml:\d+:\d+: upstreem: unknown key", lines[0])
    assert clinic.simulator.connections == 0


async def test_without_applying_nothing_is_applied_for(clinic: Clinic) -> None:
    code, lines = await clinic.visit("--no-apply")

    assert code == 0
    assert any("AccessToken" in line and line.startswith("ok") for line in lines)
    assert told(lines, "skip", "account applied", "token: is not applied for") == ""
    assert told(lines, "skip", "account applied", "check: without a token") == ""
    assert [request.operation for request in clinic.simulator.fabric_received] == ["tokenByAkSk"]


def other_ca(clinic: Clinic) -> None:
    clinic.settings["upstream"]["tls"]["ca"] = str(Certificates(clinic.farm.directory / "other").ca)


def other_name(clinic: Clinic) -> None:
    clinic.settings["upstream"]["tls"]["server_name"] = "other.example"


def other_pin(clinic: Clinic) -> None:
    clinic.settings["upstream"]["tls"]["pins"] = ["sha256:" + "ab" * 32]


def closed_port(clinic: Clinic) -> None:
    clinic.settings["upstream"]["endpoints"] = ["https://127.0.0.1:1"]


def unknown_host(clinic: Clinic) -> None:
    clinic.settings["upstream"]["endpoints"] = ["https://nowhere.invalid:443"]


def not_tls(clinic: Clinic) -> None:
    clinic.settings["upstream"]["endpoints"] = [clinic.simulator.control_url.replace("http:", "https:")]


def wrong_secret(clinic: Clinic) -> None:
    Path(clinic.applying["app_secret"]["file"]).write_text("wrong")


def wrong_place(clinic: Clinic) -> None:
    clinic.simulator.fault(Fault("status", "tokenByAkSk", None, status=404))


def out_of_order(clinic: Clinic) -> None:
    clinic.simulator.fault(Fault("status", "applyToken", None, status=502))


def unknown_user(clinic: Clinic) -> None:
    clinic.applying["locale"] = "xx"


def fabric_name(clinic: Clinic) -> None:
    clinic.applying["tls"]["server_name"] = "other.example"


def stale_token(clinic: Clinic) -> None:
    clinic.simulator.expire("gateway-static")


def busy_upstream(clinic: Clinic) -> None:
    clinic.simulator.fault(Fault("status", "check", None, status=503))


@pytest.mark.parametrize(
    ("spoil", "parts", "advice"),
    [
        (
            other_ca,
            ("TLS", "authority is not trusted"),
            r"signed by .+, whose certificate must be in upstream.tls.ca",
        ),
        (other_name, ("TLS", "not for other.example"), r"for nslb\.example, .*upstream\.tls\.server_name"),
        (other_pin, ("TLS", "none of the pinned"), r"sha256:[0-9a-f]{64}.*upstream\.tls\.pins"),
        (closed_port, ("connection", "refuses"), "Nothing listens there"),
        (unknown_host, ("name", "nowhere.invalid has no address"), "spelling"),
        (not_tls, ("TLS",), "TLS"),
        (wrong_secret, ("AccessToken", "none (refused)"), "app_key and app_secret"),
        (wrong_place, ("AccessToken", "none (wrong_status)"), r"apply_token\.url, and at the API Fabric"),
        (out_of_order, ("account applied", "token", "none (wrong_status)"), r"apply_token\.url, and at the API Fabric"),
        (unknown_user, ("account applied", "token", "none (rejected)"), "user_id, channel_id and locale"),
        (fabric_name, ("fabric", "TLS", "not for other.example"), r"accounts\.applied\.apply_token\.tls\.server_name"),
        (stale_token, ("account static at", "check", "HTTP 401"), "put a new one in its place"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_what_fails_is_told_with_what_to_do(
    clinic: Clinic, spoil: Any, parts: tuple[str, ...], advice: str
) -> None:
    spoil(clinic)

    code, lines = await clinic.visit()

    assert code == 1
    assert re.search(advice, told(lines, "FAIL", *parts)), lines
    # Nothing was sent to whom could not be trusted, and what depends on it was not tried.
    if spoil in {other_ca, other_name, other_pin}:
        assert clinic.simulator.received == []
        assert sum(line.startswith("skip") and "check" in line for line in lines) == 2
    if spoil in {wrong_place, out_of_order}:
        assert not any("user_id" in line for line in lines)
    if spoil is fabric_name:
        assert clinic.simulator.fabric_received == []


async def test_an_endpoint_that_is_out_of_order_fails_at_the_check(clinic: Clinic) -> None:
    busy_upstream(clinic)

    code, lines = await clinic.visit()

    assert code == 1
    assert sum(line.startswith("FAIL") and "HTTP 503, resultCode none" in line for line in lines) == 2


async def test_what_is_not_well_but_works_is_a_warning(farm: Farm, certificates: Certificates) -> None:
    pair = certificates.issue("soon", days=3)
    simulator = await farm.simulator(server_pair=pair, clock=lambda: time.time() + 300)
    simulator.adapter.click_to_call_supported = False
    clinic = Clinic(farm, simulator)

    code, lines = await clinic.visit()

    assert code == 0, lines
    assert "renewed" in told(lines, "warn", "certificate")
    assert "clocks" in told(lines, "warn", "account static at", "behind NSLB's")
    assert "enabled" in told(lines, "warn", "account static at", "click-to-call no")


async def test_the_token_of_the_store_is_used_and_not_ended(clinic: Clinic) -> None:
    clinic.durable()

    first, lines = await clinic.visit()
    again, more = await clinic.visit()

    assert (first, again) == (0, 0), lines + more
    assert clinic.simulator.fabric.apply_token_requests == 1
    assert any("account applied  token: from the store" in line for line in more)


async def test_a_store_that_cannot_be_read_is_told(clinic: Clinic) -> None:
    _, key = clinic.durable()
    assert (await clinic.visit())[0] == 0
    key.write_bytes(Fernet.generate_key())

    code, lines = await clinic.visit()

    assert code == 1
    # To apply would have ended the token of the gateways that have the right key.
    assert clinic.simulator.fabric.apply_token_requests == 1
    assert told(lines, "skip", "account applied", "token: not applied for") == ""
    assert "encryption_keys" in told(lines, "FAIL", "store sqlite", "no encryption key opens the token of applied")


async def test_a_token_of_the_store_that_was_ended_is_replaced(clinic: Clinic) -> None:
    clinic.durable()
    assert (await clinic.visit())[0] == 0
    clinic.simulator.expire("gateway-sales")

    code, lines = await clinic.visit()

    assert code == 0, lines
    assert clinic.simulator.fabric.apply_token_requests == 2
    # And the next one finds it there.
    assert (await clinic.visit())[0] == 0
    assert clinic.simulator.fabric.apply_token_requests == 2


async def test_a_store_that_cannot_be_reached_has_nothing_applied_for(clinic: Clinic) -> None:
    file, _ = clinic.durable()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")

    code, lines = await clinic.visit()

    assert code == 1
    assert "Look at store.url" in told(lines, "FAIL", "store sqlite", "can't be used")
    assert told(lines, "skip", "account applied", "token: not applied for") == ""
    assert clinic.simulator.fabric.apply_token_requests == 0


async def test_a_token_that_is_over_is_told_with_why_there_is_no_other(clinic: Clinic) -> None:
    clinic.durable()
    assert (await clinic.visit())[0] == 0
    clinic.simulator.expire("gateway-sales")

    _, untouched = await clinic.visit("--no-apply")
    clinic.simulator.fault(Fault("result-code", "applyToken", None, code="1"))
    _, refused = await clinic.visit()

    assert "was not applied for" in told(untouched, "FAIL", "account applied at", "HTTP 401")
    assert "rejected" in told(refused, "FAIL", "account applied at", "HTTP 401")
    assert "user_id" in told(refused, "FAIL", "account applied at", "HTTP 401")


async def test_a_file_that_is_not_there_is_not_made(clinic: Clinic) -> None:
    file, _ = clinic.durable()
    file.unlink()

    code, lines = await clinic.visit()

    assert code == 0, lines
    assert any("store sqlite  file: not there yet" in line for line in lines)
    assert list(file.parent.glob("state.db*")) == []


async def test_a_token_under_a_former_key_is_left_as_it_is(clinic: Clinic) -> None:
    _, key = clinic.durable()
    assert (await clinic.visit())[0] == 0
    new = clinic.farm.directory / "new-key"
    new.write_bytes(Fernet.generate_key())
    clinic.settings["store"]["encryption_keys"] = [{"file": str(new)}, {"file": str(key)}]

    assert (await clinic.visit())[0] == 0

    clinic.settings["store"]["encryption_keys"] = [{"file": str(key)}]
    code, lines = await clinic.visit()
    assert code == 0, lines
    assert any("account applied  token: from the store" in line for line in lines)
    assert clinic.simulator.fabric.apply_token_requests == 1


async def test_a_token_that_comes_with_an_answer_is_given_to_the_gateways(clinic: Clinic) -> None:
    clinic.durable()
    assert (await clinic.visit())[0] == 0
    renewed = clinic.simulator.issue_token("gateway-sales")
    body = '{"resultCode": "0", "clickToCallSupported": true, "webRTCSupported": true}'
    clinic.simulator.fault(
        Fault(
            "status",
            "check",
            times=2,
            status=200,
            body=body,
            headers={"Content-Type": "application/json", "Set-Cookie": f"ccmessaging-token={renewed}; Secure"},
        )
    )

    code, lines = await clinic.visit()

    assert code == 0, lines
    assert any("account applied at" in line and "token: NSLB sent another one" in line for line in lines)
    assert clinic.simulator.tokens.current("gateway-sales") is not None
    code, lines = await clinic.visit()
    assert code == 0, lines
    assert clinic.simulator.fabric.apply_token_requests == 1


async def test_a_certificate_of_ours_is_looked_at_and_a_refused_one_told(
    farm: Farm, certificates: Certificates, tmp_path: Path
) -> None:
    simulator = await farm.simulator(client_ca=certificates.ca)
    clinic = Clinic(farm, simulator)

    code, lines = await clinic.visit()

    assert code == 1
    assert "upstream.tls.certificate" in told(lines, "FAIL", simulator.endpoints[0], "TLS")
    assert simulator.received == []

    pair = certificates.issue("gateway", days=3, client=True)
    merge(clinic.settings, {"upstream": {"tls": {"certificate": str(pair.certificate), "key": str(pair.key)}}})
    code, lines = await clinic.visit()

    assert code == 0, lines
    assert "renewed" in told(lines, "warn", simulator.endpoints[0], "our certificate")

    stranger = Certificates(tmp_path / "others").issue("gateway", client=True)
    merge(clinic.settings, {"upstream": {"tls": {"certificate": str(stranger.certificate), "key": str(stranger.key)}}})
    code, lines = await clinic.visit()

    assert code == 1
    assert "upstream.tls.certificate" in told(lines, "FAIL", simulator.endpoints[0], "TLS")


async def test_a_refresh_of_another_gateway_that_failed_is_told_and_not_repeated(clinic: Clinic) -> None:
    clinic.durable()
    clinic.simulator.fault(Fault("result-code", "applyToken", None, code="1"))
    # The first visit fails as a gateway would: the next try of anybody comes later.
    _, first = await clinic.visit()
    asked = clinic.simulator.fabric.apply_token_requests
    with contextlib.closing(sqlite3.connect(clinic.farm.directory / "state.db")) as connection, connection:
        connection.execute("UPDATE tokens SET until = until + 600, failures = 4")

    code, lines = await clinic.visit()

    assert "none (rejected)" in " ".join(first)
    assert code == 1
    assert "token.refresh_failed" in told(lines, "FAIL", "account applied", "another gateway failed (4 in a row)", " s")
    assert not any("timeout" in line for line in lines)
    assert clinic.simulator.fabric.apply_token_requests == asked


async def test_after_a_401_a_refresh_of_another_gateway_that_failed_is_told(clinic: Clinic) -> None:
    clinic.durable()
    assert (await clinic.visit())[0] == 0
    clinic.simulator.expire("gateway-sales")
    with contextlib.closing(sqlite3.connect(clinic.farm.directory / "state.db")) as connection, connection:
        connection.execute("UPDATE tokens SET until = ?, failures = 2", (time.time() + 600,))

    code, lines = await clinic.visit()

    assert code == 1
    assert "another gateway failed (2 in a row)" in told(lines, "FAIL", "account applied at", "HTTP 401")
    assert clinic.simulator.fabric.apply_token_requests == 1


@pytest.fixture
async def redis(
    farm: Farm, clinic: Clinic, certificates: Certificates, unused_tcp_port_factory: Callable[[], int]
) -> AsyncIterator[None]:
    """A store in Redis, with TLS and without, which has a user that may do all and one that may do nothing."""
    pair = certificates.issue("redis", hosts=("127.0.0.1",))
    plain, port = unused_tcp_port_factory(), unused_tcp_port_factory()
    arguments = ["--tls-port", str(port), "--tls-cert-file", str(pair.certificate), "--tls-key-file"]
    arguments += [str(pair.key), "--tls-auth-clients", "no", "--requirepass", "good-password"]
    arguments += ["--user", "idle", "on", ">good-password", "-@all", "+ping", "~*"]
    key, password = farm.directory / "encryption-key", farm.directory / "redis-password"
    key.write_bytes(Fernet.generate_key())
    password.write_text("good-password")
    async with redis_server(farm.directory / "redis", plain, *arguments):
        merge(
            clinic.settings,
            {
                "store": {
                    "url": f"rediss://127.0.0.1:{port}",
                    "password": {"file": str(password)},
                    "encryption_keys": [{"file": str(key)}],
                    "tls": {"ca": str(certificates.ca)},
                }
            },
        )
        yield


async def test_each_step_to_redis_is_told(clinic: Clinic, redis: None) -> None:
    code, lines = await clinic.visit()

    assert code == 0, lines
    for parts in (("name",), ("connection",), ("TLS", "verified as 127.0.0.1"), ("certificate",), ("contents", "read")):
        assert any(line.startswith("ok   store rediss") and all(part in line for part in parts) for line in lines), (
            parts
        )


def store_at(**changes: Any) -> Any:
    def spoil(store: dict[str, Any], directory: Path) -> None:
        (directory / "redis-bad-password").write_text("bad-password")
        for name, value in changes.items():
            if value is None:
                del store[name]
            else:
                store[name] = value(store, directory) if callable(value) else value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "step", "found", "advice"),
    [
        (store_at(url="rediss://nowhere.invalid"), "name", "has no address", "spelling"),
        (store_at(url="rediss://127.0.0.1:1"), "connection", "refuses", "Nothing listens there"),
        (
            store_at(url=lambda store, _: store["url"].replace("127.0.0.1", "localhost")),
            "TLS",
            "not for localhost",
            "for 127.0.0.1: have the address name one of these",
        ),
        (
            store_at(tls=lambda _, directory: {"ca": str(Certificates(directory / "other").ca)}),
            "TLS",
            "authority is not trusted",
            "must be in store.tls.ca",
        ),
        (store_at(password=None), "contents", "wants a password", "Set store.password"),
        (
            store_at(password=lambda _, directory: {"file": str(directory / "redis-bad-password")}),
            "contents",
            "refuses the password",
            "Look at store.password and store.username",
        ),
        (store_at(username="stranger"), "contents", "refuses the password of user stranger", "store.username"),
        (store_at(username="idle"), "contents", "NoPermissionError", "rights (ACL) that the README lists"),
        (
            store_at(url=lambda store, _: store["url"] + "/99"),
            "contents",
            "database 99",
            "Look at the number at the end of store.url",
        ),
    ],
    ids=range(9),
)
async def test_what_fails_on_the_way_to_redis_is_told_with_what_to_do(
    clinic: Clinic, redis: None, spoil: Any, step: str, found: str, advice: str
) -> None:
    spoil(clinic.settings["store"], clinic.farm.directory)

    code, lines = await clinic.visit()

    assert code == 1
    assert advice in told(lines, "FAIL", "store rediss", f"{step}: ", found)
    assert "bad-password" not in " ".join(lines)
    assert "good-password" not in " ".join(lines)
    # What comes after it was not tried.
    if step != "contents":
        assert told(lines, "skip", "store rediss", "contents: not reached") == ""
    assert told(lines, "skip", "account applied", "token: not applied for") == ""
    assert clinic.simulator.fabric.apply_token_requests == 0

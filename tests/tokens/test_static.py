"""Tokens that somebody else keeps good: a refusal is believed, and a new value is taken at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from cryptography.fernet import Fernet

from gateway.model import Secret, Token
from gateway.server import Server
from gateway.simulator import Fault, Simulator
from tests.harness import Farm, Harness, Lines, settings, until


def statuses(simulator: Simulator) -> list[int | None]:
    return [request.status for request in simulator.creates()]


async def refused(farm: Farm) -> tuple[Simulator, Harness]:
    """A gateway whose token has been refused."""
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.expire()
    answer = await gateway.dial()
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (
        502,
        "upstream-credential-rejected",
        "rejected",
    )
    return simulator, gateway


async def test_a_refused_token_is_not_sent_again(farm: Farm) -> None:
    simulator, gateway = await refused(farm)

    answers = await asyncio.gather(*(gateway.dial() for _ in range(20)))

    assert len(simulator.creates()) == 1
    for answer in answers:
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "token-unavailable", "not_sent")
        assert answer.headers["Retry-After"] == str(answer.json["retry_after"]) == "1"
    assert {line["event"] for line in gateway.lines.requests()[1:]} == {"request.refused"}
    (line,) = gateway.lines.of("token.refresh_failed")
    assert (line["reason"], line["account"]) == ("unchanged", "sales")
    (status,) = gateway.server.status()["accounts"]
    assert (status["state"], status["usable"]) == ("failed", False)
    assert status["last_refresh"]["reason"] == "unchanged"


async def test_a_new_value_in_the_file_is_taken_by_the_next_request(farm: Farm) -> None:
    simulator, gateway = await refused(farm)
    assert (await gateway.dial()).status == 503
    gateway.token_file.write_text(simulator.issue_token("gateway-sales"))

    answers = await asyncio.gather(*(gateway.dial() for _ in range(5)))

    assert {answer.status for answer in answers} == {201}
    assert statuses(simulator) == [401] + [200] * 5


async def test_a_file_that_is_gone_is_told_and_does_no_harm(farm: Farm) -> None:
    simulator, gateway = await refused(farm)
    gateway.token_file.unlink()

    assert (await gateway.dial()).json["code"] == "token-unavailable"

    assert [line["reason"] for line in gateway.lines.of("token.refresh_failed")] == ["unchanged", "unreadable"]
    assert len(simulator.creates()) == 1


async def test_after_a_reload_the_same_token_may_be_tried_again(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    # A refusal that was not the token's fault.
    simulator.fault(Fault("status", operation="create", status=401))
    assert (await gateway.dial()).status == 502
    assert (await gateway.dial()).status == 503

    assert await gateway.server.reload()

    assert (await gateway.dial()).status == 201
    assert statuses(simulator) == [401, 200]


async def test_a_token_of_the_environment_stays_refused(farm: Farm, tmp_path: Path) -> None:
    simulator = await farm.simulator()
    configured = settings(simulator, tmp_path / "unused")
    configured["accounts"]["sales"] = {"token": {"env": "TOKEN"}}
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(configured))
    lines = Lines()
    server = Server(path, sink=lines, environ={"TOKEN": simulator.issue_token("gateway-sales")})
    await server.start()
    gateway = Harness(server, lines, path, configured, tmp_path)
    try:
        assert (await gateway.dial()).status == 201
        simulator.expire()
        assert [(await gateway.dial()).status for _ in range(3)] == [502, 503, 503]
        assert server.status()["accounts"][0]["source"] == "env"
    finally:
        await gateway.session.close()
        await server.drain()
    assert statuses(simulator) == [200, 401]


async def test_requests_that_wait_for_a_connection_do_not_send_a_token_refused_meanwhile(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"upstream": {"connections": 1}})
    simulator.fault(Fault("status", operation="create", status=401, delay=0.2))

    answers = await asyncio.gather(*(gateway.dial() for _ in range(5)))

    assert sorted(answer.json["code"] for answer in answers) == ["token-unavailable"] * 4 + [
        "upstream-credential-rejected"
    ]
    assert len(simulator.creates()) == 1


@pytest.mark.parametrize("hears", [True, False])
async def test_what_nslb_makes_of_a_value_is_taken_by_a_replica_that_has_had_more_values(
    farm: Farm, tmp_path: Path, hears: bool
) -> None:
    simulator = await farm.simulator(renew_in_band="cookie")
    key = tmp_path / "encryption-key"
    key.write_bytes(Fernet.generate_key())
    shared = {"store": {"url": f"sqlite://{tmp_path}/state.db", "encryption_keys": [{"file": str(key)}]}}
    older = await farm.gateway(simulator, shared)
    value = ""
    for _ in range(2):
        value = simulator.issue_token("gateway-sales")
        older.token_file.write_text(value)
        assert await older.server.reload()
    assert (await older.dial()).status == 201
    younger = await farm.gateway(simulator, shared, token=value)
    account, other = (gateway.server._gateway.roster.accounts["sales"] for gateway in (older, younger))
    assert (account.generation, other.generation) == (3, 1)
    assert (await younger.dial()).status == 201
    simulator.expire()
    assert (await younger.dial()).status == 201
    await until(lambda: not other._sharing.running)
    if hears:
        await until(lambda: account.generation == 4)

    answers = [await gateway.dial() for gateway in (older, younger, older)]

    assert [answer.status for answer in answers] == [201] * 3
    assert {request.cookies()["ccmessaging-token"] for request in simulator.creates()[-3:]} == {
        simulator.tokens.current("gateway-sales")
    }
    assert (account.generation, other.generation) == (4, 2)
    # The next value begins anew at both, whatever was made of the one before.
    last = simulator.issue_token("gateway-sales")
    for gateway in (younger, older):
        gateway.token_file.write_text(last)
        assert await gateway.server.reload()
    assert [(await gateway.dial()).status for gateway in (older, younger)] == [201, 201]
    assert (account.generation, other.generation) == (5, 3)
    assert [request.cookies()["ccmessaging-token"] for request in simulator.creates()[-2:]] == [last, last]
    assert simulator.nslb.renewals == 1


async def test_an_account_that_is_taken_out_of_the_configuration_leaves_no_trace(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    assert (await gateway.dial()).status == 201
    name = 'gateway_token_expiry_timestamp_seconds{account="sales"}'
    assert name in await gateway.metrics()
    changed = yaml.safe_load(gateway.path.read_text())
    changed["accounts"]["other"] = {"token": {"file": str(gateway.token_file)}}
    del changed["accounts"]["sales"]
    changed["services"]["billing"]["accounts"] = ["other"]
    gateway.write(changed)

    assert await gateway.server.reload()

    assert name not in await gateway.metrics()
    assert [status["account"] for status in gateway.server.status()["accounts"]] == ["other"]
    await until(lambda: len(asyncio.all_tasks()) < 12)


async def test_the_end_of_a_token_is_not_told_any_more_when_that_of_the_next_is_not_known(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    account = gateway.server._gateway.roster.accounts["sales"]
    name = 'gateway_token_expiry_timestamp_seconds{account="sales"}'
    account.take(Token(Secret("one"), 7, 0.0, 4_000_000_000.0))
    assert (await gateway.metrics())[name] > 0

    account.take(Token(Secret("two"), 8, 0.0))

    assert name not in await gateway.metrics()


@pytest.mark.parametrize("applied", [True, False])
async def test_an_account_that_is_renamed_keeps_its_token_and_session_whatever_the_store_does(
    farm: Farm, applied: bool
) -> None:
    simulator = await farm.simulator(renew_in_band="cookie")
    gateway = await farm.gateway(simulator, farm.applied(simulator) if applied else {})
    assert (await gateway.dial()).status == 201
    simulator.expire()
    assert (await gateway.dial()).status == 201
    account = gateway.server._gateway.roster.accounts["sales"]
    generation, line = account.generation, account.line
    applications = simulator.fabric.apply_token_requests
    changed = yaml.safe_load(gateway.path.read_text())
    changed["accounts"] = {"support": changed["accounts"]["sales"]}
    changed["services"]["billing"]["accounts"] = ["support"]
    gateway.write(changed)

    assert await gateway.server.reload()

    assert (await gateway.dial()).status == 201
    assert statuses(simulator) == [200] * 3
    assert simulator.fabric.apply_token_requests == applications
    cookies = [request.cookies() for request in simulator.creates()]
    sent = [each["ccmessaging-token"] for each in cookies]
    assert sent[-1] == simulator.tokens.current("gateway-sales")
    assert sent[-1] != sent[0]
    assert cookies[-1]["JSESSIONID"] == cookies[1]["JSESSIONID"]
    (status,) = gateway.server.status()["accounts"]
    assert (status["account"], status["generation"]) == ("support", generation)
    assert gateway.lines.requests()[-1]["account"] == "support"
    metrics = await gateway.metrics()
    assert 'gateway_token_expiry_timestamp_seconds{account="sales"}' not in metrics
    assert ('gateway_token_expiry_timestamp_seconds{account="support"}' in metrics) is applied
    assert 'gateway_token_refreshes_total{account="support",result="failure",trigger="early"}' in metrics
    # A user's line is the same under any name; one that nobody names has that of its account.
    assert (account.line == line) is applied


async def test_accounts_that_change_names_change_nothing_else(farm: Farm) -> None:
    simulator = await farm.simulator()
    applied = farm.applied(simulator)
    applying = applied["accounts"]["sales"]["apply_token"]
    other = {"token": None, "apply_token": applying | {"user_id": "gateway-support"}}
    applied["accounts"]["support"] = other
    gateway = await farm.gateway(simulator, applied)
    roster = gateway.server._gateway.roster
    await until(lambda: all(account.credential() for account in roster.accounts.values()))
    before = dict(roster.accounts)
    changed = yaml.safe_load(gateway.path.read_text())
    accounts = changed["accounts"]
    accounts["sales"], accounts["support"] = accounts["support"], accounts["sales"]
    gateway.write(changed)

    assert await gateway.server.reload()

    assert roster.accounts == {"sales": before["support"], "support": before["sales"]}
    assert {name: account.name for name, account in roster.accounts.items()} == {"sales": "sales", "support": "support"}
    assert simulator.fabric.apply_token_requests == 2
    metrics = await gateway.metrics()
    assert all(f'gateway_token_expiry_timestamp_seconds{{account="{name}"}}' in metrics for name in roster.accounts)


async def test_the_application_that_is_changed_by_a_reload_is_used_from_then_on(farm: Farm) -> None:
    simulator = await farm.simulator()
    applied = farm.applied(simulator)
    secret = Path(applied["accounts"]["sales"]["apply_token"]["app_secret"]["file"])
    right = secret.read_text()
    secret.write_text("wrong")
    gateway = await farm.gateway(simulator, applied)
    await until(lambda: gateway.lines.of("token.refresh_failed"))
    assert gateway.lines.of("token.refresh_failed")[0]["reason"] == "refused"

    secret.write_text(right)
    assert await gateway.server.reload()

    # At once, whatever there was to be waited for.
    assert (await gateway.dial()).status == 201
    generation = gateway.server.status()["accounts"][0]["generation"]
    assert await gateway.server.reload()
    assert (await gateway.dial()).status == 201
    assert gateway.server.status()["accounts"][0]["generation"] == generation
    assert simulator.fabric.apply_token_requests == 1

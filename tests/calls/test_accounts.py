"""Which account a call is made with: in turn, and one call at a time where that is wanted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from gateway.simulator import APP_KEY, APP_SECRET, Fault, Simulator
from tests.calls.test_keys import durable
from tests.calls.test_whole_call import BEARER, delete, get
from tests.harness import Answered, Farm, Harness, until
from tests.lasting import SqliteFile

NAMES = ("one", "two", "three")


def accounts(farm: Farm, simulator: Simulator, **more: Any) -> dict[str, Any]:
    """A change: three accounts of three users."""
    made = {}
    for name in NAMES:
        file = farm.directory / f"token-{name}"
        file.write_text(simulator.issue_token(f"gateway-{name}"))
        made[name] = {"token": {"file": str(file)}, **more}
    return {"accounts": made, "services": {"billing": {"accounts": list(NAMES)}}}


def exclusive(farm: Farm, simulator: Simulator, **more: Any) -> dict[str, Any]:
    """A change: one account that has one call at a time."""
    file = farm.directory / "token-one"
    if not file.exists():
        file.write_text(simulator.issue_token("gateway-one"))
    made = {"token": {"file": str(file)}, "exclusive": True, **more}
    return {"accounts": {"one": made}, "services": {"billing": {"accounts": ["one"]}}}


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None, second_create="reject")


def busy(answer: Answered) -> bool:
    told = answer.json
    return (answer.status, told.get("code"), told["outcome"]) == (503, "account-busy", "not_sent")


async def test_a_service_gets_the_next_of_its_accounts(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, accounts(farm, simulator))

    used = [(await gateway.dial()).json["account"] for _ in range(6)]

    assert used == [*NAMES, *NAMES]


async def test_keys_do_not_disturb_the_turns(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, accounts(farm, simulator))

    used = [(await gateway.dial(headers={"Idempotency-Key": f"k{n}"})).json["account"] for n in range(6)]

    assert used == [*NAMES, *NAMES]


async def test_asking_what_is_supported_takes_no_turn(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, accounts(farm, simulator))

    used = []
    for _ in range(3):
        supported = (await get(gateway, "/dial/support")).json["account"]
        used.append((await gateway.dial()).json["account"])
        assert used[-1] == supported

    assert used == [*NAMES]


async def test_an_account_without_a_token_has_its_turn_when_no_other_is_left(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, accounts(farm, simulator))
    simulator.expire("gateway-two")
    refused = [(await gateway.dial()).status for _ in range(3)]

    used = {(await gateway.dial()).json["account"] for _ in range(6)}

    assert sorted(refused) == [201, 201, 502]
    assert used == {"one", "three"}


async def test_exclusive_accounts_have_one_call_each_and_then_none_is_free(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, accounts(farm, simulator, exclusive=True))

    placed = await asyncio.gather(*(gateway.dial() for _ in range(3)))
    fourth = await gateway.dial()
    asked_for = await gateway.dial({"media": "voice", "account": "two"})

    assert {answer.json["account"] for answer in placed} == set(NAMES)
    assert busy(fourth)
    assert fourth.headers["Retry-After"] == "1"
    assert busy(asked_for)
    assert len(simulator.creates()) == 3


async def test_a_release_frees_the_account(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, exclusive(farm, simulator))
    first = await gateway.dial()
    assert busy(await gateway.dial())

    assert (await delete(gateway, first.headers["Location"])).status == 200
    second = await gateway.dial()

    assert second.status == 201
    # The first one's id releases nothing of the second.
    assert (await delete(gateway, first.headers["Location"])).json["status"] == "ended"
    assert (await get(gateway, second.headers["Location"])).json["status"] == "accepted"
    assert [request.operation for request in simulator.received] == ["create", "drop", "create"]


@pytest.mark.parametrize("description", ["Call disconnected", "Call queued timeout", "Call failed"])
async def test_an_end_event_frees_the_account(farm: Farm, simulator: Simulator, description: str) -> None:
    gateway = await farm.gateway(simulator, exclusive(farm, simulator))
    first = await gateway.dial()
    simulator.push(description, user="gateway-one")
    assert busy(await gateway.dial())

    assert (await get(gateway, first.headers["Location"] + "/events")).status == 200

    assert (await gateway.dial()).status == 201


@pytest.mark.parametrize(
    "fault",
    [Fault("result-code", "create", code="13"), Fault("status", "create", status=400), Fault("reset-accept")],
    ids=["rejected", "refused", "not sent"],
)
async def test_a_create_that_was_not_accepted_frees_the_account(farm: Farm, simulator: Simulator, fault: Fault) -> None:
    gateway = await farm.gateway(simulator, exclusive(farm, simulator))
    simulator.fault(fault)

    assert (await gateway.dial()).status in {502, 503}

    assert (await gateway.dial()).status == 201
    assert simulator.rings == 1


async def test_an_undocumented_answer_keeps_the_account(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, exclusive(farm, simulator))
    simulator.fault(Fault("no-result-code", "create"))

    assert (await gateway.dial()).json["outcome"] == "unknown"

    assert busy(await gateway.dial())
    assert simulator.rings == 1


async def test_a_call_that_may_have_been_made_keeps_the_account_until_its_time_is_over(
    farm: Farm, simulator: Simulator
) -> None:
    gateway = await farm.gateway(simulator, exclusive(farm, simulator, max_call_seconds=0.5))
    simulator.fault(Fault("close-request", "create"))
    assert (await gateway.dial()).json["outcome"] == "unknown"
    assert busy(await gateway.dial())
    assert simulator.rings == 1
    simulator.push("Call disconnected", user="gateway-one")

    while busy(answer := await gateway.dial()):
        await asyncio.sleep(0.02)

    assert answer.status == 201


async def test_replicas_agree_on_who_has_an_account(farm: Farm, simulator: Simulator) -> None:
    key = farm.directory / "encryption-key"
    key.write_bytes(Fernet.generate_key())
    store = {"store": {"url": f"sqlite://{farm.directory}/state.db", "encryption_keys": [{"file": str(key)}]}}
    change = exclusive(farm, simulator)
    one = await farm.gateway(simulator, change, store)
    two = await farm.gateway(simulator, change, store)

    answers = await asyncio.gather(*(gateway.dial() for gateway in (one, two) * 4))
    placed = [answer for answer in answers if answer.status == 201]

    assert len(placed) == 1
    assert all(busy(answer) for answer in answers if answer.status != 201)
    assert simulator.rings == 1
    location = placed[0].headers["Location"]
    for gateway in (one, two):
        assert (await get(gateway, location)).json["status"] == "accepted"
    assert (await delete(two, location)).json["status"] == "ended"
    assert (await get(one, location)).json["status"] == "ended"
    assert (await one.dial()).status == 201


async def test_an_exclusive_account_is_not_used_while_the_store_cannot_say(farm: Farm, simulator: Simulator) -> None:
    key = farm.directory / "encryption-key"
    key.write_bytes(Fernet.generate_key())
    file = farm.directory / "state.db"
    store = {"store": {"url": f"sqlite://{file}", "encryption_keys": [{"file": str(key)}]}}
    gateway = await farm.gateway(simulator, exclusive(farm, simulator), store)
    file.unlink()
    file.mkdir()

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "store-unavailable", "not_sent")
    assert simulator.received == []


async def test_readers_at_two_replicas_hear_the_same(farm: Farm, simulator: Simulator) -> None:
    key = farm.directory / "encryption-key"
    key.write_bytes(Fernet.generate_key())
    store = {"store": {"url": f"sqlite://{farm.directory}/state.db", "encryption_keys": [{"file": str(key)}]}}
    change = exclusive(farm, simulator)
    one = await farm.gateway(simulator, change, store)
    two = await farm.gateway(simulator, change, store)
    location = (await one.dial()).headers["Location"]

    async def followed(gateway: Harness) -> list[str]:
        told: list[str] = []
        number = 0
        while not told or told[-1] != "ended":
            headers = BEARER | {"Last-Event-ID": str(number)}
            answer = await get(gateway, location + "/events", headers)
            if answer.status == 200:
                told.append(answer.json["status"])
                number = int(answer.headers["Last-Event-ID"])
        return told

    readers = [asyncio.create_task(followed(gateway)) for gateway in (one, two)]
    for description in ("Call in queue", "Call connected", "Call disconnected"):
        await asyncio.sleep(0)
        simulator.push(description, user="gateway-one")

    assert await asyncio.gather(*readers) == [["queued", "connected", "ended"]] * 2
    assert simulator.polls == 0


async def test_a_call_is_nobody_elses_when_its_account_gets_another_user(farm: Farm) -> None:
    """NSLB would mean that one's call."""
    simulator = await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None)
    gateway = await farm.gateway(simulator, farm.applied(simulator, user_id="alice"))
    first = (await gateway.dial()).headers["Location"]
    gateway.settings["accounts"]["sales"]["apply_token"]["user_id"] = "bob"
    gateway.settings["accounts"]["sales"].pop("token", None)
    gateway.write(gateway.settings)
    assert await gateway.server.reload()
    second = (await gateway.dial()).headers["Location"]
    simulator.push("Call connected", user="bob")

    told = await get(gateway, first + "/events")
    released = await delete(gateway, first)

    assert (told.status, told.json["code"], told.json["outcome"]) == (403, "forbidden", "not_sent")
    assert (released.status, released.json["code"], released.json["outcome"]) == (403, "forbidden", "not_sent")
    assert [request.operation for request in simulator.received] == ["create", "create"]
    assert (await get(gateway, first)).json["status"] == "accepted"
    assert (await get(gateway, second + "/events")).json["status"] == "connected"


async def test_an_account_keeps_its_call_when_its_application_gets_another_key(farm: Farm) -> None:
    apps = {APP_KEY: APP_SECRET, "second-app": "second-secret"}
    simulator = await farm.simulator(apps=apps, queue_seconds=None, connect_seconds=None, talk_seconds=None)
    gateway = await farm.gateway(simulator, farm.applied(simulator), {"accounts": {"sales": {"exclusive": True}}})
    first = (await gateway.dial()).headers["Location"]
    applying = gateway.settings["accounts"]["sales"]["apply_token"]
    Path(applying["app_key"]["file"]).write_text("second-app")
    Path(applying["app_secret"]["file"]).write_text("second-secret")
    assert await gateway.server.reload()

    assert busy(await gateway.dial())

    assert len(simulator.creates()) == 1
    assert (await delete(gateway, first)).json["status"] == "ended"
    assert (await gateway.dial()).status == 201


async def test_a_store_that_was_away_is_found_again_though_nothing_is_asked_of_it(farm: Farm) -> None:
    """A gateway that takes the store for gone tells the others of no call that it makes."""
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, durable(farm))
    async with SqliteFile(farm.directory / "state.db").held_up():
        assert (await gateway.dial(headers={"Idempotency-Key": "k"})).json["code"] == "store-unavailable"
    assert (await gateway.metrics())["gateway_store_available"] == 0
    looked = (await gateway.metrics()).get('gateway_store_operations_total{operation="write",result="success"}', 0)

    gateway.server.tend()

    await until(lambda: gateway.server.status()["store"]["available"])
    after = (await gateway.metrics())['gateway_store_operations_total{operation="write",result="success"}']
    assert after == looked + 1
    assert simulator.creates() == []

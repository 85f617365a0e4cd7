"""What is put into a store is sealed for its place, and what comes out is looked at."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet

from gateway.model import Secret, Token
from gateway.store import Kept, MemoryStore, Page, Seal, Shelved, Stored, StoreUnavailable, Vault
from gateway.telemetry import LineWriter, Log, Metrics

ONE, TWO = (Secret(Fernet.generate_key()) for _ in range(2))
VALUE = "eyJ0%2Babc%2F%3D%3D"
TOKEN = Token(Secret(VALUE), 7, 100.0, 3700.0)


@pytest.mark.parametrize("keys", [[], [ONE], [TWO, ONE]])
def test_what_goes_in_comes_out(keys: list[Secret]) -> None:
    seal = Seal(keys)

    token, current = seal.open("k", Stored(7, seal.close("k", TOKEN)))

    assert (token, current) == (TOKEN, True)
    assert token.value.reveal() == VALUE.encode()


def test_nothing_of_it_can_be_read_without_the_key() -> None:
    sealed = Seal([ONE]).close("k", TOKEN)

    assert VALUE.encode() not in sealed
    assert VALUE[:8].encode() not in sealed
    assert sealed != Seal([ONE]).close("k", TOKEN)


def test_the_first_key_seals_and_all_open() -> None:
    old, both, new = Seal([ONE]), Seal([TWO, ONE]), Seal([TWO])
    sealed = old.close("k", TOKEN)

    assert both.open("k", Stored(7, sealed)) == (TOKEN, False)
    assert new.open("k", Stored(7, both.close("k", TOKEN))) == (TOKEN, True)
    with pytest.raises(ValueError, match="no key opens it"):
        new.open("k", Stored(7, sealed))


@pytest.mark.parametrize(
    "stored",
    [
        Stored(8, Seal([ONE]).close("k", TOKEN)),
        Stored(7, Seal([ONE]).close("other", TOKEN)),
        Stored(7, Seal([ONE]).close("k", TOKEN)[:-4]),
        Stored(7, Seal().close("k", TOKEN)),
        Stored(7, Fernet(ONE.reveal()).encrypt(b"[]")),
        Stored(7, Fernet(ONE.reveal()).encrypt(b"{}")),
        Stored(7, Fernet(ONE.reveal()).encrypt(b"no JSON")),
        Stored(7, Fernet(ONE.reveal()).encrypt(b'{"key": "k", "generation": 7, "value": 1}')),
        Stored(7, b""),
    ],
)
def test_what_was_sealed_for_something_else_or_by_somebody_else_is_not_opened(stored: Stored) -> None:
    with pytest.raises(ValueError, match=r".+") as raised:
        Seal([ONE]).open("k", stored)
    assert VALUE not in str(raised.value)


def test_what_is_sealed_is_not_opened_without_a_key() -> None:
    with pytest.raises(ValueError, match="there is no key"):
        Seal().open("k", Stored(7, Seal([ONE]).close("k", TOKEN)))


@pytest.mark.parametrize("keys", [[], [ONE], [TWO, ONE]])
@pytest.mark.parametrize("content", [b"", b"\x00\xff:", b"record:1:k:x"])
def test_a_record_that_goes_in_comes_out_for_its_key_alone(keys: list[Secret], content: bytes) -> None:
    seal = Seal(keys)
    sealed = seal.close_record("dial:\u00fc", content)

    assert seal.open_record("dial:\u00fc", sealed) == content
    for other in ("dial:u", "dial:", "dial:\u00fc:", "", "dial:\u00fc" + content.decode("latin-1")):
        if other != "dial:\u00fc":
            with pytest.raises(ValueError, match="sealed for something else"):
                seal.open_record(other, sealed)


def test_nothing_of_a_record_can_be_read_without_the_key() -> None:
    sealed = Seal([ONE]).close_record("dial:k", b"+4930123456")

    assert b"+4930" not in sealed
    assert b"dial" not in sealed
    assert Seal([TWO, ONE]).open_record("dial:k", sealed) == b"+4930123456"
    for keys in ([TWO], []):
        with pytest.raises(ValueError, match=r"no key opens it|there is no key"):
            Seal(keys).open_record("dial:k", sealed)
    with pytest.raises(ValueError, match="no key opens it"):
        Seal([ONE]).open_record("dial:k", Seal().close_record("dial:k", b"forged"))


@pytest.mark.parametrize("keys", [[], [ONE]])
def test_a_token_is_no_record_and_a_record_no_token(keys: list[Secret]) -> None:
    seal = Seal(keys)
    token = seal.close("k", TOKEN)
    document = token.removeprefix(b"plain:") if not keys else Fernet(ONE.reveal()).decrypt(token)

    with pytest.raises(ValueError, match=r".+"):
        seal.open_record("k", token)
    with pytest.raises(ValueError, match=r".+"):
        seal.open("k", Stored(7, seal.close_record("k", document)))


class Away(MemoryStore):
    """A store whose records can't be reached while it is away."""

    away = False

    async def get(self, key: str) -> Page | None:
        if self.away:
            raise StoreUnavailable("ConnectionError")
        return await super().get(key)


async def test_records_go_through_a_vault_and_are_counted() -> None:
    store, lines, metrics = Away(), io.BytesIO(), Metrics("0")
    log = Log(LineWriter(lines))
    vault = Vault("memory", store, Seal([ONE]), log, metrics)
    assert await vault.record("dial:k") is None

    first = await vault.write("dial:k", b"content", after=0, seconds=60.0)
    assert first
    assert await vault.write("dial:k", b"late", after=0, seconds=60.0) == 0
    assert await vault.record("dial:k") == Kept(first, b"content")
    assert "content'" not in repr(await vault.record("dial:k"))
    page = await store.get("dial:k")
    assert page is not None
    assert b"content" not in page.sealed
    assert not await vault.erase("dial:k", after=first + 1)
    assert await vault.erase("dial:k", after=first)
    assert vault.owner == store.owner
    assert await vault.alive(store.owner)
    assert not await vault.alive("0" * 32)
    store.away = True
    with pytest.raises(StoreUnavailable):
        await vault.record("dial:k")
    assert not vault.available

    counted = {
        (sample.labels["operation"], sample.labels["result"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "gateway_store_operations_total"
    }
    assert counted == {
        ("get", "success"): 3,
        ("get", "unavailable"): 1,
        ("write", "success"): 1,
        ("write", "refused"): 1,
        ("erase", "success"): 1,
        ("erase", "refused"): 1,
        ("alive", "success"): 1,
        ("alive", "refused"): 1,
    }


async def test_a_record_that_no_key_opens_has_a_version_and_can_be_replaced() -> None:
    store, lines = MemoryStore(), io.BytesIO()
    log, metrics = Log(LineWriter(lines)), Metrics("0")
    former = Vault("memory", store, Seal([ONE]), log, metrics)
    vault = Vault("memory", store, Seal([TWO]), log, metrics)
    versions = [await former.write(f"dial:{n}", b"a", after=0, seconds=60.0) for n in range(3)]

    for n, version in enumerate(versions):
        assert await vault.record(f"dial:{n}") == Kept(version, None)
    log.flush()
    assert lines.getvalue().count(b"store.unreadable") == 1
    newer = await vault.write("dial:0", b"b", after=versions[0], seconds=60.0)
    assert await vault.record("dial:0") == Kept(newer, b"b")


async def test_a_seal_that_is_not_the_present_one_is_renewed_when_it_is_met() -> None:
    store = MemoryStore()
    lines = io.BytesIO()
    log, metrics = Log(LineWriter(lines)), Metrics("0")
    assert await Vault("memory", store, Seal([ONE]), log, metrics).put("k", TOKEN, after=0, fence=None)
    vault = Vault("memory", store, Seal([TWO, ONE]), log, metrics)

    shelved = await vault.token("k")

    assert shelved is not None
    assert shelved.token == TOKEN
    stored = await store.read("k")
    assert stored is not None
    assert Seal([TWO]).open("k", stored) == (TOKEN, True)


async def test_what_no_key_opens_is_told_once_and_can_be_replaced() -> None:
    store = MemoryStore()
    lines = io.BytesIO()
    log, metrics = Log(LineWriter(lines)), Metrics("0")
    await Vault("memory", store, Seal([ONE]), log, metrics).put("k", TOKEN, after=0, fence=None)
    vault = Vault("memory", store, Seal([TWO]), log, metrics)

    for _ in range(3):
        shelved = await vault.token("k")
        assert shelved is not None
        assert (shelved.generation, shelved.token) == (7, None)
    log.flush()
    assert lines.getvalue().count(b"store.unreadable") == 1
    newer = replace(TOKEN, generation=8)
    assert await vault.put("k", newer, after=7, fence=None)
    shelved = await vault.token("k")
    assert shelved is not None
    assert shelved.token == newer


class Stubborn(MemoryStore):
    """Listening to it fails twice, first as a store may fail, then as it may not."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        self.times += 1
        if self.times == 1:
            raise StoreUnavailable("ConnectionError")
        if self.times == 2:
            raise ZeroDivisionError
        await super().listen(heard)


async def test_a_vault_goes_on_listening_whatever_happens() -> None:
    lines = io.BytesIO()
    log, metrics = Log(LineWriter(lines)), Metrics("0")
    vault = Vault("memory", Stubborn(), Seal(), log, metrics)
    told = asyncio.Event()
    vault.follow("k", told.set)
    watching = asyncio.create_task(vault.watch())
    try:
        await asyncio.wait_for(told.wait(), 20)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    log.flush()

    events = [json.loads(line)["event"] for line in lines.getvalue().splitlines()]
    assert events == ["store.unavailable", "internal.fault", "store.available"]
    told.clear()
    vault.leave("k", told.set)
    vault.tell_all()
    assert not told.is_set()


class Hiccup(MemoryStore):
    """A store that fails the first time that something is to be sealed anew."""

    def __init__(self) -> None:
        super().__init__()
        self.reseals = 0

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        self.reseals += 1
        if self.reseals == 1:
            raise StoreUnavailable("a hiccup")
        return await super().reseal(key, sealed, generation=generation)


async def test_a_seal_that_could_not_be_renewed_costs_no_token_and_is_renewed_the_next_time_and_once() -> None:
    store = Hiccup()
    log, metrics = Log(LineWriter(io.BytesIO())), Metrics("0")
    assert await Vault("memory", store, Seal([ONE]), log, metrics).put("k", TOKEN, after=0, fence=None)
    vault = Vault("memory", store, Seal([TWO, ONE]), log, metrics)

    assert await vault.token("k") == Shelved(7, TOKEN)
    stored = await store.read("k")
    assert stored is not None
    assert Seal([TWO, ONE]).open("k", stored) == (TOKEN, False)
    # A replica that has the keys in another order would seal it back: it is renewed once, not by turns for ever.
    for _ in range(2):
        assert await vault.token("k") == Shelved(7, TOKEN)
        stored = await store.read("k")
        assert stored is not None
        assert Seal([TWO]).open("k", stored) == (TOKEN, True)
    assert await store.reseal("k", Seal([ONE]).close("k", TOKEN), generation=7)
    assert await vault.token("k") == Shelved(7, TOKEN)
    assert store.reseals == 3


async def test_of_what_no_key_opens_only_the_last_is_remembered_and_nothing_of_what_nobody_follows() -> None:
    store, lines = MemoryStore(), io.BytesIO()
    log, metrics = Log(LineWriter(lines)), Metrics("0")
    former = Vault("memory", store, Seal([ONE]), log, metrics)
    vault = Vault("memory", store, Seal([TWO]), log, metrics)
    told: list[None] = []

    def tell() -> None:
        told.append(None)

    vault.follow("k", tell)
    for generation in range(1, 51):
        token = replace(TOKEN, generation=generation)
        assert await former.put("k", token, after=generation - 1, fence=None)
        for _ in range(2):
            assert await vault.token("k") == Shelved(generation, None)

    log.flush()
    assert lines.getvalue().count(b"store.unreadable") == 50
    assert len(vault._unreadable) == 1
    vault.leave("k", tell)
    assert len(vault._unreadable) == 0

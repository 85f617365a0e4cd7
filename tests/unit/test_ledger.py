"""Which record may take the place of which, how long it lasts, and what happens when there is no room."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.store import Page, StoreUnavailable
from gateway.store.ledger import Ledger

NOW = 1_795_461_225.0
FIRST = 1_795_461_225_000


def test_a_record_takes_the_place_of_the_version_that_its_writer_saw() -> None:
    ledger = Ledger()

    assert ledger.put("dial:k", b"a", after=0, seconds=60.0, now=NOW) == FIRST
    assert ledger.put("dial:k", b"b", after=0, seconds=60.0, now=NOW) == 0
    assert ledger.put("dial:k", b"b", after=FIRST + 1, seconds=60.0, now=NOW) == 0
    assert ledger.get("dial:k", NOW) == Page(FIRST, b"a")
    assert ledger.put("dial:k", b"b", after=FIRST, seconds=60.0, now=NOW) == FIRST + 1
    assert ledger.put("dial:k", b"c", after=FIRST + 1, seconds=60.0, now=NOW + 5) == FIRST + 5000
    assert ledger.get("dial:k", NOW + 5) == Page(FIRST + 5000, b"c")
    assert ledger.put("dial:other", b"a", after=FIRST, seconds=60.0, now=NOW) == 0


def test_what_is_sealed_is_not_shown() -> None:
    assert "hidden" not in repr(Page(1, b"hidden"))


def test_a_record_ends_and_is_then_none() -> None:
    ledger = Ledger()
    version = ledger.put("dial:k", b"a", after=0, seconds=60.0, now=NOW)

    assert ledger.get("dial:k", NOW + 59.999) is not None
    assert ledger.get("dial:k", NOW + 60.0) is None
    assert not ledger.erase("dial:k", after=version, now=NOW + 60.0)
    assert ledger.put("dial:k", b"late", after=version, seconds=60.0, now=NOW + 60.0) == 0
    assert ledger.put("dial:k", b"b", after=0, seconds=60.0, now=NOW + 60.0) == FIRST + 60_000


def test_exactly_one_version_is_taken_away() -> None:
    ledger = Ledger()
    version = ledger.put("dial:k", b"a", after=0, seconds=60.0, now=NOW)

    assert not ledger.erase("dial:k", after=0, now=NOW)
    assert not ledger.erase("dial:k", after=version - 1, now=NOW)
    assert not ledger.erase("dial:other", after=version, now=NOW)
    assert ledger.erase("dial:k", after=version, now=NOW)
    assert ledger.get("dial:k", NOW) is None
    assert not ledger.erase("dial:k", after=version, now=NOW)
    assert ledger.put("dial:k", b"late", after=version, seconds=60.0, now=NOW) == 0


@pytest.mark.parametrize("step", [0.0, 0.0004, 0.001, 0.0017, -0.5])
def test_versions_grow_on_after_erasing_whatever_the_clock_does(step: float) -> None:
    ledger = Ledger()
    versions, now = [], NOW
    for _ in range(500):
        versions.append(ledger.put("dial:k", b"a", after=0, seconds=60.0, now=now))
        assert ledger.erase("dial:k", after=versions[-1], now=now)
        now += step

    assert versions == sorted(set(versions))
    assert versions[0] == FIRST


def test_versions_grow_on_after_the_end_and_after_everything_was_lost() -> None:
    ledger = Ledger()
    versions = [0]
    for _ in range(50):  # faster than the clock
        versions.append(ledger.put("dial:k", b"a", after=versions[-1], seconds=0.001, now=NOW))
    ends = next(NOW + turn / 1000 for turn in range(100) if ledger.get("dial:k", NOW + turn / 1000) is None)
    versions.append(ledger.put("dial:k", b"a", after=0, seconds=0.001, now=ends))
    versions.append(Ledger().put("dial:k", b"a", after=0, seconds=60.0, now=NOW + 1))

    assert versions == sorted(set(versions))


def test_a_full_ledger_forgets_nothing_that_has_not_ended() -> None:
    ledger = Ledger(most=3)
    versions = [ledger.put(f"dial:{n}", b"a", after=0, seconds=60.0 + n, now=NOW) for n in range(3)]

    with pytest.raises(StoreUnavailable, match="full"):
        ledger.put("dial:3", b"a", after=0, seconds=60.0, now=NOW)

    # What is there can be written anew and taken away.
    assert all(ledger.get(f"dial:{n}", NOW) is not None for n in range(3))
    assert ledger.get("dial:3", NOW) is None
    assert ledger.put("dial:0", b"b", after=versions[0], seconds=90.0, now=NOW)
    assert ledger.erase("dial:2", after=versions[2], now=NOW)
    assert ledger.put("dial:3", b"a", after=0, seconds=60.0, now=NOW + 1)
    # The first one that ends now is another than before.
    with pytest.raises(StoreUnavailable, match="full"):
        ledger.put("dial:4", b"a", after=0, seconds=60.0, now=NOW + 60.5)
    assert ledger.put("dial:4", b"a", after=0, seconds=60.0, now=NOW + 61.0)
    assert ledger.get("dial:0", NOW + 61.0) is not None


def test_room_is_found_behind_any_number_of_ends_that_are_out_of_date() -> None:
    ledger = Ledger(most=40)
    versions = [ledger.put(f"dial:{n}", b"a", after=0, seconds=1.0, now=NOW) for n in range(39)]
    ledger.put("dial:last", b"a", after=0, seconds=2.0, now=NOW)
    for n, version in enumerate(versions):
        assert ledger.put(f"dial:{n}", b"b", after=version, seconds=60.0, now=NOW)

    with pytest.raises(StoreUnavailable, match="full"):
        ledger.put("dial:new", b"a", after=0, seconds=1.0, now=NOW + 1.9)
    assert ledger.put("dial:new", b"a", after=0, seconds=1.0, now=NOW + 2.0)


def test_what_has_ended_goes_away_a_little_with_each_write() -> None:
    ledger = Ledger()
    for n in range(1000):
        ledger.put(f"dial:{n}", b"a", after=0, seconds=60.0, now=NOW)
    sizes = [len(ledger)]
    version = 0
    for _ in range(100):
        version = ledger.put("dial:again", b"a", after=version, seconds=60.0, now=NOW + 60.0)
        sizes.append(len(ledger))

    assert sizes[0] == 1000
    assert max(before - after for before, after in pairwise(sizes)) <= 16
    assert sizes[-1] == 1


def test_what_is_written_and_erased_again_and_again_needs_no_more_room() -> None:
    ledger = Ledger()
    version = 0
    for n in range(1000):
        version = ledger.put("dial:again", b"a", after=version, seconds=86_400.0, now=NOW + n)
        passing = ledger.put(f"dial:{n}", b"a", after=0, seconds=86_400.0, now=NOW + n)
        assert ledger.erase(f"dial:{n}", after=passing, now=NOW + n)
        assert len(ledger) <= 3
        assert len(ledger._ends) <= 2 * len(ledger) + 16
    assert ledger.get("dial:again", NOW + 1000) is not None

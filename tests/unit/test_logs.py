"""Log lines: JSON, one each, known fields only, and nothing of what libraries or exceptions say."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from gateway.model import Operation, Outcome, Secret, Trace
from gateway.telemetry import Attempt, LineWriter, Log, Metrics, Record, Telemetry
from gateway.telemetry.logs import FIELDS, LibraryHandler, capture_libraries, loop_exception_handler
from tests.harness import Lines

PLANTED = "PLANTEDSECRET"


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines) -> Log:
    return Log(LineWriter(lines), "debug", lambda: 1_795_000_000.25)


def test_a_line_has_its_time_level_and_event(log: Log, lines: Lines) -> None:
    log.info("gateway.started", version="1", listen=None)

    assert lines.raw == (
        b'{"timestamp":"2026-11-18T11:06:40.250Z","level":"info","event":"gateway.started","version":"1"}\n'
    )


def test_fields_that_are_not_known_are_dropped(log: Log, lines: Lines) -> None:
    log.info("gateway.started", authorization=PLANTED, cookie=PLANTED, version="1")

    assert PLANTED.encode() not in lines.raw
    assert lines.all()[0]["version"] == "1"


def test_values_that_are_no_json_are_masked_or_named_by_type(log: Log, lines: Lines) -> None:
    log.info("gateway.started", version=Secret(PLANTED), listen=object(), admin=PLANTED.encode())

    assert PLANTED.encode() not in lines.raw
    assert (lines.all()[0]["version"], lines.all()[0]["listen"]) == ("***", "<object>")


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_not_written(log: Log, lines: Lines, level: str, written: int) -> None:
    log.set_level(level)
    for write in (log.debug, log.info, log.warning, log.error):
        write("gateway.started")

    assert len(lines.all()) == written


def test_what_a_library_says_is_shown_without_its_values(log: Log, lines: Lines) -> None:
    logger = logging.Logger("aiohttp.server")  # noqa: LOG001 - a logger of its own, outside the tree
    logger.addHandler(LibraryHandler(log))
    logger.error("Error handling request from %s", PLANTED)
    logger.warning(f"ready-made {PLANTED}")  # noqa: G004 - as libraries do it
    logger.debug("chatter")
    try:
        raise ValueError(PLANTED)
    except ValueError:
        logger.exception("Unhandled exception")

    assert PLANTED.encode() not in lines.raw
    first, second, third, fourth = lines.all()
    assert (first["event"], first["logger"], first["level"]) == ("library.message", "aiohttp.server", "error")
    assert first["message"] == "Error handling request from %s"
    assert (second["level"], "message" in second) == ("warning", False)
    assert third["level"] == "debug"
    assert fourth["exception.type"] == "builtins.ValueError"
    assert fourth["exception.stacktrace"][0].startswith("test_logs.py:")


def test_all_libraries_are_captured_and_nothing_else_writes(log: Log, lines: Lines) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        capture_libraries(log)
        logging.getLogger("anything").warning("a %s", PLANTED)
        assert len(root.handlers) == 1
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

    assert lines.all()[0]["message"] == "a %s"


def test_a_fault_in_the_loop_is_told_by_type_and_place(log: Log, lines: Lines) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.set_exception_handler(loop_exception_handler(log))
        loop.call_exception_handler({"message": PLANTED, "exception": LookupError(PLANTED)})
        loop.call_exception_handler({"message": PLANTED, "future": PLANTED})
    finally:
        loop.close()

    assert PLANTED.encode() not in lines.raw
    assert [line["exception.type"] for line in lines.all()] == ["builtins.LookupError", "asyncio"]


async def test_the_lines_of_one_turn_of_the_loop_are_written_at_once() -> None:
    written: list[bytes] = []

    class Sink(Lines):
        def write(self, data: bytes, /) -> int:
            written.append(data)
            return len(data)

    log = Log(LineWriter(Sink()))
    log.info("gateway.started")
    log.info("gateway.stopped")
    before = list(written)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert before == []
    assert len(written) == 1
    assert written[0].count(b"\n") == 2


def test_a_reader_of_the_log_that_went_away_stops_nothing() -> None:
    class Gone(Lines):
        def write(self, data: bytes, /) -> int:
            raise BrokenPipeError

    Log(LineWriter(Gone())).info("gateway.started")


def full_record() -> Record:
    """A record of which everything is known."""
    record = Record(1.0, "request-1", Trace("a" * 32, "b" * 16, "00"))
    record.method, record.route, record.client_address = "POST", "/dial", "127.0.0.1"
    record.service, record.account, record.operation, record.media = "billing", "sales", Operation.CREATE, "voice"
    record.outcome, record.code, record.result_code, record.status = Outcome.REJECTED, "a", "not digits", 502
    record.authentication, record.rejected, record.sent = ("api_key", "accepted"), "overload", True
    record.tried(Attempt("https://e:1", Outcome.NOT_SENT, None, 0.0), "e", 1)
    record.tried(Attempt("https://f:1", Outcome.REJECTED, "not digits", 0.5), "f", 2)
    return record


def test_the_line_of_a_request_has_known_fields_only_and_no_result_code_that_is_not_digits(
    log: Log, lines: Lines
) -> None:
    Telemetry(log, Metrics("0"), lambda: 3.0).close(full_record())

    (line,) = lines.requests()
    assert set(line) <= FIELDS
    assert (line["result_code"], line["attempts"], line["duration"], line["upstream.duration"]) == (
        "other",
        2,
        2.0,
        0.5,
    )
    assert (line["server.address"], line["server.port"], line["level"]) == ("f", 2, "warning")
    assert json.loads(lines.raw)["event"] == "request.forwarded"


def test_a_record_is_counted_once_in_each_metric() -> None:
    metrics = Metrics("0")
    Telemetry(Log(LineWriter(Lines()), "error"), metrics, lambda: 3.0).close(full_record())

    counted = {
        sample.name: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.endswith(("_total", "_count")) and sample.value
    }
    assert counted["gateway_requests_total"] == 1
    assert counted["gateway_request_duration_seconds_count"] == 1
    assert counted["gateway_upstream_requests_total"] == 1  # the last of two with different labels
    assert counted["gateway_upstream_duration_seconds_count"] == 1
    assert counted["gateway_authentication_total"] == 1
    assert counted["gateway_rejected_total"] == 1


def test_the_lag_is_the_worst_of_fifteen_seconds() -> None:
    metrics = Metrics("0")

    def lag() -> float | None:
        return metrics.registry.get_sample_value("gateway_event_loop_lag_seconds")

    metrics.loop_was_late(0.25)
    for _ in range(14):
        metrics.loop_was_late(-0.001)
    assert lag() == 0.25
    metrics.loop_was_late(0.0)
    assert lag() == 0.0

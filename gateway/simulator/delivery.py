"""Owns the writing of answers, whole or damaged as a fault orders it.

Refuses nothing: what goes wrong here is wrong on purpose. Source of the damages: the kinds in `faults`.
"""

from __future__ import annotations

import gzip
import http
import itertools
import json

from gateway.simulator.connection import Connection
from gateway.simulator.faults import Fault
from gateway.simulator.wire import Answer, json_answer

_WITHOUT_BODY = (204, 304)


def instead(fault: Fault) -> Answer:
    """The answer that a fault puts in the place of the normal one."""
    args = fault.args
    if fault.kind == "status":
        body = args.get("body", "").encode()
        headers = {"Content-Type": "application/json;charset=UTF-8"} if body else {}
        return Answer(args.get("status", 500), body, list((headers | args.get("headers", {})).items()))
    if fault.kind == "result-code":
        content = {"resultCode": args.get("code", "13"), "resultDesc": args.get("description", "connect failed")}
        return json_answer(200, content)
    if fault.kind == "redirect":
        location = args.get("location", "https://elsewhere.example/")
        return Answer(args.get("status", 302), b"", [("Location", location)])
    if fault.kind == "not-json":
        body = args.get("body", "connect successfully.").encode()
        return Answer(200, body, [("Content-Type", "application/json;charset=UTF-8")])
    if fault.kind == "oversize":
        envelope = len(json.dumps({"resultCode": "0", "resultDesc": ""}, separators=(",", ":")))
        padding = "x" * max(0, args.get("bytes", 1024 * 1024) - envelope)
        return json_answer(200, {"resultCode": "0", "resultDesc": padding})
    return json_answer(200, {})


async def deliver(connection: Connection, answer: Answer, fault: Fault | None, *, last: bool = False) -> bool:
    """Write the answer, and say whether the connection goes on.

    `last`: the client asked for the connection to be closed. Raises one of `connection.BROKEN` if it hung up.
    """
    if fault is None:
        await connection.send(_encode(answer, [("Connection", "close")] if last else []))
        return not last
    if fault.kind in ("reset-request", "close-request", "silence", "garbage"):
        await _nothing(connection, fault)
        return False
    await _damaged(connection, answer, fault, [("Connection", "close")] if last or fault.kind == "close" else [])
    if fault.kind in ("reset-answer", "reset-after"):
        await connection.sent()
        connection.reset()
        return False
    return not last and fault.kind not in ("close", "close-after", "truncated")


async def _nothing(connection: Connection, fault: Fault) -> None:
    if fault.kind == "reset-request":
        connection.reset()
    elif fault.kind == "silence":
        await connection.gone
    elif fault.kind == "garbage":
        await connection.send(fault.args.get("data", "\x00\x17 garbage, not HTTP\r\n\r\n").encode("latin-1"))


async def _damaged(connection: Connection, answer: Answer, fault: Fault, more: list[tuple[str, str]]) -> None:
    args = fault.args
    if fault.kind == "content-type":
        value = args.get("value", "text/html")
        kept = [(name, content) for name, content in answer.headers if name != "Content-Type"]
        await connection.send(_encode(Answer(answer.status, answer.body, [("Content-Type", value), *kept]), more))
    elif fault.kind == "encoded":
        coded = Answer(answer.status, gzip.compress(answer.body), [*answer.headers, ("Content-Encoding", "gzip")])
        await connection.send(_encode(coded, more))
    elif fault.kind == "headers-flood":
        flood = [(f"X-Flood-{number}", "f" * 1000) for number in range(1 + args.get("bytes", 70 * 1024) // 1000)]
        await connection.send(_encode(answer, [*flood, *more]))
    elif fault.kind == "truncated":
        await connection.send(_encode(answer, more, missing=args.get("missing", 10)))
    elif fault.kind == "chunked":
        await _in_odd_pieces(connection, answer, more)
    elif fault.kind == "informational":
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        await connection.send(_encode(answer, more))
    elif fault.kind == "unsolicited":
        second = Answer(answer.status, args["body"].encode(), answer.headers) if "body" in args else answer
        await connection.send(_encode(answer, more) + _encode(second, []))
    elif fault.kind == "reset-answer":
        whole = _encode(answer, more)
        await connection.send(whole[: len(whole) // 2])
    else:
        await connection.send(_encode(answer, more))


async def _in_odd_pieces(connection: Connection, answer: Answer, more: list[tuple[str, str]]) -> None:
    await connection.send(_head(answer, [("Transfer-Encoding", "chunked"), *more]))
    left = answer.body
    for size in itertools.cycle((1, 3, 7, 2, 13)):
        if not left:
            break
        piece, left = left[:size], left[size:]
        # The size with a leading zero, and apart from its data: both legal, both rare.
        await connection.send(b"0%X\r\n" % len(piece))
        await connection.send(piece + b"\r\n")
    await connection.send(b"0\r\n\r\n")


def _encode(answer: Answer, more: list[tuple[str, str]], *, missing: int = 0) -> bytes:
    if answer.status in _WITHOUT_BODY:
        return _head(answer, more)
    return _head(answer, [("Content-Length", str(len(answer.body) + missing)), *more]) + answer.body


def _head(answer: Answer, more: list[tuple[str, str]]) -> bytes:
    try:
        phrase = http.HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {answer.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in [*answer.headers, *more]]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")

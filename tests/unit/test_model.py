"""A secret shows itself nowhere, and is compared without telling where it differs."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.model import Secret, Trace
from gateway.telemetry.logs import describe

VALUE = "PLANTEDSECRET%2B="


def test_every_form_of_a_secret_is_a_mask() -> None:
    secret = Secret(VALUE)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", "%s" % secret, repr([secret])]  # noqa: UP031

    assert all("***" in text and VALUE not in text for text in shown)
    assert secret.reveal() == VALUE.encode()


def test_a_pickled_secret_has_lost_its_value() -> None:
    pickled = pickle.dumps(Secret(VALUE))

    assert VALUE.encode() not in pickled
    assert pickle.loads(pickled).reveal() == b"***"  # noqa: S301 - our own bytes


def test_a_copy_inside_the_process_keeps_it() -> None:
    secret = Secret(VALUE)
    assert copy.copy(secret).reveal() == copy.deepcopy([secret])[0].reveal() == VALUE.encode()


def test_serialisers_refuse_it() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret(VALUE))
    with pytest.raises(TypeError):
        orjson.dumps(Secret(VALUE))


def test_it_has_neither_length_nor_hash_nor_order_nor_attributes() -> None:
    secret = Secret(VALUE)
    uses: tuple[Callable[[Any], object], ...] = (len, hash, iter, vars)
    for use in uses:
        with pytest.raises(TypeError):
            use(secret)
    with pytest.raises(TypeError):
        assert secret < Secret(VALUE)  # type: ignore[operator]


def test_equality_is_of_values_and_only_between_secrets() -> None:
    assert Secret(VALUE) == Secret(VALUE.encode())
    assert Secret(VALUE) != Secret(VALUE + "x")
    assert Secret(VALUE) != VALUE


def test_neither_a_traceback_nor_its_description_shows_one() -> None:
    secret = Secret(VALUE)
    try:
        raise ValueError(secret)
    except ValueError as exc:
        text = "".join(traceback.format_exception(exc)) + repr(describe(exc))
    assert VALUE not in text


def test_a_trace_is_continued_in_its_field() -> None:
    assert Trace("a" * 32, "b" * 16, "01").traceparent() == f"00-{'a' * 32}-{'b' * 16}-01"

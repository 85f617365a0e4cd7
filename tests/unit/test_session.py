"""What is sent for a user: exact, its own, and never more than a session needs."""

from __future__ import annotations

import base64
import io
import json
from urllib.parse import quote

from gateway.model import Secret, Token
from gateway.store import MemoryStore, Seal, Vault
from gateway.telemetry import LineWriter, Log, Metrics
from gateway.tokens import Account, StaticSource
from gateway.tokens.session import Session, user_of


def of(user: str, number: int) -> str:
    """A token as the interface page describes it."""
    document = {"tenantId": "7", "channelId": "2023", "userId": user, "number": number}
    return quote(base64.b64encode(json.dumps(document).encode()))


def account(value: str) -> Account:
    log, metrics = Log(LineWriter(io.BytesIO())), Metrics("0")
    vault = Vault("memory", MemoryStore(), Seal(), log, metrics)
    source = StaticSource(Secret(value), lambda: Secret(value), "file", vault, lambda: 7.0)
    made = Account("sales", source, vault, log, metrics, lasts=3600.0, wall=lambda: 7.0)
    made.take(source.first())
    return made


def sent(made: Account) -> bytes:
    credential = made.credential()
    assert credential is not None
    return credential.cookie


def test_the_cookie_is_the_token_byte_for_byte_and_then_the_session() -> None:
    session, token = Session(), Token(Secret("one%2F%3D=="), 3, 0.0)

    assert session.credential(token).cookie == b"ccmessaging-token=one%2F%3D=="
    assert session.keep({b"JSESSIONID": b"a", b"JSESSIONID2": b"b"})
    credential = session.credential(token)
    assert credential.cookie == b"ccmessaging-token=one%2F%3D==; JSESSIONID=a; JSESSIONID2=b"
    assert credential.secrets == (Secret("one%2F%3D=="), Secret("a"), Secret("b"))
    assert credential.generation == 3
    assert b"one" not in repr(credential).encode()
    assert session.keep({b"JSESSIONID": b""})
    assert session.credential(token).cookie == b"ccmessaging-token=one%2F%3D==; JSESSIONID2=b"


def test_a_session_does_not_grow_without_end() -> None:
    session = Session()
    assert session.keep({b"JSESSIONID": b"a"})

    assert not session.keep({b"JSESSIONID": b"a"})
    assert not session.keep({b"JSESSION%d" % number: b"x" for number in range(5)})
    assert not session.keep({b"JSESSIONID": b"x" * 5000})
    assert session.credential(Token(Secret("t"), 1, 0.0)).cookie == b"ccmessaging-token=t; JSESSIONID=a"


async def test_the_next_token_of_the_same_user_goes_on_with_the_session_and_anothers_does_not() -> None:
    made = account(of("anna", 1))
    made.keep_session({b"JSESSIONID": b"a"}, 1)

    made.take(Token(Secret(of("anna", 2)), 2, 0.0))
    assert sent(made) == f"ccmessaging-token={of('anna', 2)}; JSESSIONID=a".encode()
    made.take(Token(Secret(of("otto", 3)), 3, 0.0))
    assert sent(made) == f"ccmessaging-token={of('otto', 3)}".encode()


async def test_a_token_that_does_not_say_whose_it_is_goes_on_with_nobodys_session() -> None:
    made = account("opaque")
    made.keep_session({b"JSESSIONID": b"a"}, 1)

    made.take(Token(Secret("opaque-too"), 2, 0.0))

    assert sent(made) == b"ccmessaging-token=opaque-too"


async def test_what_is_set_for_a_former_token_is_not_kept() -> None:
    made = account(of("anna", 1))
    made.take(Token(Secret(of("anna", 2)), 2, 0.0))

    made.keep_session({b"JSESSIONID": b"late"}, 1)

    assert b"late" not in sent(made)
    made.keep_session({b"JSESSIONID": b"b"}, 2)
    assert sent(made).endswith(b"; JSESSIONID=b")


def test_whose_a_token_is() -> None:
    assert user_of(Secret(of("anna", 1))) == ("7", "2023", "anna") == user_of(Secret(of("anna", 2)))
    for other in ("", "opaque", "eyJ0", quote(base64.b64encode(b"[1]")), quote(base64.b64encode(b'{"userId": 1}'))):
        assert user_of(Secret(other)) is None

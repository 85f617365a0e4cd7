"""No secret comes out anywhere: the real command, at log level debug, with recognisable secrets everywhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import urllib.parse
from pathlib import Path

import aiohttp
import yaml
from cryptography.fernet import Fernet

from gateway.simulator import Fault
from tests.harness import Farm, digest, settings, until
from tests.running import Process

TOKEN = "eyJTOKENSECRET%2BabcDEF%2F123%3D%3D"
KEY = "dgw_KEYSECRETKEYSECRETKEYSECRETKEYSECRETKEYSECR"
WRONG = "dgw_WRONGSECRETWRONGSECRETWRONGSECRETWRONGSEC1"
CALLERS = "CALLERSECRET0123456789abcdef"
PHONE = "+49 170 55501234"

ENVIRONMENT = "ENVSECRETxyz%3D"
APP = "APPKEYSECRET0123456789"
APP_SECRET = 'APPSECRETSECRET "quoted" 0123456789'


def forms(secret: str) -> set[bytes]:
    """A secret as it is, percent-encoded, decoded, and in Base64 at each of its three alignments."""
    plain = {secret, urllib.parse.unquote(secret), urllib.parse.quote(secret, safe="")}
    found = {text.encode() for text in plain}
    for text in plain:
        for shift in range(3):
            coded = base64.b64encode(b"x" * shift + text.encode())[4:-4]
            found |= {coded, coded.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def leaks(seen: bytes, secrets: list[str]) -> list[str]:
    """Which secrets can be found in some bytes, in whatever form."""
    return [secret for secret in secrets if any(form in seen for form in forms(secret))]


async def test_no_secret_is_in_logs_metrics_status_bodies_or_tracebacks(  # noqa: PLR0915 - one process, one story
    farm: Farm, tmp_path: Path
) -> None:
    simulator = await farm.simulator(apps={APP: APP_SECRET})
    own = simulator.issue_token("gateway-sales")
    token = tmp_path / "token"
    token.write_text(own)
    stale = tmp_path / "stale"
    stale.write_text(TOKEN)
    configured = settings(simulator, token)
    configured["accounts"]["stale"] = {"token": {"file": str(stale)}}
    configured["accounts"]["env"] = {"token": {"env": "DIAL_TEST_TOKEN"}}
    (tmp_path / "app-key").write_text(APP)
    (tmp_path / "app-secret").write_text(APP_SECRET)
    encryption_key = Fernet.generate_key()
    (tmp_path / "encryption-key").write_bytes(encryption_key)
    for name in ("applied", "rejected"):
        configured["accounts"][name] = {
            "apply_token": {
                "url": simulator.fabric_url,
                "app_key": {"file": "app-key"},
                "app_secret": {"file": "app-secret"},
                "user_id": f"gateway-{name}",
                "channel_id": "2023",
                "tls": {"ca": str(simulator.ca), "server_name": simulator.fabric_name},
            }
        }
    configured["accounts"]["rejected"]["apply_token"]["locale"] = "xx"
    configured["store"] = {
        "url": f"sqlite://{tmp_path}/state.db",
        "encryption_keys": [{"file": str(tmp_path / "encryption-key")}],
    }
    configured["services"]["billing"] = {
        "accounts": ["sales", "stale", "env", "applied", "rejected"],
        "credentials": [{"api_key": digest(KEY)}],
    }
    configured["upstream"]["timeouts"]["response"] = 0.3
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(configured))
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-X",
            "dev",
            "-m",
            "gateway",
            "serve",
            "--config",
            str(path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"DIAL_TEST_TOKEN": ENVIRONMENT},
            cwd=Path(__file__).parents[2],
        )
    )
    assert process.process.stderr is not None
    drinking = asyncio.create_task(process.process.stderr.read())
    await process.started()
    seen = bytearray()
    base, admin = process.base, process.admin
    faults: list[Fault | None] = [
        None,
        *(
            Fault(kind, operation="create", times=1)
            for kind in ("garbage", "not-json", "reset-request", "reset-answer", "redirect", "oversize", "silence")
        ),
        Fault("status", operation="create", times=1, status=500, body=json.dumps({"resultCode": TOKEN})),
        Fault("result-code", operation="create", times=1, code="7", description=f"{own} {PHONE}"),
        Fault("result-code", operation="create", times=1, code="7", description=urllib.parse.unquote(own)),
        Fault("result-code", operation="create", times=1, code=PHONE, description=own),
    ]
    async with aiohttp.ClientSession() as session:

        async def dial(
            key: str = KEY, account: str = "sales", body: object = None, query: str = "", **fields: str
        ) -> None:
            content = {"media": "voice", "account": account} if body is None else body
            headers = {"Authorization": f"Bearer {key}", "X-Secret": CALLERS, "User-Agent": CALLERS} | fields
            async with session.post(f"{base}/dial{query}", json=content, headers=headers) as response:
                seen.extend(await response.read())
                seen.extend(repr(response.headers).encode())

        for fault in faults:
            if fault is not None:
                simulator.fault(fault)
            await dial()
        await dial(account="stale")
        await dial(account="env")
        await dial(account="applied")
        await dial(account="rejected")
        refusals = [
            Fault("status", operation="applyToken", status=500, body=json.dumps({"exceptionInfo": f"{APP} {own}"})),
            Fault("status", operation="applyToken", status=200, body=json.dumps({"token": f"{own} {APP_SECRET}"})),
            Fault("status", operation="applyToken", status=200, body=json.dumps({"resultCode": own})),
            Fault("garbage", operation="applyToken"),
        ]
        for refusal in refusals:
            simulator.fault(refusal)
            simulator.expire("gateway-applied")
            await dial(account="applied")
        await dial(key=WRONG)
        await dial(account=CALLERS)
        await dial(body={"media": CALLERS})
        await dial(body={"media": "voice", CALLERS: 1, KEY: 2, PHONE: 3})
        await dial(body=[PHONE, KEY])
        await dial(query=f"?api_key={KEY}&phone={urllib.parse.quote(PHONE)}")
        await dial(query=f"/{CALLERS}")
        await dial(Cookie=f"ccmessaging-token={CALLERS}")
        await dial(traceparent=CALLERS, Expect=CALLERS)
        host, _, port = base.removeprefix("http://").rpartition(":")
        for raw in (
            f"{KEY} {CALLERS}\r\n\r\n",
            f"POST /dial HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nbad field {CALLERS}\r\n\r\n",
            f"POST /{CALLERS * 500} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"POST /dial HTTP/1.1\r\nHost: a\r\nX: {CALLERS * 900}\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(raw.encode())
            seen.extend(await reader.read())
            writer.close()
        path.write_text(
            f"{path.read_text()}\n{CALLERS}: {KEY}\nupstreem: '{TOKEN}'\naccounts: {{a: {{token: {TOKEN}}}}}\n"
        )
        await until(lambda: process.of("config.rejected"))
        for page in ("/status", "/metrics", "/readyz", f"/{CALLERS}"):
            async with session.get(admin + page, headers={"X-Secret": CALLERS}) as response:
                body = await response.read()
                seen.extend(body if not page.endswith(CALLERS) else b"")
    assert await process.ended() == 0
    output = b"".join([*process.text, await drinking])

    secrets = [own, TOKEN, KEY, WRONG, CALLERS, PHONE, ENVIRONMENT, APP, APP_SECRET, encryption_key.decode()]
    applied = [request for request in simulator.fabric_received if request.operation == "applyToken"]
    access = {value for request in applied for value in request.fields("authorization")}
    assert access
    secrets += [value.removeprefix("Bearer ") for value in access]
    secrets += [value for request in simulator.creates() for value in request.cookies().values()]
    assert len(simulator.creates()) >= len(faults)
    assert output.count(b'"event":"request.') >= len(faults) + 14
    assert leaks(output, secrets) == []
    assert leaks(bytes(seen), secrets) == []
    assert output.count(b'"event":"token.refresh_failed"') >= 2
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert stored
    assert leaks(stored, secrets) == []
    assert b"Traceback" not in output


def test_the_search_for_leaks_finds_each_form() -> None:
    for form in forms(TOKEN):
        assert leaks(b"before" + form + b"after", [TOKEN]) == [TOKEN]
    assert leaks(b"nothing here", [TOKEN, KEY]) == []

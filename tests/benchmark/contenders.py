"""Who takes part: nginx as the contact centre, nginx as the gateway, and the gateway itself.

Both gateways do the whole job of one `POST /dial`: they find the caller by its bearer key, swap in the
account's cookie, send it over TLS 1.3 on a kept-alive connection whose certificate they verify against a
private CA, relay the JSON, and write a JSON line to a log (`/dev/null`, so that the disk takes no part). nginx does
neither count nor trace, and it does not read what it relays: it is the measure, not a rival.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from gateway.simulator.certificates import NSLB_NAME, Certificates
from tests.benchmark.load import Caller, CannotMeasure
from tests.benchmark.machine import CONTENDER_CORE, LOCAL, OTHER_CORE, Process, free_port, program

_CREATE: Final = "/service-cloud/rest/webadapter/v1/webadapterfacade/createClickToCall"
_ANSWER: Final = '{"resultCode":"0","resultDesc":"connect successfully."}'
_ACCOUNTS: Final = 10
_STARTING_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.002
_ROOT: Final = Path(__file__).resolve().parents[2]

# One process each and no daemon, so that there is one id to measure and to end.
_NGINX: Final = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000000;
{http}
}}
"""

_UPSTREAM: Final = """
  access_log off;
  default_type application/json;
  map_hash_bucket_size 256;
  map $http_cookie $known {{ default 0; {cookies} }}
  server {{
    listen {address} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location = {create} {{
      if ($known = 0) {{ return 401; }}
      if ($request_method != POST) {{ return 400; }}
      return 200 '{answer}';
    }}
  }}
"""

_GATEWAY: Final = """
  log_format line escape=json '{{"timestamp":"$time_iso8601","level":"info","event":"request.forwarded",'
    '"request_id":"$request_id","service":"$caller","operation":"create","http.request.method":"$request_method",'
    '"http.route":"/dial","http.response.status_code":$status,"client.address":"$remote_addr",'
    '"server.address":"$upstream_addr","duration":$request_time,"upstream.duration":$upstream_response_time}}';
  access_log /dev/null line;
  map_hash_bucket_size 256;
  map_hash_max_size {hash_size};
  map $http_authorization $token {{ default ""; {tokens} }}
  map $http_authorization $caller {{ default ""; {callers} }}
  upstream nslb {{
    server {upstream};
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {address};
    location = /dial {{
      if ($token = "") {{ return 401; }}
      proxy_pass https://nslb{create};
      proxy_http_version 1.1;
      proxy_pass_request_headers off;
      proxy_set_header Connection "";
      proxy_set_header Host {upstream};
      proxy_set_header Content-Type "application/json; charset=UTF-8";
      proxy_set_header Cookie $token;
      proxy_set_header X-Request-ID $request_id;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_body '{{"mediaAbility": "0"}}';
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {ca};
      proxy_ssl_server_name on;
      proxy_ssl_name {name};
      add_header X-Request-ID $request_id;
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Keys:
    """So many keys of callers, spread over so many services."""

    keys: list[str]
    services: int

    @classmethod
    def make(cls, count: int, services: int) -> Keys:
        """New ones."""
        return cls(["dgw_" + secrets.token_urlsafe(32) for _ in range(count)], services)

    def service(self, number: int) -> str:
        """The service of a key by the key's number."""
        return f"service-{number % self.services}"

    def sample(self, most: int = 1000) -> list[str]:
        """Some of them, from all over: what the load sends."""
        return self.keys[:: max(1, len(self.keys) // most)][:most]


class Upstream:
    """The contact centre: nginx with a certificate of a CA of its own, one token for each account."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        certificates = Certificates(directory)
        pair = certificates.issue("nslb")
        self.ca = certificates.ca
        self.address = f"{LOCAL}:{free_port()}"
        self.tokens = {f"account-{n}": f"benchmark%3D{secrets.token_hex(32)}" for n in range(_ACCOUNTS)}
        http = _UPSTREAM.format(
            cookies=" ".join(f'"ccmessaging-token={token}" 1;' for token in self.tokens.values()),
            address=self.address,
            certificate=pair.certificate,
            key=pair.key,
            create=_CREATE,
            answer=_ANSWER,
        )
        self.process = _nginx(directory, http, OTHER_CORE)

    def account(self, service: str) -> str:
        """The account of a service."""
        return f"account-{int(service.rpartition('-')[2]) % _ACCOUNTS}"


class Contender:
    """A gateway that runs: its name in the tables, its address, the keys that it knows and its process.

    `accepted` is the status with which it answers a dial.
    """

    def __init__(self, name: str, address: str, keys: Keys, process: Process, accepted: int) -> None:
        self.name = name
        self.address = address
        self.keys = keys
        self.process = process
        self._accepted = accepted

    def await_first_answer(self) -> float:
        """Wait until it accepts a dial, and look that it refuses strangers; when it accepted (monotonic)."""
        await_listener(self.name, self.address, self.process)
        with Caller(self.address, self.keys.keys[0]) as caller:
            caller.connect()
            status, body = caller.dial()
        at = time.monotonic()
        if status != self._accepted or b"connect successfully." not in body:
            raise CannotMeasure(f"{self.name} answers a dial with {status}: {body.decode(errors='replace')}")
        with Caller(self.address, "dgw_" + "x" * 43) as stranger:
            stranger.connect()
            status, _ = stranger.dial()
        if status != HTTPStatus.UNAUTHORIZED:
            raise CannotMeasure(f"{self.name} answers an unknown key with {status}")
        return at


def await_listener(name: str, address: str, process: Process) -> None:
    """Wait until a process listens."""
    give_up = time.monotonic() + _STARTING_SECONDS
    with Caller(address, "") as probe:
        while not probe.connect():
            if process.ended or time.monotonic() > give_up:
                raise CannotMeasure(f"{name} does not start:\n{process.told()}")
            time.sleep(_POLL_SECONDS)


def nginx_gateway(directory: Path, upstream: Upstream, keys: Keys) -> Contender:
    """Start nginx as the gateway; the caller ends its `process`."""
    directory.mkdir()
    address = f"{LOCAL}:{free_port()}"
    tokens = []
    callers = []
    for number, key in enumerate(keys.keys):
        service = keys.service(number)
        cookie = f"ccmessaging-token={upstream.tokens[upstream.account(service)]}"
        tokens.append(f'"Bearer {key}" "{cookie}";')
        callers.append(f'"Bearer {key}" "{service}";')
    http = _GATEWAY.format(
        hash_size=max(2048, 4 * len(keys.keys)),
        tokens="\n".join(tokens),
        callers="\n".join(callers),
        upstream=upstream.address,
        address=address,
        create=_CREATE,
        ca=upstream.ca,
        name=NSLB_NAME,
    )
    process = _nginx(directory, http, CONTENDER_CORE)
    # It passes NSLB's status on.
    return Contender("nginx", address, keys, process, HTTPStatus.OK)


def dial_gateway(
    directory: Path, upstream: Upstream, keys: Keys, *, name: str = "gateway", source: Path | None = None
) -> Contender:
    """Start `dial-gateway serve`, or that of another source tree; the caller ends its `process`."""
    address = f"{LOCAL}:{free_port()}"
    file = _configuration(directory, address, upstream, keys, len(keys.keys))
    root = source if source is not None else _ROOT
    process = _python(["gateway", "serve", "--config", file], directory, root)
    return Contender(name, address, keys, process, HTTPStatus.CREATED)


def gateway_of_many(directory: Path, upstream: Upstream, keys: Keys, *, name: str) -> Contender:
    """Start the gateway with keys past its configuration, see `many`; the caller ends its `process`."""
    address = f"{LOCAL}:{free_port()}"
    file = _configuration(directory, address, upstream, keys, keys.services)
    table = directory / "keys"
    with table.open("w", encoding="ascii") as lines:
        for number, key in enumerate(keys.keys):
            service = keys.service(number)
            lines.write(f"{_digest(key)} {service} {upstream.account(service)}\n")
    process = _python(["tests.benchmark.many", file, table], directory, _ROOT)
    return Contender(name, address, keys, process, HTTPStatus.CREATED)


def _configuration(directory: Path, address: str, upstream: Upstream, keys: Keys, count: int) -> Path:
    """Write the configuration of a gateway with the first so many of the keys."""
    directory.mkdir()
    accounts: dict[str, object] = {}
    for account, token in upstream.tokens.items():
        file = directory / account
        file.write_text(token, encoding="ascii")
        file.chmod(0o600)
        accounts[account] = {"token": {"file": str(file)}}
    services: dict[str, dict[str, list[object]]] = {}
    for number, key in enumerate(keys.keys[:count]):
        service = keys.service(number)
        entry = services.setdefault(service, {"accounts": [upstream.account(service)], "credentials": []})
        entry["credentials"].append({"api_key": f"sha256:{_digest(key)}"})
    configuration = {
        "listen": {"address": address},
        "admin": {"address": f"{LOCAL}:{free_port()}"},
        "upstream": {
            "endpoints": [f"https://{upstream.address}"],
            "tls": {"ca": str(upstream.ca), "server_name": NSLB_NAME},
            "timeouts": {"connect": 2, "response": 10},
            "connections": 100,
        },
        "accounts": accounts,
        "services": services,
        "log": {"level": "info"},
    }
    # JSON is YAML, and is written in a moment however many keys there are.
    file = directory / "gateway.yaml"
    file.write_text(json.dumps(configuration, indent=0), encoding="ascii")
    return file


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def _python(module: Sequence[str | Path], directory: Path, root: Path) -> Process:
    return Process(
        [sys.executable, "-m", *module],
        CONTENDER_CORE,
        directory / "errors",
        environment={"PYTHONPATH": str(root)},
        directory=root,
    )


def _nginx(directory: Path, http: str, core: int) -> Process:
    file = directory / "nginx.conf"
    file.write_text(_NGINX.format(directory=directory, http=http), encoding="ascii")
    # nginx opens its default error log before it has read where ours is, and complains if it may not.
    command: list[str | Path] = [program("nginx"), "-p", directory, "-c", file, "-e", directory / "early.log"]
    return Process(command, core, directory / "errors", environment={"TMPDIR": os.fspath(directory)})

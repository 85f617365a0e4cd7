"""nginx, a TLS server that none of us wrote, stands in for NSLB."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import need
from tests.harness import Farm, until

CONFIGURATION = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log {root}/error.log info;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  client_body_in_single_buffer on;
  log_format seen escape=json '{{"line":"$request","body":"$request_body","host":"$http_host",'
    '"type":"$http_content_type","length":"$http_content_length","cookie":"$http_cookie","id":"$http_x_request_id",'
    '"trace":"$http_traceparent","for":"$http_x_forwarded_for","accept":"$http_accept","agent":"$http_user_agent",'
    '"encoding":"$http_accept_encoding","te":"$http_transfer_encoding","connection":"$http_connection",'
    '"authorization":"$http_authorization","key":"$http_x_api_key","token":"$http_ccmessaging_token",'
    '"tls":"$ssl_protocol","name":"$ssl_server_name","alpn":"$ssl_alpn_protocol","serial":"$connection",'
    '"nth":"$connection_requests","bytes":"$request_length"}}';
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name nslb.example;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    keepalive_requests 3;
    location = /service-cloud/rest/webadapter/v1/webadapterfacade/createClickToCall {{
      access_log {root}/seen.log seen;
      default_type application/json;
      add_header Set-Cookie "JSESSIONID=node1; Path=/; Secure; HttpOnly";
      proxy_pass http://unix:{root}/answer.sock;
    }}
  }}
  server {{
    listen unix:{root}/answer.sock;
    location / {{
      default_type application/json;
      return 200 '{{"resultCode":"0","resultDesc":"connect successfully."}}';
    }}
  }}
}}
"""


@dataclass
class Nginx:
    """A running nginx and what it has seen."""

    endpoint: str
    root: Path

    def seen(self) -> list[dict[str, str]]:
        path = self.root / "seen.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
async def nginx(farm: Farm, unused_tcp_port: int) -> AsyncIterator[Nginx]:
    program = need("nginx")
    root = farm.directory / "n"
    root.mkdir()
    pair = farm.certificates.issue("nginx", hosts=["nslb.example"])
    path = root / "nginx.conf"
    path.write_text(CONFIGURATION.format(root=root, port=unused_tcp_port, certificate=pair.certificate, key=pair.key))
    with (root / "output").open("wb") as output:
        process = subprocess.Popen([program, "-p", str(root), "-c", str(path)], stdout=output, stderr=output)
        try:
            for _ in range(400):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
                except OSError:
                    assert process.poll() is None, (root / "output").read_text()
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    break
            yield Nginx(f"https://127.0.0.1:{unused_tcp_port}", root)
        finally:
            process.terminate()
            process.wait(timeout=10)


async def test_nginx_sees_exactly_the_documented_request(farm: Farm, nginx: Nginx) -> None:
    simulator = await farm.simulator()
    token = "eyJ0ZW5hbnRJZCI6IjEi%2Ba%2Fb%3D%3D+/="
    gateway = await farm.gateway(simulator, endpoints=[nginx.endpoint], token=token)

    first = await gateway.dial(
        headers={"X-Request-ID": "one", "Cookie": "evil=1", "X-Forwarded-For": "8.8.8.8", "Accept-Encoding": "gzip"}
    )
    second = await gateway.dial({"media": "video"}, headers={"X-Request-ID": "two"})
    await until(lambda: len(nginx.seen()) == 2)

    assert (first.status, second.status) == (201, 201)
    assert "Set-Cookie" not in first.headers
    assert first.json["result_description"] == "connect successfully."
    one, two = nginx.seen()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", one.pop("trace"))
    two.pop("trace")
    sizes = int(one.pop("bytes")), int(two.pop("bytes"))
    assert sizes[1] - sizes[0] == len("; JSESSIONID=node1")
    serial = one.pop("serial")
    assert one == {
        "line": "POST /service-cloud/rest/webadapter/v1/webadapterfacade/createClickToCall HTTP/1.1",
        "body": '{"mediaAbility": "0"}',
        "host": nginx.endpoint.removeprefix("https://"),
        "type": "application/json; charset=UTF-8",
        "length": "21",
        "cookie": f"ccmessaging-token={token}",
        "id": "one",
        "for": "127.0.0.1",
        "accept": "application/json",
        "agent": "",
        "encoding": "",
        "te": "",
        "connection": "",
        "authorization": "",
        "key": "",
        "token": "",
        "tls": "TLSv1.3",
        "name": "nslb.example",
        "alpn": "http/1.1",
        "nth": "1",
    }
    assert two == one | {
        "body": '{"mediaAbility": "1"}',
        "cookie": f"ccmessaging-token={token}; JSESSIONID=node1",
        "id": "two",
        "nth": "2",
        "serial": serial,
    }
    assert simulator.received == []


async def test_connections_that_nginx_gives_up_cost_no_call(farm: Farm, nginx: Nginx) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=[nginx.endpoint])

    answers = [await gateway.dial() for _ in range(20)]
    await until(lambda: len(nginx.seen()) == 20)

    assert [answer.status for answer in answers] == [201] * 20
    assert max(int(line["nth"]) for line in nginx.seen()) == 3


async def test_an_nginx_of_another_name_is_not_trusted(farm: Farm, nginx: Nginx) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(
        simulator, {"upstream": {"tls": {"server_name": "other.example"}}}, endpoints=[nginx.endpoint]
    )

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"]) == (502, "upstream-untrusted")
    assert nginx.seen() == []

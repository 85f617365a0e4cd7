"""A configuration is taken whole, or every fault of it is told at once with its position."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import Configuration, ConfigurationError, json_schema, load
from gateway.model import Medium, Operation
from gateway.simulator import Certificates

ROOT = Path(__file__).parents[2]
KEY = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
PLANTED = "PLANTEDSECRET0123456789"

MINIMAL = f"""\
upstream: {{endpoints: ["https://10.0.0.1:18446"]}}
accounts:
  sales: {{token: {{file: token}}}}
services:
  billing:
    accounts: [sales]
    credentials: [{{api_key: "{KEY}"}}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "token").write_bytes(b"abc%2F%3D==+/\n")
    return tmp_path / "gateway.yaml"


def read(path: Path, text: str, **environ: str) -> Configuration:
    path.write_text(text)
    return load(path, environ).configuration


def faults(path: Path, text: str | bytes, **environ: str) -> list[str]:
    """Every fault, without the name of the file."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as raised:
        load(path, environ)
    lines = [str(fault) for fault in raised.value.faults]
    assert all(line.startswith(f"{path}:") for line in lines)
    assert path in raised.value.files
    return [line.removeprefix(f"{path}:") for line in lines]


def test_the_least_that_works_has_the_documented_defaults(path: Path) -> None:
    configuration = read(path, MINIMAL)

    assert str(configuration.listen.address) == "127.0.0.1:8080"
    assert str(configuration.admin.address) == "127.0.0.1:9090"
    assert (configuration.upstream.timeouts.connect, configuration.upstream.timeouts.response) == (2, 10)
    assert (configuration.upstream.connections, configuration.upstream.warm) == (100, 1)
    assert configuration.upstream.tls.minimum_version == "TLSv1.2"
    assert not configuration.upstream.token_header
    assert configuration.upstream.result_codes[Operation.CREATE]["13"].code == "no-agent-available"
    assert configuration.drain_seconds == 25
    assert configuration.services["billing"].allow.media == (Medium.VOICE, Medium.VIDEO)
    token = configuration.accounts["sales"].token
    assert token is not None
    assert token.value.reveal() == b"abc%2F%3D==+/"
    assert configuration.accounts["sales"].lifetime_seconds == 3600
    assert configuration.store.url.kind == "memory"


def test_everything_that_is_wrong_is_told_at_once_with_line_and_column(path: Path) -> None:
    text = f"""\
listen: {{address: "0.0.0.0:8080", adress: 1}}
upstream:
  endpoints: ["http://10.0.0.1:1", "https://ok:1", "https://ok:1"]
  conections: 7
  warm: 200
  timeouts: {{connect: "2", response: -1}}
  tls: {{ca: nowhere.pem, minimum_version: TLSv1.1, certificate: token}}
accounts:
  sales: {{token: {PLANTED}}}
  support: {{}}
services:
  billing:
    accounts: [sale, sales, sales]
    credentials:
      - api_key: {PLANTED}
      - {{api_key: "{KEY}", not_after: soon}}
      - api_key: "{KEY}"
    allow: {{media: [fax], operations: create}}
  care: {{accounts: [], credentials: []}}
drain_seconds: .inf
log: {{level: loud}}
"""
    found = faults(path, text)

    assert found == [
        "1:19: listen.address: is open to others than this machine, so credentials would travel in clear: configure listen.tls",  # noqa: E501
        "1:35: listen.adress: unknown key; did you mean `address`?",
        "3:15: upstream.endpoints.0: must begin with https://, because the token must not travel in clear",
        "4:3: upstream.conections: unknown key; did you mean `connections`?",
        "5:9: upstream.warm: is more than upstream.connections",
        "6:23: upstream.timeouts.connect: must be a number, without quotes",
        "6:38: upstream.timeouts.response: must be more than 0",
        "7:13: upstream.tls.ca: the file can't be read: No such file or directory",
        "7:43: upstream.tls.minimum_version: must be TLSv1.2 or TLSv1.3",
        "7:65: upstream.tls.certificate: certificate and key go together",
        "9:18: accounts.sales.token: must be {file: path} or {env: NAME}; a secret is never written here",
        "10:12: accounts.support: must have either `token` or `apply_token`",
        "13:15: services.billing.accounts: names something twice",
        "13:16: services.billing.accounts.0: no account of this name is configured",
        "15:18: services.billing.credentials.0.api_key: must be sha256: and 64 hexadecimal digits, as `dial-gateway key new` prints them",  # noqa: E501
        "16:105: services.billing.credentials.1.not_after: must be a date, as in 2027-01-31, or a time, as in 2027-01-31T12:00:00Z",  # noqa: E501
        "17:18: services.billing.credentials.2.api_key: the same key stands here twice",
        "18:21: services.billing.allow.media.0: must be one of voice, video",
        "18:39: services.billing.allow.operations: must be a list",
        "19:20: services.care.accounts: must not be empty",
        "19:37: services.care.credentials: must not be empty",
        "20:16: drain_seconds: must be a finite number",
        "21:14: log.level: must be debug, info, warning or error",
    ]
    assert PLANTED not in "".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1:1: the file is empty"),
        ("- 1\n", "1:1: must be a mapping of keys to values"),
        (b"\xff\xfe", "1:1: the file is not UTF-8"),
        ("a: [1\nb: 2\n", "2:2: not valid YAML: expected ',' or ']', but got ':'"),
        ("a:\n\t- 1\n", "2:1: not valid YAML"),
        ("a: 1\n---\nb: 1\n", "2:1: not valid YAML"),
        (f"a: !{PLANTED} 1\n", "1:4: a: the value can't be read"),
        (f"a: *{PLANTED}\n", "1:4: not valid YAML"),
        ("x" * (1024 * 1024 + 1), "1:1: the file is over 1048576 bytes"),
        ("log: {level: info}\nlog: {level: debug}\n", "2:1: log: the key stands here twice"),
        ("log: {<<: {level: info}}\n", "1:7: log: merge keys (<<) are not supported"),
        ("log: &a {level: *a}\n", "1:6: log.level: an alias contains itself"),
        ("13: 1\n", '1:1: a key must be text; write a number in quotes, as in "13"'),
        ("? [a]\n: 1\n", "1:3: a key must be text"),
        ("log: {level: 2027-13-45}\n", "1:14: log.level: the value can't be read"),
        ("[" * 3000, "1:1: not valid YAML"),
    ],
)
def test_what_is_no_plain_yaml_is_a_fault(path: Path, text: str | bytes, fault: str) -> None:
    found = faults(path, text)

    assert any(line.startswith(fault) for line in found), found
    assert PLANTED not in "".join(found)


def test_aliases_that_grow_without_end_are_refused(path: Path) -> None:
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    assert any("grow without end" in line for line in faults(path, "\n".join(levels)))


def test_anchors_and_aliases_are_allowed(path: Path) -> None:
    text = MINIMAL.replace("accounts: [sales]", "accounts: &mine [sales]") + (
        f"  care: {{accounts: *mine, credentials: [{{api_key: '{OTHER}'}}]}}\n"
    )
    assert read(path, text).services["care"].accounts == ("sales",)


@pytest.mark.parametrize("key", ["circuit", "apply_token", "issuers", "limits"])
def test_keys_of_what_is_not_there_are_refused_and_not_ignored(path: Path, key: str) -> None:
    assert any(f"{key}: unknown key" in line for line in faults(path, MINIMAL + f"{key}: {{}}\n"))


def test_a_key_that_may_be_a_secret_is_not_repeated(path: Path) -> None:
    found = faults(path, MINIMAL + "dgw_abcdefghijklmnop: 1\n" + "'a b': 1\n" + f"{PLANTED}{PLANTED}: 1\n")

    assert [line.partition(": ")[2] for line in found] == ["…: unknown key"] * 3


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.9.9.9:80", "127.9.9.9:80"),
        ("localhost:80", "localhost:80"),
        ("[::1]:80", "[::1]:80"),
        ("unix:/run/gateway/dial.sock", "unix:/run/gateway/dial.sock"),
    ],
)
def test_addresses_that_only_this_machine_can_reach(path: Path, written: str, address: str) -> None:
    assert str(read(path, MINIMAL + f'listen: {{address: "{written}"}}\n').listen.address) == address


@pytest.mark.parametrize(
    "written", ["8080", ":8080", "a:b", "host:99999", "::1:80", "[127.0.0.1]:80", "unix:relative", "a b:80", "1", "~"]
)
def test_what_is_no_address(path: Path, written: str) -> None:
    assert [line for line in faults(path, MINIMAL + f"listen: {{address: {written!r}}}\n") if "listen.address" in line]


@pytest.mark.parametrize("written", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "gateway.example:80"])
def test_addresses_that_others_can_reach_need_tls(path: Path, written: str) -> None:
    (fault,) = faults(path, MINIMAL + f'listen: {{address: "{written}"}}\n')
    assert "in clear" in fault


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        ("https://10.0.0.1", "https://10.0.0.1:443"),
        ("https://nslb.example:18446/", "https://nslb.example:18446"),
        ("https://[2001:db8::1]:1", "https://[2001:db8::1]:1"),
    ],
)
def test_endpoints(path: Path, written: str, endpoint: str) -> None:
    text = MINIMAL.replace("https://10.0.0.1:18446", written)
    assert [str(found) for found in read(path, text).upstream.endpoints] == [endpoint]


@pytest.mark.parametrize(
    "written",
    ["http://a:1", "a:1", "https://", "https://a:b", "https://a:0", "https://u:p@a", "https://a/x", "https://a?b",
     "https://a#", "https://a b", "https://a:99999", "https://[::1"],
)  # fmt: skip
def test_what_is_no_endpoint(path: Path, written: str) -> None:
    (fault,) = faults(path, MINIMAL.replace("https://10.0.0.1:18446", written))
    assert fault.startswith("1:24: upstream.endpoints.0: must")


def test_result_codes_are_added_to_the_default(path: Path) -> None:
    codes = '{create: {"21": {status: 503, code: closed}}, drop: {"13": {code: upstream-rejected}}}'
    results = read(path, MINIMAL.replace('18446"]', f'18446"], result_codes: {codes}')).upstream.result_codes

    assert {
        (operation.value, code, mapping.status, mapping.code)
        for operation, m in results.items()
        for code, mapping in m.items()
    } == {
        ("create", "13", 503, "no-agent-available"),
        ("create", "21", 503, "closed"),
        ("drop", "13", 502, "upstream-rejected"),
    }


@pytest.mark.parametrize("code", ["1234567", "x", ""])
def test_result_codes_are_one_to_six_digits(path: Path, code: str) -> None:
    (fault,) = faults(path, MINIMAL.replace('18446"]', f'18446"], result_codes: {{create: {{"{code}": {{code: a}}}}}}'))
    assert "result_codes.create" in fault


def test_a_code_of_the_contract_keeps_its_meaning(path: Path) -> None:
    mapping = '{create: {"21": {status: 503, code: not-found}}}'
    (fault,) = faults(path, MINIMAL.replace('18446"]', f'18446"], result_codes: {mapping}'))
    assert "another meaning" in fault


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC)),
        ("2027-01-31 12:00:00", datetime(2027, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_date_is_the_last_day_and_a_time_is_exact(path: Path, written: str, expected: datetime) -> None:
    text = MINIMAL.replace(f'api_key: "{KEY}"', f'api_key: "{KEY}", not_after: {written}')
    assert read(path, text).services["billing"].credentials[0].not_after == expected


@pytest.mark.parametrize("written", ["~", "", "soon", "1", "[]"])
def test_an_end_that_was_forgotten_is_not_none(path: Path, written: str) -> None:
    text = MINIMAL.replace(f'api_key: "{KEY}"', f'api_key: "{KEY}", not_after: {written}')
    (fault,) = faults(path, text)
    assert "not_after: must be a date" in fault


def test_long_names_are_shown_and_what_looks_like_a_secret_is_not(path: Path) -> None:
    text = MINIMAL.replace("billing:", "customer-notification-service:").replace("[sales]", "[gone]")
    assert faults(path, text) == [
        "6:16: services.customer-notification-service.accounts.0: no account of this name is configured"
    ]


def test_pins_are_taken_as_openssl_prints_them(path: Path) -> None:
    printed = "sha256:" + ":".join(["AB"] * 32)
    text = MINIMAL.replace('18446"]', f'18446"], tls: {{pins: ["{printed}"]}}')
    assert read(path, text).upstream.tls.pins == ("sha256:" + "ab" * 32,)
    assert faults(path, text.replace("AB:AB", "AB:A")) != []


def test_certificates_must_be_usable_and_fit_their_keys(path: Path) -> None:
    authority = Certificates(path.parent / "ca")
    one, two = authority.issue("one"), authority.issue("two")
    tls = f"listen: {{tls: {{certificate: {one.certificate}, key: {one.key}}}}}\n"
    loaded = read(path, MINIMAL + tls)
    assert loaded.listen.tls is not None
    mixed = MINIMAL + tls.replace(str(one.key), str(two.key))
    assert any("listen.tls.key: is not the private key" in line for line in faults(path, mixed))
    empty = MINIMAL.replace('18446"]', '18446"], tls: {ca: token}')
    assert any("upstream.tls.ca: the file has no PEM certificate" in line for line in faults(path, empty))
    swapped = MINIMAL + f"listen: {{tls: {{certificate: {path.parent / 'token'}, key: {one.key}}}}}\n"
    assert any("listen.tls.certificate: the file has no PEM" in line for line in faults(path, swapped))


def test_every_file_that_is_named_is_told_also_by_a_broken_version(path: Path) -> None:
    path.write_text(MINIMAL)
    assert load(path, {}).files == {path, path.parent / "token"}
    path.write_text(MINIMAL + "nonsense: 1\n")
    with pytest.raises(ConfigurationError) as raised:
        load(path, {})
    assert raised.value.files == {path, path.parent / "token"}


def test_a_file_that_is_not_there_is_a_fault(path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(path, {})
    assert str(raised.value) == f"{path}:1:1: the file can't be read: No such file or directory"


def test_the_committed_schema_is_the_present_one() -> None:
    assert json.loads((ROOT / "config" / "schema.json").read_text()) == json_schema()


def keys(schema: dict[str, Any]) -> set[str]:
    """Every key that a schema knows."""
    models = [schema, *schema["$defs"].values()]
    return {name for model in models for name in model.get("properties", {})}


def test_the_example_shows_every_key() -> None:
    text = (ROOT / "config" / "gateway.example.yaml").read_text()
    missing = {key for key in keys(json_schema()) if f"{key}:" not in text}
    assert missing == set()


@pytest.mark.parametrize("name", ["gateway.example.yaml", "minimal.yaml", "sidecar.yaml"])
def test_every_configuration_that_is_shipped_is_valid(tmp_path: Path, name: str) -> None:
    authority = Certificates(tmp_path / "ca")
    shutil.copy(authority.ca, tmp_path / "ca.pem")
    (tmp_path / "sales").write_text("token")
    for secret in ("app-key", "app-secret"):
        (tmp_path / secret).write_text("secret")
    text = (ROOT / "config" / name).read_text()
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(json.dumps(yaml.safe_load(text), default=str)))
    text = text.replace("/var/run/secrets/gateway/", f"{tmp_path}/").replace("/etc/gateway/ca/nslb-ca.pem", "ca.pem")
    text = text.replace("/etc/gateway/nslb-ca.pem", "ca.pem").replace("/etc/gateway/fabric-ca.pem", "ca.pem")

    assert read(tmp_path / name, text, DIAL_GATEWAY_SUPPORT_TOKEN="token").services


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tree=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(PLANTED),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["listen", "address", "tls", "upstream", "endpoints", "accounts", "sales", "token", "file", "env",
                 "services", "billing", "credentials", "api_key", "not_after", "allow", "media", "log", "level",
                 "result_codes", "create", "13", "timeouts", "connect", "pins", "ca", "warm", "connections"]
            ),
            inner,
            max_size=4,
        ),
        max_leaves=25,
    )
)  # fmt: skip
def test_whatever_is_in_the_file_is_told_as_faults_and_never_repeated(path: Path, tree: object) -> None:
    found = faults(path, yaml.safe_dump(tree, allow_unicode=True))

    assert found
    assert PLANTED not in "".join(found)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_bytes_of_any_kind_are_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        load(path, {})

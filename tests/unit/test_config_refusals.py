"""What looks readable and is refused: pipes, tags, half characters, codes and names that can't be meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import ConfigurationError, SecretFault, Watcher, load
from gateway.config.secrets import Kind, fetch
from gateway.simulator import Certificates

MINIMAL = f"""\
upstream: {{endpoints: ["https://10.0.0.1:18446"]}}
accounts: {{sales: {{token: {{file: token}}}}}}
services: {{billing: {{accounts: [sales], credentials: [{{api_key: "sha256:{"ab" * 32}"}}]}}}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("abc\n")
    return tmp_path / "gateway.yaml"


def refused(path: Path, text: str) -> ConfigurationError:
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load(path, {})
    return raised.value


def faults(path: Path, text: str) -> list[str]:
    return [str(fault).removeprefix(f"{path}:") for fault in refused(path, text).faults]


def upstream(settings: str) -> str:
    return MINIMAL.replace('18446"]', f'18446"], {settings}')


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")

    assert faults(path, MINIMAL.replace("file: token", "file: pipe")) == [
        "2:27: accounts.sales.token: the file can't be read: it is a pipe"
    ]
    assert faults(path, upstream("tls: {ca: pipe}")) == ["1:61: upstream.tls.ca: the file can't be read: it is a pipe"]
    with pytest.raises(SecretFault, match="pipe"):
        fetch("file", str(path.parent / "pipe"), Kind.TOKEN, {})
    with pytest.raises(ConfigurationError) as raised:
        load(path.parent / "pipe", {})
    assert [str(fault) for fault in raised.value.faults] == [
        f"{path.parent}/pipe:1:1: the file can't be read: it is a pipe"
    ]


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!mine", "!!set", "!!omap"])
def test_a_tag_on_a_mapping_is_not_passed_over(path: Path, tag: str) -> None:
    assert faults(path, MINIMAL + f"log: {tag} {{level: info}}\n") == ["4:6: log: a tag (!) is not supported here"]


def test_half_a_character_is_refused_before_it_becomes_the_name_of_a_file(path: Path) -> None:
    error = refused(path, upstream('tls: {ca: "\\ud800"}') + '"\\udfff": 1\n')

    assert [str(fault).removeprefix(f"{path}:") for fault in error.faults] == [
        "1:61: upstream.tls.ca: the value can't be read",
        "4:1: the key has a character that can't be read",
    ]
    assert error.files == {path, path.parent / "token"}


def test_a_name_that_no_file_can_have_is_absent_to_the_watcher() -> None:
    watcher = Watcher()
    watcher.watch([Path("half-\ud800")])

    assert not watcher.changed()


def test_success_is_no_failure_to_be_mapped(path: Path) -> None:
    (fault,) = faults(path, upstream('result_codes: {create: {"0": {status: 503, code: closed}}}'))

    assert fault == "1:75: upstream.result_codes.create.0: is success, which can't be given another meaning"


@pytest.mark.parametrize("name", ["a b", "nslb.example\\n", "https://nslb", "nslb:443"])
def test_a_server_name_is_the_name_of_a_host(path: Path, name: str) -> None:
    assert faults(path, upstream(f'tls: {{server_name: "{name}"}}')) == [
        "1:70: upstream.tls.server_name: must be the name of a host, or an address"
    ]


def test_a_port_of_thousands_of_digits_is_told_like_any_other(path: Path) -> None:
    (fault,) = faults(path, MINIMAL + f'listen: {{address: "127.0.0.1:{"9" * 5000}"}}\n')

    assert fault.endswith("listen.address: must be host:port or unix:/path, with a port from 0 to 65535")


def test_a_time_with_a_zone_is_kept_in_utc(path: Path) -> None:
    path.write_text(MINIMAL.replace('"}]', '", not_after: 2027-01-31T12:00:00+02:00}]'))
    not_after = load(path, {}).configuration.services["billing"].credentials[0].not_after

    assert not_after is not None
    assert not_after.isoformat() == "2027-01-31T10:00:00+00:00"
    (fault,) = faults(path, MINIMAL.replace('"}]', '", not_after: 0001-01-01T00:00:00+14:00}]'))
    assert fault.endswith("not_after: is out of range")


def test_a_certificate_is_looked_at_also_when_its_key_is_not_there(path: Path) -> None:
    tls = "listen: {tls: {certificate: token, key: nowhere}}\n"

    assert faults(path, MINIMAL + tls) == [
        "4:29: listen.tls.certificate: the file has no PEM certificate",
        "4:41: listen.tls.key: the file can't be read: No such file or directory",
    ]


def test_a_certificate_without_its_key(path: Path) -> None:
    one = Certificates(path.parent / "ca").issue("one")

    assert faults(path, upstream(f"tls: {{certificate: {one.certificate}}}")) == [
        "1:70: upstream.tls.certificate: certificate and key go together"
    ]


def test_what_could_not_be_read_is_told_once(path: Path) -> None:
    assert faults(path, MINIMAL + "log: {level: !mine loud}\n") == ["4:14: log.level: the value can't be read"]


@pytest.mark.parametrize("status", [401, 405, 407, 426, 418 + 1, 499, 520, 599])
def test_a_status_that_does_not_stand_for_itself(path: Path, status: int) -> None:
    (fault,) = faults(path, upstream(f'result_codes: {{create: {{"7": {{status: {status}, code: closed}}}}}}'))

    assert fault.endswith("upstream.result_codes.create.7.status: is not a status that stands for itself")


def test_a_certificate_that_only_openssl_takes(path: Path) -> None:
    one = Certificates(path.parent / "ca").issue("one")
    trusted = path.parent / "trusted.pem"
    trusted.write_text(one.certificate.read_text().replace("CERTIFICATE", "TRUSTED CERTIFICATE"))

    (fault,) = faults(path, MINIMAL + f"listen: {{tls: {{certificate: {trusted}, key: {one.key}}}}}\n")

    assert fault.endswith("listen.tls.certificate: the file has no PEM certificate")


@pytest.mark.parametrize(
    "secret", ["3f2b8c1e-9d4a-4c55-8a0e-5b1f0c2d7e99", "0123456789abcdef0123456789abcdef", "Ab3" * 9, "dgw_short"]
)
def test_a_secret_in_the_place_of_a_key_is_not_repeated(path: Path, secret: str) -> None:
    (fault,) = faults(path, MINIMAL + f"{secret}: 1\n")

    assert secret not in fault
    assert fault == "4:1: …: unknown key"

"""A changed configuration is taken whole or not at all, and no request notices."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.simulator import Certificates, Fault
from tests.harness import KEY, Farm, digest, until

NEW_KEY = "dgw_" + "n" * 43


async def test_a_new_key_is_taken_and_the_old_one_is_not(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    gateway.settings["services"]["billing"]["credentials"] = [{"api_key": digest(NEW_KEY)}]
    gateway.write(gateway.settings)

    assert await gateway.server.reload()

    assert (await gateway.dial(key=NEW_KEY)).status == 201
    assert (await gateway.dial(key=KEY)).status == 401
    assert gateway.lines.of("config.reloaded")
    metrics = await gateway.metrics()
    assert metrics['gateway_config_reloads_total{result="success"}'] == 1
    assert metrics["gateway_config_last_reload_successful"] == 1
    assert metrics["gateway_config_last_success_timestamp_seconds"] > 0


async def test_a_broken_version_changes_nothing_and_is_told_with_its_positions(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    before = (await gateway.metrics())["gateway_config_last_success_timestamp_seconds"]
    gateway.settings["services"]["billing"]["credentials"] = [{"api_key": digest(NEW_KEY)}]
    gateway.settings["upstreem"] = {}
    gateway.write(gateway.settings)

    assert not await gateway.server.reload()

    assert (await gateway.dial(key=KEY)).status == 201
    assert (await gateway.dial(key=NEW_KEY)).status == 401
    (line,) = gateway.lines.of("config.rejected")
    assert any(f"{gateway.path}:" in fault and "upstreem" in fault for fault in line["faults"])
    metrics = await gateway.metrics()
    assert metrics['gateway_config_reloads_total{result="failure"}'] == 1
    assert metrics["gateway_config_last_reload_successful"] == 0
    assert metrics["gateway_config_last_success_timestamp_seconds"] == before


async def test_what_a_running_gateway_cannot_change_is_refused(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    gateway.settings["listen"]["address"] = "127.0.0.2:0"
    gateway.write(gateway.settings)

    assert not await gateway.server.reload()
    await until(lambda: gateway.lines.of("config.rejected"))

    (line,) = gateway.lines.of("config.rejected")
    assert "listen.address" in line["faults"][0]
    assert f"{gateway.path}:" in line["faults"][0]
    assert (await gateway.dial()).status == 201


async def test_a_new_token_in_the_file_is_found_by_watching(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    await gateway.dial()
    gateway.token_file.write_text(simulator.issue_token("gateway-sales"))
    await until(lambda: gateway.lines.of("config.reloaded"))

    await gateway.dial()

    assert [request.status for request in simulator.creates()] == [200, 200]
    session = simulator.creates()[1].cookies().get("JSESSIONID")
    assert session is not None
    assert gateway.server.status()["accounts"][0]["generation"] == 2


async def test_a_kubernetes_swap_of_a_directory_is_found(farm: Farm) -> None:
    simulator = await farm.simulator()
    mount = farm.directory / "mount"
    for version in ("one", "two"):
        (mount / version).mkdir(parents=True)
        (mount / version / "token").write_text(simulator.issue_token(f"user-{version}"))
    (mount / "..data").symlink_to("one")
    (mount / "token").symlink_to("..data/token")
    gateway = await farm.gateway(simulator, {"accounts": {"sales": {"token": {"file": str(mount / "token")}}}})
    await gateway.dial()
    (mount / "..data_tmp").symlink_to("two")
    (mount / "..data_tmp").rename(mount / "..data")
    await until(lambda: gateway.lines.of("config.reloaded"))

    await gateway.dial()

    tokens = [request.cookies()["ccmessaging-token"] for request in simulator.creates()]
    assert tokens == [(mount / version / "token").read_text() for version in ("one", "two")]


async def test_a_renewed_authority_is_used_for_new_connections(farm: Farm) -> None:
    renewed = Certificates(farm.directory / "renewed")
    simulator = await farm.simulator(certificates=renewed)
    ca = farm.directory / "ca.pem"
    shutil.copy(farm.certificates.ca, ca)
    gateway = await farm.gateway(simulator, {"upstream": {"tls": {"ca": str(ca)}}})
    assert (await gateway.dial()).json["code"] == "upstream-untrusted"
    shutil.copy(renewed.ca, ca)

    assert await gateway.server.reload()

    assert (await gateway.dial()).status == 201


async def test_requests_under_way_are_finished_by_the_configuration_they_began_with(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("delay", operation="create", times=1, seconds=0.05))
    under_way = asyncio.create_task(gateway.dial())
    await until(simulator.creates)
    gateway.settings["upstream"]["timeouts"]["response"] = 9
    gateway.write(gateway.settings)

    assert await gateway.server.reload()

    assert (await under_way).status == 201
    assert (await gateway.dial()).status == 201
    assert len(simulator.creates()) == 2


async def test_no_call_is_lost_while_the_configuration_changes_again_and_again(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    async def calls() -> list[int]:
        return [(await gateway.dial()).status for _ in range(40)]

    running = [asyncio.create_task(calls()) for _ in range(4)]
    for number in range(8):
        gateway.settings["upstream"]["timeouts"]["response"] = 10 + number
        gateway.write(gateway.settings)
        assert await gateway.server.reload()
    statuses = [status for task in running for status in await task]

    assert statuses == [201] * 160
    assert len(simulator.creates()) == 160


async def test_a_storm_of_signals_is_one_reload(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator())

    for _ in range(20):
        gateway.server._reload_soon()
    await until(lambda: gateway.lines.of("config.reloaded"))
    await gateway.server.reload()
    gateway.server.log.flush()

    assert len(gateway.lines.of("config.reloaded")) == 2


async def test_what_was_rejected_for_a_passing_reason_is_tried_again_and_told_once(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    server = gateway.server
    newer = simulator.issue_token("gateway-sales")
    gateway.settings["accounts"]["sales"]["token"] = {"env": "DIAL_GATEWAY_TEST_TOKEN"}
    gateway.write(gateway.settings)
    await server.look()
    for _ in range(25):
        await server.look()
    server.log.flush()
    rejected = len(gateway.lines.of("config.rejected"))
    refused = await gateway.dial()
    monkeypatch.setenv("DIAL_GATEWAY_TEST_TOKEN", newer)

    for _ in range(10):
        await server.look()
    server.log.flush()
    reloaded = len(gateway.lines.of("config.reloaded"))
    for _ in range(25):
        await server.look()

    assert rejected == 1
    assert refused.status == 502
    assert (await gateway.dial()).status == 201
    assert (reloaded, len(gateway.lines.of("config.reloaded"))) == (1, 1)
    metrics = await gateway.metrics()
    assert metrics['gateway_config_reloads_total{result="failure"}'] == 1


async def test_a_certificate_that_cannot_be_told_of_leaves_everything_as_it_was(farm: Farm) -> None:
    simulator = await farm.simulator()
    pair = farm.certificates.issue("listener", hosts=["127.0.0.1"])
    certificate = farm.directory / "tls.crt"
    shutil.copy(pair.certificate, certificate)
    tls = {"certificate": str(certificate), "key": str(pair.key)}
    gateway = await farm.gateway(simulator, {"listen": {"tls": tls}})
    before = gateway.server.api.runtime
    certificate.write_text(pair.certificate.read_text().replace("CERTIFICATE", "TRUSTED CERTIFICATE"))
    gateway.settings["services"]["billing"]["credentials"] = [{"api_key": digest(NEW_KEY)}]
    gateway.write(gateway.settings)

    assert not await gateway.server.reload()

    gateway.server.log.flush()
    assert gateway.server.api.runtime is before
    assert gateway.lines.of("config.rejected")


async def test_a_file_that_changes_while_it_is_read_is_another_change(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = await farm.simulator()
    applied = farm.applied(simulator)
    authority = farm.directory / "ca.pem"
    shutil.copy(simulator.ca, authority)
    applied["accounts"]["sales"]["apply_token"]["tls"]["ca"] = str(authority)
    gateway = await farm.gateway(simulator, applied)
    assert (await gateway.dial()).status == 201
    read, reads = Path.read_bytes, []

    def read_bytes(path: Path) -> bytes:
        content = read(path)
        if path == authority:
            reads.append(path)
            path.write_bytes(content + b"\n")
        return content

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    gateway.settings["services"]["billing"]["credentials"] = [{"api_key": digest(NEW_KEY)}]
    gateway.write(gateway.settings)

    assert await gateway.server.reload()

    assert reads
    assert (await gateway.dial(key=NEW_KEY)).status == 201
    assert gateway.lines.of("config.rejected", "internal.fault") == []


async def test_a_fault_of_the_gateway_in_a_reload_is_told_and_leaves_everything_as_it_was(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = await farm.simulator()
    applied = farm.applied(simulator)
    gateway = await farm.gateway(simulator, applied)
    server = gateway.server
    assert (await gateway.dial()).status == 201
    before = (server.api.runtime, server._gateway.configuration, dict(server._gateway.roster.accounts))
    authority, read = simulator.ca, Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == authority:
            raise RuntimeError("nobody expects this")
        return read(path)

    gateway.settings["services"]["billing"]["credentials"] = [{"api_key": digest(NEW_KEY)}]
    gateway.write(gateway.settings)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_bytes)
        assert not await server.reload()
        for _ in range(25):
            await server.look()

    server.log.flush()
    (fault,) = gateway.lines.of("internal.fault")
    assert fault["exception.type"] == "builtins.RuntimeError"
    (rejected,) = gateway.lines.of("config.rejected")
    assert "RuntimeError" in rejected["faults"][0]
    assert b"nobody expects this" not in gateway.lines.raw
    assert (server.api.runtime, server._gateway.configuration, dict(server._gateway.roster.accounts)) == before
    assert (await gateway.dial()).status == 201
    # It is tried again by itself.
    for _ in range(11):
        await server.look()
    assert (await gateway.dial(key=NEW_KEY)).status == 201

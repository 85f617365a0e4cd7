"""The command `dial-gateway`.

Owns its arguments, what it prints and its exit codes: 0 well, 1 a fault found, 2 misuse. Refuses to take a secret
as an argument: arguments are seen by everybody who may list processes.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (those of the process by default); the exit code."""
    _open_standard_streams()
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except KeyboardInterrupt:
        return 130


def _open_standard_streams() -> None:
    """Give the process the standard streams that its parent has closed.

    The next files that are opened would take their numbers, and the log would be written into somebody's connection.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dial-gateway", description="An authenticating gateway for click-to-dial calls."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file")
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate configuration files and all files that they name")
    check.add_argument("files", type=Path, nargs="+", metavar="FILE")
    check.set_defaults(run=_check)

    doctor = commands.add_parser("doctor", help="look at each step from a name to a call, and say what to do")
    doctor.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file")
    doctor.add_argument("--no-apply", action="store_true", help="apply for no token")
    doctor.set_defaults(run=_doctor)

    demo = commands.add_parser("demo", help="a simulated contact centre, a gateway before it, and a call")
    demo.add_argument("--once", action="store_true", help="end after the call")
    demo.add_argument("--directory", type=Path, help="where to put its files, which stay (default: a new one)")
    demo.set_defaults(run=_demo)

    simulate = commands.add_parser("simulate", help="the simulated contact centre alone, with faults on request")
    simulate.add_argument("--directory", type=Path, help="where to put the CA and the tokens (default: a new one)")
    simulate.add_argument("--nslb-port", type=int, default=18446, metavar="PORT", help="default: %(default)s")
    simulate.add_argument("--fabric-port", type=int, default=28070, metavar="PORT", help="default: %(default)s")
    simulate.add_argument("--control-port", type=int, default=18447, metavar="PORT", help="default: %(default)s")
    simulate.add_argument(
        "--token-lifetime", type=float, default=3600.0, metavar="SECONDS", help="default: %(default)s"
    )
    simulate.set_defaults(run=_simulate)

    key = commands.add_parser("key", help="make and digest API keys").add_subparsers(required=True, metavar="COMMAND")
    new = key.add_parser("new", help="make a key for a service and print it, this once")
    new.add_argument("service", metavar="SERVICE")
    new.set_defaults(run=_key_new)
    digest = key.add_parser("hash", help="read a key from standard input and print its digest")
    digest.set_defaults(run=_key_hash)

    encryption = key.add_parser("encryption", help="make a key for store.encryption_keys and print it, this once")
    encryption.set_defaults(run=_key_encryption)

    schema = commands.add_parser("schema", help="print the JSON Schema of the configuration")
    schema.set_defaults(run=_schema)

    openapi = commands.add_parser("openapi", help="print the OpenAPI document of the callers' API")
    openapi.set_defaults(run=_openapi)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


# What a command needs is imported by the command: `version` and `key` should not wait for a web server.


def _serve(options: argparse.Namespace) -> int:
    from gateway.server import serve  # noqa: PLC0415

    return serve(options.config)


def _check(options: argparse.Namespace) -> int:
    from gateway.config import ConfigurationError, load  # noqa: PLC0415

    code = 0
    for file in options.files:
        try:
            load(file)
        except ConfigurationError as exc:
            code = 1
            for fault in exc.faults:
                print(fault)
        else:
            print(f"{file}: valid")
    return code


def _doctor(options: argparse.Namespace) -> int:
    from gateway.doctor import doctor  # noqa: PLC0415

    return doctor(options.config, apply=not options.no_apply)


def _demo(options: argparse.Namespace) -> int:
    from gateway.demo import demo  # noqa: PLC0415

    return demo(once=options.once, directory=options.directory)


def _simulate(options: argparse.Namespace) -> int:
    from gateway.simulator import serve  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="dial-gateway-") as scratch:
        return asyncio.run(
            serve(
                options.directory or Path(scratch),
                nslb_port=options.nslb_port,
                fabric_port=options.fabric_port,
                control_port=options.control_port,
                token_lifetime=options.token_lifetime,
            )
        )


def _key_new(options: argparse.Namespace) -> int:
    from gateway.auth.api_key import digest, new_key  # noqa: PLC0415

    key = new_key().reveal()
    print(key.decode("ascii"))
    print(f"sha256:{digest(key).hex()}")
    print(
        f"Give the first line to {options.service}; it is not kept anywhere. Put the second into the "
        f"configuration:\nservices.{options.service}.credentials: [{{api_key: sha256:…}}]",
        file=sys.stderr,
    )
    return 0


def _key_hash(_: argparse.Namespace) -> int:
    from gateway.auth.api_key import digest  # noqa: PLC0415

    key = sys.stdin.buffer.readline().rstrip(b"\r\n")
    if not key or not key.isascii() or not key.decode("ascii").isprintable() or b" " in key:
        print("The key must be one line of visible ASCII characters.", file=sys.stderr)
        return 1
    print(f"sha256:{digest(key).hex()}")
    return 0


def _key_encryption(_: argparse.Namespace) -> int:
    print(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii"))
    print("Keep it in a file or a variable, and name that in store.encryption_keys.", file=sys.stderr)
    return 0


def _schema(_: argparse.Namespace) -> int:
    from gateway.config import json_schema  # noqa: PLC0415

    print(json.dumps(json_schema(), indent=2))
    return 0


def _openapi(_: argparse.Namespace) -> int:
    from gateway.openapi import document_json  # noqa: PLC0415

    sys.stdout.write(document_json().decode())
    return 0


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0

"""`python -m gateway`: the same as the command `dial-gateway`, and nothing more."""

from gateway.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

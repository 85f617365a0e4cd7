"""Files that a program writes and the tree has: written anew, or compared with what would be written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path


def generate(documents: Mapping[Path, str], command: str, description: str | None) -> None:
    """The whole command line of such a program: writes the documents; with `--check`, ends with 1 if one is not so."""
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is not as it would be")
    if parser.parse_args().check:
        stale = [path.name for path, text in documents.items() if not path.is_file() or path.read_text() != text]
        if stale:
            sys.exit(f"{', '.join(stale)}: not as it would be written; run `{command}`")
        return
    for path, text in documents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

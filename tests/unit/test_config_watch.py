"""A change of any file is noticed, however it came about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import Watcher


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture
def watcher(path: Path) -> Watcher:
    watcher = Watcher()
    watcher.watch([path])
    assert not watcher.changed()
    return watcher


def test_another_content_is_noticed_once(watcher: Watcher, path: Path) -> None:
    path.write_text("other")
    assert watcher.changed()
    assert not watcher.changed()


def test_a_replacement_of_the_same_size_and_time_is_noticed(watcher: Watcher, path: Path) -> None:
    new = path.with_name("new")
    new.write_text("two")
    os.utime(new, ns=(1, 1))
    new.rename(path)
    assert watcher.changed()


def test_a_file_that_goes_and_comes_is_noticed(watcher: Watcher, path: Path) -> None:
    path.unlink()
    assert watcher.changed()
    assert not watcher.changed()
    path.write_text("one")
    assert watcher.changed()


def test_a_directory_swapped_behind_links_is_noticed(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(version)
        os.utime(tmp_path / version / "token", ns=(1, 1))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    watcher = Watcher()
    watcher.watch([tmp_path / "token"])
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").rename(tmp_path / "..data")

    assert watcher.changed()
    assert not watcher.changed()


def test_what_changes_while_a_new_version_is_read_is_not_missed(watcher: Watcher, path: Path) -> None:
    path.write_text("while reading")
    watcher.watch([path])
    assert watcher.changed()


def test_files_that_are_no_longer_named_are_not_watched(watcher: Watcher, path: Path, tmp_path: Path) -> None:
    watcher.watch([tmp_path / "other"])
    path.write_text("other")
    assert not watcher.changed()


def test_a_file_that_may_be_read_now_is_noticed(watcher: Watcher, path: Path) -> None:
    path.chmod(0o600)
    assert watcher.changed()

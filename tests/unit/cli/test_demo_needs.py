"""What `katacsi demo` says where it cannot run."""

from __future__ import annotations

import os

import pytest

from katacsi.demo import needs
from katacsi.model import MIB

pytestmark = pytest.mark.usefixtures("nothing_is_made")


@pytest.fixture
def nothing_is_made(monkeypatch):
    """Fail if the demo begins."""

    def begin(*_):
        raise AssertionError("the demo began")

    monkeypatch.setattr("katacsi.demo.place.Place.make", begin)


def test_without_root_it_names_the_command_that_would_do(run, monkeypatch):
    """Anybody but root gets exit code 2, and the remedy in one line."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run("demo")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "sudo katacsi demo" in result.stderr


def test_everything_that_lacks_is_named_at_once(run, monkeypatch):
    """Missing loop devices and tools are a line each, the tools with the package to install; exit code 2."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(needs.loop, "available", lambda: "/dev/loop-control is missing: run `modprobe loop`")
    monkeypatch.setattr(needs.shutil, "which", lambda tool, path: None if tool == "resize2fs" else tool)
    result = run("demo")
    assert result.exit_code == 2
    loops, tools = result.stderr.splitlines()
    assert "modprobe loop" in loops
    assert "resize2fs" in tools
    assert "apt-get install e2fsprogs" in tools


@pytest.mark.parametrize(
    ("folder", "named"), [("absent", "is no folder"), (".", "10Mi free")], ids=["absent", "full"]
)
def test_a_scratch_folder_that_will_not_do_is_named(run, monkeypatch, tmp_path, folder, named):
    """A scratch folder that is absent or too small is exit code 2, before anything is made."""
    monkeypatch.setattr(needs, "missing", list)
    monkeypatch.setattr(needs, "_free", lambda _: 10 * MIB)
    result = run("demo", "--scratch", tmp_path / folder)
    assert result.exit_code == 2
    assert named in result.stderr


def test_a_disk_is_preferred_to_memory(monkeypatch, tmp_path):
    """Without --scratch the first folder with room on a disk is taken, and one in memory only if need be."""
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    monkeypatch.setattr(needs, "_FOLDERS", (memory, disk))
    monkeypatch.setattr(needs, "filesystem_of", lambda folder: "tmpfs" if folder == memory else "ext4")
    monkeypatch.setattr(needs, "_free", lambda _: 1 << 40)
    memory.mkdir()
    assert needs.scratch_folder(None) == memory
    disk.mkdir()
    assert needs.scratch_folder(None) == disk

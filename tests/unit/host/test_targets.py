"""Targets of mounts: what they may be, how they are made and removed."""

import pytest

from katacsi.errors import HostError, InvalidRequest
from katacsi.host import targets


def test_a_target_is_made_once(tmp_path):
    """The first call makes it and says so, a repetition finds it; removed, it may be removed again."""
    for make in (targets.ensure_target_directory, targets.ensure_target_file):
        target = tmp_path / "with space" / "ü"
        target.parent.mkdir(exist_ok=True)
        assert make(target) is True
        assert make(target) is False
        targets.remove_target(target)
        targets.remove_target(target)
        assert not target.exists()


@pytest.mark.parametrize("make", [targets.ensure_target_directory, targets.ensure_target_file])
def test_a_symlink_is_no_target(tmp_path, make):
    """A symlink at the target is refused, whether it leads to the right kind, the wrong one or nowhere."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    for name in ("directory", "file", "nowhere"):
        link = tmp_path / f"to-{name}"
        link.symlink_to(tmp_path / name)
        with pytest.raises(InvalidRequest, match="target_path"):
            make(link)
    assert not (tmp_path / "nowhere").exists()


def test_a_target_of_the_wrong_kind_is_refused(tmp_path):
    """A file where a directory shall be, a directory where a file shall be, a FIFO for either."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest):
        targets.ensure_target_directory(tmp_path / "file")
    with pytest.raises(InvalidRequest):
        targets.ensure_target_file(tmp_path / "directory")


@pytest.mark.parametrize("make", [targets.ensure_target_directory, targets.ensure_target_file])
def test_a_target_without_a_parent_is_refused(tmp_path, make):
    """The caller's orchestrator makes the parent; a made-up one would never be removed."""
    with pytest.raises(InvalidRequest, match="parent"):
        make(tmp_path / "absent" / "target")
    assert list(tmp_path.iterdir()) == []


def test_nothing_foreign_is_removed(tmp_path):
    """A directory with content, a file with content and a symlink stay, and are an error."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").touch()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("directory", "file", "link"):
        with pytest.raises(HostError, match=name):
            targets.remove_target(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["directory", "empty", "file", "file", "link"]


@pytest.mark.gate("absent-path-is-ok")
def test_removing_an_absent_target_is_success(tmp_path):
    """Unpublish of a path that is gone, or whose parent is gone, has nothing to do."""
    targets.remove_target(tmp_path / "absent")
    targets.remove_target(tmp_path / "absent" / "below")
    (tmp_path / "file").touch()
    targets.remove_target(tmp_path / "file" / "below")

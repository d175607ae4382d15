"""The kernel's mount table, line by line."""

import dataclasses
from pathlib import Path

import pytest

from katacsi.errors import HostError
from katacsi.host import mounttable


def parsed(line):
    """Read one line as the kernel writes it."""
    return mounttable._parsed(line)


def test_a_line_is_read_with_and_without_optional_fields():
    """The number of optional fields varies; all that follows them is still found."""
    plain = parsed(b"36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw,errors=continue")
    shared = parsed(
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue"
    )
    assert shared.propagation == ("shared:7", "master:1")
    assert plain == dataclasses.replace(shared, propagation=())
    assert plain == mounttable.Mount(
        id=36,
        parent_id=35,
        device=(98, 0),
        root="/mnt1",
        target=Path("/mnt2"),
        options=("rw", "noatime"),
        fs_type="ext3",
        source="/dev/root",
        super_options=("rw", "errors=continue"),
    )


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (rb"/a\040b", "/a b"),
        (rb"/a\011b\012c", "/a\tb\nc"),
        (rb"/back\134slash", "/back\\slash"),
        (rb"/not\134040space", "/not\\040space"),
        (rb"/hash\043", "/hash#"),
        ("/gr\u00fc\u00dfe".encode(), "/gr\u00fc\u00dfe"),
        (b"/not-utf8-\xff", "/not-utf8-\udcff"),
        (b"/carriage\rreturn", "/carriage\rreturn"),
    ],
)
def test_paths_are_unescaped(written, path):
    """A path with signs that the table escapes, or that are no UTF-8, is the path that it was."""
    assert parsed(b"1 2 0:3 / " + written + b" rw - tmpfs none rw").target == Path(path)


def test_an_empty_source_is_a_source():
    """A mount whose source is the empty text does not shift the columns."""
    mount = parsed(b"1 2 0:3 / /x rw - tmpfs  rw,size=4k")
    assert (mount.source, mount.super_options) == ("", ("rw", "size=4k"))


@pytest.mark.parametrize(
    ("options", "super_options", "read_only"),
    [
        (b"rw", b"rw", False),
        (b"ro", b"rw", True),
        (b"rw", b"ro", True),
        (b"rw", b"rw,errors=remount-ro", False),
    ],
)
def test_read_only_is_that_of_the_mount_or_the_filesystem(options, super_options, read_only):
    """Either makes writes fail; an option that merely contains the letters does not."""
    assert parsed(b"1 2 0:3 / /x " + options + b" - ext4 /dev/x " + super_options).read_only is read_only


def test_a_line_that_is_not_understood_is_an_error():
    """Half a table is no table: an unknown form is not skipped."""
    with pytest.raises(HostError, match="not understood"):
        parsed(b"1 2 nonsense")


def test_the_table_of_this_process_is_read():
    """The mounts that every Linux has are found, with what is known of them."""
    (proc,) = [mount for mount in mounttable.table() if mount.target == Path("/proc")]
    assert (proc.fs_type, proc.root) == ("proc", "/")
    assert mounttable.at(Path("/proc"))[-1] == proc
    assert mounttable.at(Path("/proc/1")) == []


def test_only_lines_that_may_concern_a_volume_are_read(monkeypatch):
    """By source, by number, by the name of the device's node; a btrfs has no number of its device."""
    lines = {
        1: b"1 0 0:3 / /a rw - tmpfs katacsi:v1 ro",
        2: b"2 0 7:1 / /b rw - ext4 /dev/loop1 rw",
        3: b"3 0 0:6 /loop1 /c rw - devtmpfs udev rw",
        4: b"4 0 0:50 / /d rw - btrfs /dev/null rw",
        5: b"5 0 7:11 / /e rw - ext4 /dev/loop11 rw",
        6: b"6 0 0:6 /loop11 /f rw - devtmpfs udev rw",
    }
    monkeypatch.setattr(mounttable, "_read", lambda: b"\n".join([*lines.values(), b""]))

    def found(*wanted):
        return {mount.id for mount in mounttable.mentioning(*wanted)}

    assert found("katacsi:v1", (7, 1), "loop1") == {1, 2, 3, 4}
    assert found("katacsi:v1", None, "") == {1, 4}
    assert found("katacsi:v1", (7, 1), "an odd name") == set(lines)

"""Files that stand for disks, on whatever filesystem the temporary folder has."""

import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from katacsi.errors import AlreadyExists, HostError
from katacsi.host import directories, sizedfiles
from support import leases

MIB = 1 << 20


def allocated(path):
    """Give the bytes that a file takes on its filesystem."""
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(("thick", "taken"), [(False, 0), (True, 8 * MIB)], ids=["sparse", "thick"])
def test_a_new_file_has_its_size_and_no_data(tmp_path, thick, taken):
    """A sparse file takes no room, a thick one all of it, and both are proven to read as zero."""
    disk = tmp_path / "disk"
    sizedfiles.create_sized(disk, 8 * MIB, thick=thick)
    assert disk.stat().st_size == 8 * MIB
    assert taken <= allocated(disk) <= taken + 64 * 1024
    assert disk.stat().st_mode & 0o777 == 0o600


def test_a_new_file_takes_no_name_that_exists(tmp_path):
    """An existing file is neither truncated nor grown."""
    (tmp_path / "disk").write_bytes(b"precious")
    with pytest.raises(AlreadyExists, match="disk"):
        sizedfiles.create_sized(tmp_path / "disk", MIB, thick=False)
    assert (tmp_path / "disk").read_bytes() == b"precious"


@pytest.mark.parametrize("thick", [False, True], ids=["sparse", "thick"])
def test_growing_keeps_the_bytes_and_never_shrinks(tmp_path, thick):
    """The wished size is reached once; asking again, or for less, gives the size that is there."""
    disk = tmp_path / "disk"
    sizedfiles.create_sized(disk, MIB, thick=thick)
    with disk.open("r+b") as stream:
        stream.write(b"precious")
    assert sizedfiles.grow_file(disk, 4 * MIB, thick=thick) == 4 * MIB
    assert sizedfiles.grow_file(disk, 4 * MIB, thick=thick) == 4 * MIB
    assert sizedfiles.grow_file(disk, MIB, thick=thick) == 4 * MIB
    assert disk.stat().st_size == 4 * MIB
    assert disk.read_bytes()[:8] == b"precious"
    if thick:
        assert allocated(disk) >= 4 * MIB


def test_a_thick_growth_that_is_killed_leaves_the_old_length(tmp_path):
    """Blocks come first and the length last, so no length lies between the old and the new one."""
    disk = tmp_path / "disk"
    sizedfiles.create_sized(disk, MIB, thick=True)
    killed = subprocess.run([sys.executable, "-c", _KILLED_AT_THE_LENGTH, str(disk)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert disk.stat().st_size == MIB
    assert sizedfiles.grow_file(disk, 4 * MIB, thick=True) == 4 * MIB


_KILLED_AT_THE_LENGTH = """
import os, signal, sys
from pathlib import Path
from katacsi.host import sizedfiles
os.ftruncate = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
sizedfiles.grow_file(Path(sys.argv[1]), 4 << 20, thick=True)
"""


def test_growing_what_is_absent_is_an_error(tmp_path):
    """A lost file is not made anew as an empty one."""
    with pytest.raises(HostError, match="disk"):
        sizedfiles.grow_file(tmp_path / "disk", MIB, thick=False)
    assert directories.list_directory(tmp_path) == []


def test_one_written_byte_is_data(tmp_path):
    """Blankness is disproved by a single byte in the last block of a large file."""
    disk = tmp_path / "disk"
    sizedfiles.create_sized(disk, 1 << 30, thick=False)
    assert not sizedfiles.has_data(disk)
    with disk.open("r+b") as stream:
        stream.seek((1 << 30) - 1)
        stream.write(b"x")
    assert sizedfiles.has_data(disk)
    with pytest.raises(HostError, match="absent"):
        sizedfiles.has_data(tmp_path / "absent")


def test_a_copy_has_the_bytes_and_the_holes(tmp_path):
    """Data before, between and after holes arrives in its place; the copy takes no more room."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    sizedfiles.create_sized(source, 64 * MIB, thick=False)
    with source.open("r+b") as stream:
        for offset in (0, 20 * MIB + 5, 64 * MIB - 3):
            stream.seek(offset)
            stream.write(b"abc")
    heard = []
    sizedfiles.copy_file(source, copy, lambda done, total: heard.append((done, total)))
    assert copy.read_bytes() == source.read_bytes()
    assert allocated(copy) <= allocated(source) + 64 * 1024
    assert heard[-1] == (64 * MIB, 64 * MIB)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)


def test_a_thick_copy_has_all_its_blocks(tmp_path):
    """A copy whose room was promised has it, holes of the source included."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    sizedfiles.create_sized(source, 8 * MIB, thick=False)
    with source.open("r+b") as stream:
        stream.write(b"abc")
    sizedfiles.copy_file(source, copy, thick=True)
    assert copy.read_bytes() == source.read_bytes()
    assert allocated(copy) >= 8 * MIB


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path):
    """What the progress callback raises arrives, and half a copy does not stay."""

    class GaveUpError(Exception):
        pass

    def give_up(done, total):
        raise GaveUpError

    (tmp_path / "source").write_bytes(b"x" * MIB)
    with pytest.raises(GaveUpError):
        sizedfiles.copy_file(tmp_path / "source", tmp_path / "copy", give_up)
    assert directories.list_directory(tmp_path) == ["source"]


@pytest.mark.parametrize("make", [sizedfiles.copy_file, sizedfiles.clone_file])
def test_a_copy_takes_no_name_that_exists(tmp_path, make):
    """Neither a copy nor a clone replaces a file."""
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "taken").write_bytes(b"precious")
    with pytest.raises(AlreadyExists, match="taken"):
        make(tmp_path / "source", tmp_path / "taken")
    assert (tmp_path / "taken").read_bytes() == b"precious"


def test_a_lone_file_is_proven_to_be_alone(tmp_path):
    """The proof says no with nobody there, yes with a reader or a writer, and no again afterwards."""
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    assert leases.opened_elsewhere(path) is False
    for mode in ("rb", "r+b"):
        with path.open(mode):
            assert leases.opened_elsewhere(path) is True
    assert leases.opened_elsewhere(path) is False
    with pytest.raises(HostError, match="absent"):
        leases.opened_elsewhere(tmp_path / "absent")


def test_where_leases_prove_nothing_none_is_said(tmp_path):
    """A filesystem that is not known to count all opens gives no proof, whatever it answers."""
    assert leases.opened_elsewhere(type(tmp_path)("/proc/version")) is None


def test_a_lease_in_the_way_is_somebody_else(tmp_path):
    """A file on which another holds a lease is in use, and asking neither waits nor breaks anything."""
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with path.open("rb") as holder:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert leases.opened_elsewhere(path) is True
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, before)


def test_an_open_during_the_proof_waits_and_no_signal_kills(tmp_path):
    """Who opens the file while its lease is ours waits that moment; the kernel's notice does not end us."""
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    asked = subprocess.run(
        [sys.executable, "-c", _OPENED_DURING_THE_PROOF, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (asked.returncode, asked.stdout) == (0, "False\nopened\n"), asked.stderr


_OPENED_DURING_THE_PROOF = """
import fcntl, sys, threading, time
from katacsi.host import sizedfiles
real = fcntl.fcntl
opening = threading.Thread(target=lambda: open(sys.argv[1], "r+b").close())
def slow(fd, command, argument):
    answer = real(fd, command, argument)
    if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_WRLCK):
        opening.start()
        time.sleep(0.2)
        assert opening.is_alive()
    return answer
fcntl.fcntl = slow
with open(sys.argv[1], "rb") as file:
    print(sizedfiles.is_shared(file.fileno()))
opening.join()
print("opened")
"""


def test_many_at_once_may_ask(tmp_path):
    """Threads that ask and open all the time end neither with an error nor with a signal (SIGIO kills)."""
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    failures = []

    def work(step):
        try:
            for _ in range(500):
                step()
        except Exception as error:  # noqa: BLE001 -- a thread's error must reach the test
            failures.append(error)

    def use():
        os.close(os.open(path, os.O_RDWR))

    def ask():
        leases.opened_elsewhere(path)

    threads = [threading.Thread(target=work, args=(step,)) for step in (use, use, ask, ask, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert leases.opened_elsewhere(path) is False

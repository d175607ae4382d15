"""Records, directories, names and locks, on whatever filesystem the temporary folder has."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from katacsi.errors import AlreadyExists, CorruptRecord, HostError
from katacsi.host import directories, files, locks

LONGEST_NAME = "n" * 255


def test_a_record_is_replaced_whole(tmp_path):
    """A reader that opened the old record keeps all of it; the next one reads all of the new one."""
    record = tmp_path / "record.json"
    files.write_atomically(record, b"old")
    with record.open("rb") as reader:
        files.write_atomically(record, b"new and longer", mode=0o640)
        assert reader.read() == b"old"
    assert files.read(record) == b"new and longer"
    assert record.stat().st_mode & 0o777 == 0o640


def test_a_write_leaves_nothing_but_the_record(tmp_path):
    """No temporary file stays next to the record, neither after success nor after failure."""
    files.write_atomically(tmp_path / "record.json", b"x", durable=False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError, match="folder"):
        files.write_atomically(tmp_path / "folder", b"x")
    assert directories.list_directory(tmp_path) == ["folder", "record.json"]


def test_the_mode_of_a_record_does_not_depend_on_the_umask(tmp_path):
    """A record that others shall read can be read by them under any umask."""
    before = os.umask(0o077)
    try:
        files.write_atomically(tmp_path / "record", b"x", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o644


def test_a_record_may_have_the_longest_name(tmp_path):
    """A name of 255 bytes, which Kata's records reach, still leaves room for the temporary file's name."""
    files.write_atomically(tmp_path / LONGEST_NAME, b"x")
    assert files.read(tmp_path / LONGEST_NAME) == b"x"


def test_a_write_via_another_directory_never_shows_there(tmp_path):
    """Where each entry of a directory means something, only the finished record ever appears in it."""
    shown, aside = tmp_path / "shown", tmp_path / "aside"
    shown.mkdir()
    aside.mkdir()
    files.write_atomically_via(shown / "mountInfo.json", b"{}", temporary_directory=aside)
    assert directories.list_directory(shown) == ["mountInfo.json"]
    assert directories.list_directory(aside) == []


@pytest.mark.parametrize("victim", ["write", "rename"])
def test_a_record_survives_a_kill_in_the_middle_of_a_write(tmp_path, victim):
    """A process killed before the rename leaves the old record; the leftover is found and removed later."""
    record = tmp_path / "record"
    files.write_atomically(record, b"old")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_IN, victim, str(record)], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert files.read(record) == b"old"
    assert len(directories.list_directory(tmp_path)) == 2
    assert files.remove_stale_temporaries(tmp_path) == 0, "the file of a writer at work"
    assert files.remove_stale_temporaries(tmp_path, older_than_s=0) == 1
    assert directories.list_directory(tmp_path) == ["record"]


_KILLED_IN = """
import os, signal, sys
from pathlib import Path
from katacsi.host import files
setattr(os, sys.argv[1], lambda *args: os.kill(os.getpid(), signal.SIGKILL))
files.write_atomically(Path(sys.argv[2]), b"new")
"""


def test_only_absence_reads_as_none(tmp_path):
    """A record that cannot be read is an error, never an absent one."""
    assert files.read(tmp_path / "absent") is None
    (tmp_path / "file").write_bytes(b"")
    assert files.read(tmp_path / "file") == b""
    with pytest.raises(HostError, match="file/below"):
        files.read(tmp_path / "file" / "below")
    with pytest.raises(HostError, match="not a regular file"):
        files.read(tmp_path)


@pytest.mark.timeout(20)
def test_a_fifo_does_not_hang_a_reader(tmp_path):
    """A FIFO that somebody put in a shared directory is refused; opening it would wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostError, match="not a regular file"):
        files.read(tmp_path / "fifo")


def test_an_absent_directory_is_not_an_empty_one(tmp_path):
    """Listing what is not there is an error: a pool that is not mounted has not lost its volumes."""
    with pytest.raises(HostError, match="absent"):
        directories.list_directory(tmp_path / "absent")


def test_directories_are_made_once_with_their_parents(tmp_path):
    """Missing parents are made, a repetition is success, a file of that name is an error."""
    wanted = tmp_path / "with space" / "ü" / "deep"
    directories.ensure_directory(wanted)
    directories.ensure_directory(wanted)
    assert wanted.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="a file has that name"):
        directories.ensure_directory(tmp_path / "file")


def test_removing_what_is_absent_is_success(tmp_path):
    """Each of the removals states an end, so a repetition after a crash finds it done."""
    for remove in (files.ensure_absent, directories.ensure_directory_absent, directories.remove_tree):
        remove(tmp_path / "absent")
        remove(tmp_path / "absent" / "below")


def test_a_directory_with_content_is_kept(tmp_path):
    """`ensure_directory_absent` never takes anything along."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    with pytest.raises(HostError, match="not empty"):
        directories.ensure_directory_absent(tmp_path / "folder")
    assert (tmp_path / "folder" / "file").read_bytes() == b"x"


def test_a_tree_is_removed_without_following_symlinks(tmp_path):
    """What a symlink in the tree leads to stays, be it a file or a directory."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"x")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").write_bytes(b"x")
    (tree / "to-directory").symlink_to(tmp_path / "outside")
    (tree / "below" / "to-file").symlink_to(tmp_path / "outside" / "precious")
    directories.remove_tree(tree)
    assert directories.list_directory(tmp_path) == ["outside"]
    assert directories.list_directory(tmp_path / "outside") == ["precious"]


def test_a_symlink_is_no_tree(tmp_path):
    """Asked to remove a tree that is a symlink, it removes nothing behind it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(HostError):
        directories.remove_tree(tmp_path / "link")
    assert directories.list_directory(tmp_path / "outside") == ["precious"]


def test_rename_never_replaces(tmp_path):
    """A taken name is refused and both stay as they were, an empty directory (which rename(2) takes) too."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    with pytest.raises(AlreadyExists, match="to"):
        directories.rename(tmp_path / "from", tmp_path / "to")
    directories.rename(tmp_path / "from", tmp_path / "elsewhere")
    assert directories.list_directory(tmp_path) == ["elsewhere", "to"]


def test_rename_of_what_is_absent_is_an_error(tmp_path):
    """Nothing to rename is neither success nor "taken"."""
    with pytest.raises(HostError, match="absent"):
        directories.rename(tmp_path / "absent", tmp_path / "to")


def test_identity_is_the_file_not_its_name(tmp_path):
    """A renamed file is the same; a new one under the old name is another."""
    (tmp_path / "a").write_bytes(b"")
    before = directories.identity(tmp_path / "a")
    directories.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"")
    assert directories.identity(tmp_path / "b") == before
    assert directories.identity(tmp_path / "a") != before
    with pytest.raises(HostError, match="absent"):
        directories.identity(tmp_path / "absent")


def test_room_is_that_of_the_filesystem(tmp_path):
    """Size and free space are in bytes and as statvfs has them."""
    room = directories.room(tmp_path)
    status = os.statvfs(tmp_path)
    assert room.total_bytes == status.f_blocks * status.f_frsize
    assert 0 < room.available_bytes <= room.total_bytes
    assert not room.read_only
    with pytest.raises(HostError, match="absent"):
        directories.room(tmp_path / "absent")


def test_an_ordinary_directory_is_no_mount_point(tmp_path):
    """`/proc` is one, a plain directory is not, and neither is a path that is absent."""
    assert directories.is_mount_point(type(tmp_path)("/proc"))
    assert not directories.is_mount_point(tmp_path)
    assert not directories.is_mount_point(tmp_path / "absent" / "below")


def test_a_lock_lets_one_thread_in_at_a_time(tmp_path):
    """Of many threads that add to a counter without any other care, none loses its addition."""
    counter = tmp_path / "counter"
    counter.write_text("0")

    def add():
        for _ in range(20):
            lock = locks.lock_file(tmp_path / "lock", timeout_s=30)
            number = int(counter.read_text())
            time.sleep(0.0001)
            counter.write_text(str(number + 1))
            locks.unlock(lock)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "160"


def test_a_lock_that_stays_taken_is_an_error_in_time(tmp_path):
    """Waiting ends with an error that names the file; once released, the lock can be had."""
    lock = locks.lock_file(tmp_path / "lock", timeout_s=1)
    started = time.monotonic()
    with pytest.raises(HostError, match="held by somebody else"):
        locks.lock_file(tmp_path / "lock", timeout_s=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    locks.unlock(lock)
    locks.unlock(locks.lock_file(tmp_path / "lock", timeout_s=0))


def test_a_lock_goes_with_its_holder(tmp_path):
    """A process that is killed holds nothing any more."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(HostError):
        locks.lock_file(tmp_path / "lock", timeout_s=0)
    holder.kill()
    holder.communicate()
    locks.unlock(locks.lock_file(tmp_path / "lock", timeout_s=5))


_HOLDER = """
import sys, time
from pathlib import Path
from katacsi.host import locks
locks.lock_file(Path(sys.argv[1]), timeout_s=5)
print("held", flush=True)
time.sleep(60)
"""


def test_two_lock_files_of_one_name_do_not_let_two_in(tmp_path):
    """Who waited for a lock file that was removed meanwhile gets the lock of the file that is there now."""
    first = locks.lock_file(tmp_path / "lock", timeout_s=1)
    got = []
    waiting = threading.Thread(target=lambda: got.append(locks.lock_file(tmp_path / "lock", timeout_s=30)))
    waiting.start()
    time.sleep(0.05)
    (tmp_path / "lock").unlink()
    second = locks.lock_file(tmp_path / "lock", timeout_s=1)
    locks.unlock(first)
    time.sleep(0.1)
    assert got == [], "two hold the lock"
    locks.unlock(second)
    waiting.join()
    locks.unlock(got[0])


def test_errors_are_of_one_tree(tmp_path):
    """What this room raises is a HostError that may be tried again, not a corrupt record."""
    with pytest.raises(HostError) as caught:
        files.read(tmp_path)
    assert caught.value.retry_helps
    assert not isinstance(caught.value, CorruptRecord)

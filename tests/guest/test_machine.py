"""tools/guest.py itself: what it promises about commands, devices, shares, and its own end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from guest import PORTS, Died, Guest, MonitorError, Share, Unavailable
from support.blockdevices import MIB, loop_device, mounted, run, sparse_file

TOOL = Path(__file__).resolve().parents[2] / "tools" / "guest.py"


@pytest.fixture
def loop(scratch):
    """A loop device of 64 MiB, and the file behind it."""
    file = sparse_file(scratch / "disk", 64 * MIB)
    with loop_device(file) as device:
        yield device, file


@contextlib.contextmanager
def plugged(guest, device, serial="volume", **how):
    """Have a device in the guest for a while; give its node there."""
    node = guest.plug(device, serial, **how)
    try:
        yield node
    finally:
        guest.run("umount /mnt 2>/dev/null")
        guest.unplug(serial)


@pytest.fixture
def brief():
    """Boot a guest for one test."""
    with contextlib.ExitStack() as stack:

        def boot(**how):
            try:
                return stack.enter_context(Guest(**how))
            except Unavailable as reason:
                pytest.skip(f"no guest: {reason}")

        yield boot


def must(guest, command, **how):
    """Run what has to succeed; give its output."""
    answer = guest.run(command, **how)
    assert answer.code == 0, answer.output
    return answer.output.strip()


def processes_below(folder):
    """List the command lines that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in line and entry.parent.name != str(os.getpid()):
                found.append(line)
    return found


# --- commands


def test_output_and_exit_code_come_back_as_they_were(guest):
    """Also what is no text, has no end of line, or looks like the protocol."""
    answer = guest.run("echo 1 0 3; echo wrong >&2; printf 'no end'; exit 7")
    assert (answer.code, answer.output) == (7, "1 0 3\nwrong\nno end")
    assert guest.run("head -c 300000 /dev/zero | tr '\\0' x").output == "x" * 300000
    assert guest.run("false").code == 1


def test_callers_wait_for_each_other(guest):
    """Each gets the answer to its own command."""
    answers = {}

    def ask(number):
        answers[number] = guest.run(f"sleep 0.1; echo {number}").output

    threads = [threading.Thread(target=ask, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"{number}\n" for number in range(6)}


def test_what_is_in_the_background_goes_on(guest):
    """The call is over at once, and its process is there afterwards."""
    must(guest, "setsid sh -c 'sleep 1; echo done > /tmp/later' &")
    assert guest.run("cat /tmp/later").code != 0
    must(guest, "until [ -e /tmp/later ]; do sleep 0.1; done; rm /tmp/later")


def test_a_command_that_takes_too_long_is_killed(guest):
    """The guest is usable afterwards, and the error says which command it was."""
    with pytest.raises(TimeoutError, match="sleep 1000"):
        guest.run("exec sleep 1000", timeout=1)
    assert guest.run("echo next").output == "next\n"


def test_the_stock_kernel_has_ext4_and_xfs_and_no_btrfs(guest):
    """As Kata's guest kernel."""
    known = must(guest, "cat /proc/filesystems").split()
    assert {"ext4", "xfs"} <= set(known)
    assert "btrfs" not in known


# --- devices


def test_what_the_guest_writes_is_on_the_device(guest, loop, scratch):
    """A filesystem of the host mounts in the guest, and the other way round."""
    device, _ = loop
    run("mkfs.ext4", "-q", device)
    with mounted(device, scratch / "before") as folder:
        (folder / "from-the-host").write_text("one")
    with plugged(guest, device) as node:
        must(guest, f"mount {node} /mnt")
        assert must(guest, "cat /mnt/from-the-host") == "one"
        must(guest, "echo two > /mnt/from-the-guest; umount /mnt")
    with mounted(device, scratch / "after") as folder:
        assert (folder / "from-the-guest").read_text() == "two\n"


def test_an_unplugged_device_is_free(guest, scratch):
    """The guest has no node of it, nobody has it open, and it can be plugged again at once."""
    file = sparse_file(scratch / "disk", 64 * MIB)
    with loop_device(file) as device:
        for _ in range(3):
            with plugged(guest, device) as node:
                assert must(guest, f"blockdev --getsize64 {node}") == str(64 * MIB)
                assert opened(device)
            assert guest.run(f"[ -e {node} ]").code != 0
            assert not opened(device)
        # The kernel refuses this while a filesystem or another exclusive user has it.
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
    # A loop device that somebody has open would only go with its last user.
    assert run("losetup", "--associated", file) == ""


def opened(device):
    """Tell whether a process has a device open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if descriptor.readlink() == device:
                return True
    return False


@pytest.mark.parametrize(("fs_type", "grow"), [("ext4", "resize2fs {0}"), ("xfs", "xfs_growfs /mnt")])
def test_a_device_grows_under_a_mounted_filesystem(guest, scratch, fs_type, grow):
    """The guest has the old size until it is told, then its own kernel grows the filesystem."""
    file = sparse_file(scratch / "disk", 320 * MIB)
    with loop_device(file) as device:
        run(f"mkfs.{fs_type}", "-q", device)
        with plugged(guest, device) as node:
            must(guest, f"mount {node} /mnt")
            before = int(must(guest, "stat -f -c %b /mnt"))
            sparse_file(file, 640 * MIB)
            run("losetup", "--set-capacity", device)
            assert must(guest, f"blockdev --getsize64 {node}") == str(320 * MIB)
            guest.resize("volume", 640 * MIB)
            assert must(guest, f"blockdev --getsize64 {node}") == str(640 * MIB)
            must(guest, grow.format(node))
            assert int(must(guest, "stat -f -c %b /mnt")) > 1.8 * before


def test_a_read_only_device_cannot_be_written(guest, loop):
    """Not even by the guest's root."""
    device, _ = loop
    with plugged(guest, device, read_only=True) as node:
        assert must(guest, f"blockdev --getro {node}") == "1"
        answer = guest.run(f"dd if=/dev/zero of={node} bs=4096 count=1")
        assert answer.code != 0
        assert "not permitted" in answer.output


def test_every_port_takes_a_device(guest, scratch):
    """Each has a node of its own, a further one is refused, and a file will do as well as a device."""
    nodes = {}
    try:
        for number in range(PORTS):
            file = sparse_file(scratch / f"disk{number}", (number + 1) * MIB)
            nodes[f"many-{number}"] = guest.plug(file, f"many-{number}")
        assert len(set(nodes.values())) == PORTS
        for number, node in enumerate(nodes.values()):
            assert must(guest, f"blockdev --getsize64 {node}") == str((number + 1) * MIB)
        with pytest.raises(ValueError, match="ports are taken"):
            guest.plug(scratch / "disk0", "one-more")
    finally:
        for serial in nodes:
            guest.unplug(serial)


def test_a_device_that_is_not_there_is_refused(guest, scratch):
    """And its serial is free for the next."""
    for _ in range(2):
        with pytest.raises(MonitorError, match="No such file"):
            guest.plug(scratch / "nothing", "volume")


def test_a_long_command_holds_up_no_hot_plug(guest, loop):
    """What grows a volume under load has to come through while the load is on."""
    device, _ = loop
    load = threading.Thread(target=guest.run, args=["until [ -e /tmp/enough ]; do sleep 0.1; done"])
    load.start()
    try:
        guest.plug(device, "volume")
        guest.unplug("volume")
        assert load.is_alive()
    finally:
        # By way of the other port: this one is taken.
        guest._own_port.run("touch /tmp/enough", 10)
        load.join()
        must(guest, "rm /tmp/enough")


# --- shares


def test_a_mount_made_later_is_seen_in_a_share(guest, shared_folder, scratch):
    """Kata binds volumes into a shared folder while the guest runs."""
    source, target = scratch / "source", shared_folder / "later"
    source.mkdir()
    (source / "file").write_text("bound")
    target.mkdir()
    assert must(guest, "ls /run/shares/sandbox/later") == ""
    run("mount", "--bind", source, target)
    try:
        guest_path = "/run/shares/sandbox/later"
        assert must(guest, f"until cat {guest_path}/file 2>/dev/null; do sleep 0.2; done") == "bound"
        must(guest, f"echo answer > {guest_path}/back")
        assert (source / "back").read_text() == "answer\n"
    finally:
        run("umount", "--lazy", target)


def test_a_read_only_mount_in_a_share_refuses_writes(guest, shared_folder):
    """With EROFS: that is what protects the node's disk when a record is missed."""
    target = shared_folder / "guarded"
    target.mkdir()
    run("mount", "-t", "tmpfs", "-o", "ro", "guard", target)
    try:
        answer = guest.run("echo x > /run/shares/sandbox/guarded/file")
        assert answer.code != 0
        assert "Read-only file system" in answer.output
    finally:
        run("umount", "--lazy", target)


# --- its end


def test_a_power_cut_ends_every_waiting_call(loop, brief):
    """At once and with the reason, also for those who come later; the device is free."""
    device, _ = loop
    guest = brief()
    guest.plug(device, "volume")
    caught = []

    def wait():
        try:
            guest.run("echo waiting > /dev/console; sleep 1000", timeout=1000)
        except Died as error:
            caught.append(str(error))

    waiting = [threading.Thread(target=wait) for _ in range(2)]
    for thread in waiting:
        thread.start()
    while guest._own_port.run("pidof sleep", 10).code:
        time.sleep(0.1)
    guest.kill()
    for thread in waiting:
        thread.join(10)
    assert len(caught) == 2
    assert all("waiting" in said for said in caught)
    for late in (
        lambda: guest.run("true"),
        lambda: guest.plug(device, "other"),
        lambda: guest.unplug("volume"),
        lambda: guest.resize("volume", MIB),
    ):
        with pytest.raises(Died):
            late()
    assert not opened(device)


def test_a_panic_is_told_with_its_log(brief):
    """The kernel's last words are in the error."""
    guest = brief()
    with pytest.raises(Died, match="sysrq triggered crash"):
        guest.run("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", timeout=60)


def test_an_iothread_two_processors_and_fio(loop, brief):
    """What measurements are made with."""
    device, _ = loop
    guest = brief(iothread=True, cpus=2, fio=True)
    assert must(guest, "grep -c ^processor /proc/cpuinfo") == "2"
    node = guest.plug(device, "volume")
    said = must(guest, f"fio --name=x --filename={node} --rw=write --size=8M --direct=1 --ioengine=libaio")
    assert "err= 0" in said


def test_nothing_is_left(brief, scratch, monkeypatch):
    """No process and no file, after a good end and after a power cut."""
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (scratch / "share").mkdir()
    for end in ("leave", "kill"):
        with contextlib.suppress(Unavailable), Guest(shares={"share": Share(scratch / "share")}) as guest:
            assert len(processes_below(scratch)) >= 2
            if end == "kill":
                guest.kill()
        assert processes_below(scratch) == []
        assert [entry.name for entry in scratch.iterdir()] == ["share"]


def test_nothing_is_left_when_its_owner_is_killed(guest, scratch):
    """Also by SIGKILL, after which no code of ours runs."""
    (scratch / "share").mkdir()
    owner = subprocess.Popen(
        [sys.executable, TOOL, "run", "--share", scratch / "share", "--", "sleep 1000"],
        env=os.environ | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
    )
    with owner:
        assert b"up in" in owner.stderr.readline()
        owner.kill()
    for _ in range(100):
        if not processes_below(scratch) and [entry.name for entry in scratch.iterdir()] == ["share"]:
            return
        time.sleep(0.1)
    pytest.fail(f"{processes_below(scratch)} {list(scratch.iterdir())}")


def test_the_command_line_runs_a_command(guest, loop):
    """`run` gives its output and exit code; a device that is not there is one line and 125."""
    device, _ = loop

    def tool(*arguments):
        return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, check=False)

    answer = tool("run", "--plug", device, "--", "blockdev --getsize64 /dev/vda; exit 3")
    assert (answer.returncode, answer.stdout) == (3, f"{64 * MIB}\n")
    answer = tool("run", "--plug", "/nothing", "--", "true")
    assert answer.returncode == 125
    assert "/nothing" in answer.stderr.splitlines()[-1]
    assert "Traceback" not in answer.stderr

"""Who has a block device open, with loop devices for disks."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from katacsi.errors import HostError
from katacsi.host import block, holders, loop, processes, sizedfiles


@pytest.fixture
def disk(scratch):
    """A blank disk of 16 MiB."""
    file = scratch / "disk.img"
    sizedfiles.create_sized(file, 16 << 20, thick=False)
    yield loop.attach(file).path
    loop.ensure_detached(file)


def opened_by_another(path, *words):
    """Start a process that has the path open, with more words on its command line; give it once it has."""
    script = "import sys; f = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"open\n"
    return process


def test_nobody_holds_a_new_disk(disk):
    """The list is empty, our own descriptors not counted unless asked for."""
    assert holders.now(disk) == []
    with disk.open("rb"):
        assert holders.now(disk) == []
        assert [holder.comm for holder in holders.now(disk, own_pids_excluded=False)] != []


def test_a_process_that_has_the_disk_open_is_named(disk):
    """Process id and name are told, and gone when it is."""
    process = opened_by_another(disk)
    (holder,) = holders.now(disk)
    assert holder.pid == process.pid
    assert holder.comm in str(holder)
    assert str(process.pid) in str(holder)
    process.communicate()
    assert holders.now(disk) == []


@pytest.mark.parametrize(
    ("words", "sandbox"),
    [
        (("-name", "sandbox-4f2a,debug-threads=on", "-m", "2048"), "4f2a"),
        (("-name", "sandbox-4f2a"), "4f2a"),
        (("-name", "web"), ""),
        (("sandbox-4f2a", "-name"), ""),
    ],
)
def test_the_sandbox_of_a_virtual_machine_is_named(disk, words, sandbox):
    """A person who has to end a leftover virtual machine learns whose it was."""
    process = opened_by_another(disk, *words)
    (holder,) = holders.now(disk)
    assert (holder.pid, holder.sandbox) == (process.pid, sandbox)
    assert ("sandbox 4f2a" in str(holder)) is bool(sandbox)
    process.communicate()


def test_any_node_of_the_disk_counts(disk, scratch):
    """A VMM in a jail opens a node of its own making; the device number tells."""
    major, minor = block.device_number(disk)
    subprocess.run(["mknod", scratch / "jail-node", "b", str(major), str(minor)], check=True)
    process = opened_by_another(scratch / "jail-node")
    assert [holder.pid for holder in holders.now(disk)] == [process.pid]
    process.communicate()


def test_a_file_of_that_name_is_no_holder(disk, scratch):
    """An open backing file, or the fact that a process is a zombie, is not taken for an open device."""
    process = opened_by_another(scratch / "disk.img")
    zombie = subprocess.Popen(["true"])
    time.sleep(0.1)
    assert holders.now(disk) == []
    zombie.wait()
    process.communicate()


def test_a_loop_device_on_top_is_a_holder(disk):
    """The kubelet puts a loop device of its own on a published block volume; it is named."""
    upper = subprocess.run(
        ["losetup", "--find", "--show", disk], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        assert holders.now(disk) == [holders.Holder(0, Path(upper).name)]
    finally:
        subprocess.run(["losetup", "--detach", upper], check=True)
    assert holders.now(disk) == []


def test_a_process_that_cannot_be_looked_into_is_an_error(disk, tmp_path):
    """Without the right to look, "nobody" is not said; init alone may be closed to us."""
    process = opened_by_another(disk)
    # A user without rights looks at the processes of root.
    script = (
        "import os; from pathlib import Path; from katacsi.host import block, holders; os.setuid(65534)\n"
        f"block.device_number = lambda path: {block.device_number(disk)}\n"
        f"print(holders.now(Path({str(disk)!r})))"
    )
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    process.communicate()
    assert asked.stdout == ""
    assert "HostError: look into process" in asked.stderr


def pauses(monkeypatch, then):
    """Have `then` happen instead of each pause; give their seconds as they come."""
    seconds = []

    def pause(for_s):
        seconds.append(for_s)
        then()

    monkeypatch.setattr(holders, "time", SimpleNamespace(sleep=pause))
    return seconds


def test_who_only_looks_in_is_no_lasting_holder(disk, monkeypatch):
    """As udev does at each new device, or who was late for a free one: nobody is left when all have gone."""
    visitors = [opened_by_another(disk) for _ in range(3)]
    waited = pauses(monkeypatch, lambda: visitors.pop().communicate())
    assert holders.lasting(disk) == []
    assert len(waited) == 3


def test_who_stays_is_a_lasting_holder(disk, monkeypatch):
    """A guest's process is named, after half a second."""
    process = opened_by_another(disk)
    waited = pauses(monkeypatch, lambda: None)
    assert [holder.pid for holder in holders.lasting(disk)] == [process.pid]
    assert 0.5 <= sum(waited) < 1
    process.communicate()


def test_who_leaves_at_the_last_moment_is_no_lasting_holder(disk, monkeypatch):
    """After the last pause it is looked once more."""
    process = opened_by_another(disk)

    def leave_at_last():
        if sum(waited) > 0.5:
            process.communicate()

    waited = pauses(monkeypatch, leave_at_last)
    assert holders.lasting(disk) == []


SEEN = """
import sys
from pathlib import Path
from katacsi.host import holders, namespaces, block, processes
disk, proc = Path(sys.argv[1]), Path(sys.argv[2])
print([holder.pid for holder in holders.now(disk)])
processes.look_in(proc)
print([holder.pid for holder in holders.now(disk)])
namespaces.mounted_elsewhere(block.device_number(disk))
"""


@pytest.mark.gate("holders-are-seen-from-a-container")
def test_a_container_sees_holders_in_the_nodes_own_proc(disk, scratch):
    """With process ids of its own the driver finds who holds a device in the procfs that it is given."""
    process = opened_by_another(disk)
    proc = scratch / "proc"
    proc.mkdir()
    script = 'mount --rbind /proc "$4" && exec unshare --pid --fork --mount-proc "$1" -c "$2" "$3" "$4"'
    argv = ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, SEEN, str(disk), str(proc)]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    process.communicate()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == ["[]", f"[{process.pid}]"]


def test_a_folder_that_is_no_proc_is_refused(scratch):
    """An empty folder would show that nobody holds anything: it is an error."""
    with pytest.raises(HostError, match=f"find this process in {scratch}"):
        processes.look_in(scratch)
    assert processes.seen_in() == Path("/proc")

"""What is read from the process table: which shim a handler starts, and whose hypervisor is left over."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest

from katacsi.directvolume.entries import Entry
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.doctor import examine, hypervisors, kata, processes
from katacsi.doctor.hostfiles import HostFiles
from katacsi.doctor.hypervisors import Hypervisor, Hypervisors
from katacsi.doctor.node import Node
from katacsi.doctor.pools import PoolFacts
from katacsi.doctor.processes import Process
from katacsi.doctor.records import Recorded, Records
from katacsi.findings import Unread, Verdict
from support import kata_trees as trees

OK, NOTE, WARNING, FAILURE, UNKNOWN = Verdict
SANDBOX = "3f1c" * 16
QEMU = "/opt/kata/bin/qemu-system-x86_64"


@pytest.fixture
def started(tmp_path):
    """Let a process run on the node: started(pid, program, argument…, PATH)."""

    def start(pid, *argv, path="/usr/bin", exe=""):
        trees.write(tmp_path, f"/proc/{pid}/cmdline", "\0".join(argv) + "\0")
        trees.write(tmp_path, f"/proc/{pid}/environ", f"HOME=/\0PATH={path}\0")
        (tmp_path / f"proc/{pid}/fd").mkdir()
        (tmp_path / f"proc/{pid}/exe").symlink_to(exe or argv[0])

    return start


def said(check_id, node):
    check = next(check for check in examine.CHECKS if check.id == check_id)
    found = list(check.judge(node))
    assert all(one.remedy for one in found if one.verdict in {FAILURE, WARNING})
    return found


# -- the shim of a handler -----------------------------------------------------------------------------


@pytest.fixture
async def shim(tmp_path):
    """Judge the only handler's shim."""

    async def judge():
        files = HostFiles(tmp_path)
        found = await kata.find(files, (), processes.find(files))
        (result,) = said("kata-shim", Node(kata=found))
        return result

    return judge


def handler(tmp_path, runtime_type="io.containerd.kata-rs.v2", path=""):
    text = trees.containerd_v2("kata-rs", runtime_type)
    trees.write(
        tmp_path, "/etc/containerd/config.toml", text + (f'runtime_path = "{path}"\n' if path else "")
    )


async def test_a_shim_by_its_path(tmp_path, shim):
    """It is taken as it is, wherever others lie; one that is missing, or is no program, starts no pod."""
    path = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"
    handler(tmp_path, path=path)
    trees.write(tmp_path, "/usr/bin/containerd-shim-kata-rs-v2", "", 0o755)
    assert (await shim()).verdict is FAILURE
    file = trees.write(tmp_path, path, "", 0o644)
    assert (await shim()).verdict is FAILURE
    file.chmod(0o755)
    result = await shim()
    assert (result.verdict, result.fact) == (OK, f"/etc/containerd/config.toml: starts {path}")


async def test_a_type_may_be_a_path(tmp_path, shim):
    """As containerd allows."""
    handler(tmp_path, runtime_type="/opt/shims/kata")
    assert (await shim()).verdict is FAILURE
    trees.write(tmp_path, "/opt/shims/kata", "", 0o755)
    assert (await shim()).verdict is OK


async def test_a_shim_by_its_name_is_looked_for_as_containerd_does(tmp_path, shim, started):
    """In the PATH of the containerd that runs, then beside it; nowhere else, however usual the place."""
    handler(tmp_path)
    started(7, "/usr/local/bin/containerd", path="/opt/bin:/opt/sbin", exe="/srv/containerd/containerd")
    trees.write(tmp_path, "/usr/bin/containerd-shim-kata-rs-v2", "", 0o755)
    result = await shim()
    assert result.verdict is FAILURE
    assert "containerd-shim-kata-rs-v2 is in none of /opt/bin, /opt/sbin, /srv/containerd" in result.fact
    beside = trees.write(tmp_path, "/srv/containerd/containerd-shim-kata-rs-v2", "", 0o755)
    assert (await shim()).fact.endswith("starts /srv/containerd/containerd-shim-kata-rs-v2")
    beside.rename(tmp_path / "moved")
    (tmp_path / "opt/sbin").mkdir(parents=True)
    (tmp_path / "opt/sbin/containerd-shim-kata-rs-v2").symlink_to("/moved")
    assert (await shim()).fact.endswith("starts /opt/sbin/containerd-shim-kata-rs-v2")


async def test_without_a_containerd_that_runs_the_path_is_not_known(tmp_path, shim):
    """Where services usually look it is found; that it is nowhere else nobody can say."""
    handler(tmp_path)
    assert (await shim()).verdict is UNKNOWN
    trees.write(tmp_path, "/usr/local/bin/containerd-shim-kata-rs-v2", "", 0o755)
    assert (await shim()).verdict is OK


async def test_crio_takes_a_path_or_the_handler_s_name(tmp_path, shim, started):
    """Its own PATH counts, not that of a containerd."""
    trees.write(tmp_path, "/etc/crio/crio.conf", '[crio.runtime.runtimes.kata]\nruntime_type = "vm"\n')
    started(7, "/usr/bin/containerd", path="/opt/bin")
    started(8, "/usr/bin/crio", path="/usr/libexec/crio")
    trees.write(tmp_path, "/opt/bin/kata", "", 0o755)
    assert (await shim()).verdict is FAILURE
    trees.write(tmp_path, "/usr/libexec/crio/kata", "", 0o755)
    assert (await shim()).fact.endswith("starts /usr/libexec/crio/kata")


# -- hypervisors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sandbox"),
    [
        ((QEMU, "-name", f"sandbox-{SANDBOX}", "-uuid", "x"), SANDBOX),
        ((QEMU, "-name", f"sandbox-{SANDBOX},debug-threads=on"), SANDBOX),
        ((QEMU, "-name", "sandbox-one"), "one"),
        (("/opt/kata/bin/cloud-hypervisor", "--api-socket", f"/run/vc/vm/{SANDBOX}/clh-api.sock"), SANDBOX),
        (("/opt/kata/bin/cloud-hypervisor", "--api-socket", "/run/kata/one/ch-api.sock"), "one"),
        (("/firecracker", "--id", SANDBOX, "--api-sock", "/run/firecracker.socket"), SANDBOX),
        ((QEMU, "-name", "guest=database,debug-threads=on"), ""),
    ],
)
def test_a_guest_is_known_by_its_sandbox(tmp_path, started, argv, sandbox):
    """Each hypervisor has the id in its arguments, and its shim lives while a process has it, too."""
    files = HostFiles(tmp_path)
    started(7, *argv)
    started(8, "/opt/kata/bin/containerd-shim-kata-v2", "-namespace", "k8s.io")
    (one,) = hypervisors.find(files, processes.find(files)).all
    assert (one.sandbox, one.shim) == (sandbox, False)
    started(9, "/opt/kata/bin/containerd-shim-kata-v2", "-id", sandbox or "other", "-namespace", "k8s.io")
    (one,) = hypervisors.find(files, processes.find(files)).all
    assert one.shim is bool(sandbox)


def test_descriptors_are_looked_at(tmp_path, started):
    """Whatever a device is called in the hypervisor's view; files and devices of characters are none."""
    files = HostFiles(tmp_path)
    started(7, QEMU, "-name", "sandbox-one")
    trees.write(tmp_path, "/srv/image")
    for number, target in enumerate(("/dev/null", tmp_path / "srv/image", tmp_path / "gone")):
        (tmp_path / f"proc/7/fd/{number}").symlink_to(target)
    (one,) = hypervisors.find(files, processes.find(files)).all
    assert one.devices == {}


NUMBER = os.makedev(7, 3)
LEFT = Hypervisor(Process(4711, (QEMU,)), SANDBOX, shim=False, devices={NUMBER: "/dev/loop3"})
RECORDED = Recorded(Entry("/target", "name", DirectVolumeRecord("/dev/loop3", "ext4")), device_number=NUMBER)
RECORDS = Records(entries=(RECORDED,))
POOL = PoolFacts("default", "loopfile", attached=(("v1:default:0123abcd:pvc-1", NUMBER),))


@pytest.mark.parametrize(
    ("one", "records", "pools", "expected"),
    [
        (LEFT, RECORDS, (), FAILURE),
        # After NodeUnpublishVolume there is no record; the device is still attached, for it is held.
        (LEFT, Records(), (POOL,), FAILURE),
        (LEFT, Records(), (), WARNING),
        (LEFT, Records(entries=(replace(RECORDED, device_number=1),)), (), WARNING),
        (replace(LEFT, shim=True), RECORDS, (POOL,), OK),
        (replace(LEFT, devices={}), RECORDS, (POOL,), OK),
        # A machine of somebody else's is our business only if it has one of our devices.
        (replace(LEFT, sandbox=""), Records(), (), None),
        (replace(LEFT, sandbox=""), RECORDS, (), FAILURE),
        (replace(LEFT, devices=Unread("denied")), RECORDS, (), UNKNOWN),
    ],
)
def test_a_hypervisor_that_has_outlived_its_shim(one, records, pools, expected):
    """It is named with its process, its sandbox, the device and whose that is, and how to end it."""
    found = said("records-guests", Node(hypervisors=Hypervisors((one,), 9), records=records, pools=pools))
    assert [result.verdict for result in found] == ([expected] if expected else [])
    if expected is FAILURE:
        (result,) = found
        assert result.subject == "qemu-system-x86_64 (process 4711)"
        assert "/dev/loop3" in result.fact
        assert "kill 4711" in result.remedy


def test_a_process_table_that_is_not_seen_is_unknown():
    """A container that has no /proc of the node cannot say that nothing is left."""
    (result,) = said("records-guests", Node(hypervisors=Hypervisors(problem="/proc: denied")))
    assert result.verdict is UNKNOWN


def test_this_process_is_found_in_the_real_table():
    """With its arguments, as the kernel has them."""
    found = next(one for one in processes.find(HostFiles()).all if one.pid == os.getpid())
    assert list(found.argv[1:]) == sys.orig_argv[1:]

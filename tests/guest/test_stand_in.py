"""The stand-in does what Kata does with records that no good driver writes; without that the tests beside
this one would prove little. Each rule is in docs/kata-contract.md.
"""

from __future__ import annotations

import json
import stat

import pytest

from katacsi.csi.client import RpcError
from support.kata_runtime.records import CreateFailed

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def pvc(volume):
    """A published volume, whose record a test may spoil."""
    pvc = volume()
    await pvc.up()
    yield pvc
    await pvc.down()


@pytest.fixture
def rewrite(node, pvc):
    """Change fields of the record: `rewrite(options=["bind"])`."""
    file = node.entry_of(pvc.target) / "mountInfo.json"

    def change(**fields):
        renamed = {name.replace("_", "-"): value for name, value in fields.items()}
        file.write_text(json.dumps(json.loads(file.read_text()) | renamed))

    return change


def outcome(node, pvc, runtime):
    """What becomes of a container: where it runs it can write to the volume."""
    with node.sandbox(runtime) as sandbox:
        try:
            container = sandbox.create(pvc.mount())
        except CreateFailed as error:
            return str(error)
        container.must("echo data > file")
        return "runs"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(({"options": ["bind", "rw"]}, "failed to mount", "runs"), id="bind"),
        pytest.param(({"options": ["loop"]}, "Invalid mount option", "Invalid mount option"), id="loop"),
        pytest.param(({"options": ["_netdev"]}, "failed to mount", "failed to mount"), id="of fstab only"),
        pytest.param(({"options": ["bogus"]}, "failed to mount", "failed to mount"), id="unknown"),
        pytest.param(({"options": ["noatime"]}, "runs", "runs"), id="known"),
        pytest.param(({"volume_type": "block"}, "runs", "is invalid"), id="type block"),
        pytest.param(({"fstype": ""}, "need mount FS type", "need mount FS type"), id="no filesystem"),
        pytest.param(({"device": "/dev/none"}, "No such file", "stat volume device"), id="no device"),
        pytest.param(
            ({"device": "/dev/null"}, "No such file", "invalid volume device"), id="no block device"
        ),
        pytest.param(({"metadata": {"fsGroup": "0"}}, "out of range", "runs"), id="group 0"),
        pytest.param(({"metadata": {"fsGroup": "staff"}}, "runs", "runs"), id="group of letters"),
        pytest.param(({"metadata": {"key": "value"}}, "runs", "runs"), id="unknown metadata"),
    ],
)
async def test_records_that_one_runtime_takes(node, pvc, rewrite, runtime, case):
    """What breaks in one runtime and works in the other is why the driver writes what it does."""
    fields, go, rust = case
    rewrite(**fields)
    assert (go if runtime == "go" else rust) in outcome(node, pvc, runtime)


async def test_a_group_on_a_read_only_volume_fails_in_go(node, pvc, rewrite, runtime):
    """The agent's chown meets a read-only filesystem; runtime-rs does not look."""
    rewrite(options=["ro"], metadata={"fsGroup": "1000"})
    with node.sandbox(runtime) as sandbox:
        if runtime == "go":
            with pytest.raises(CreateFailed, match="Read-only file system"):
                sandbox.create(pvc.mount())
        else:
            sandbox.create(pvc.mount())


def beside_the_record(node, pvc):
    """The size and the mode of each file beside the record, by its name."""
    files = [path for path in node.entry_of(pvc.target).iterdir() if path.name != "mountInfo.json"]
    return {path.name: (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) for path in files}


async def test_only_go_leaves_its_sandbox_id(node, pvc, runtime):
    """An empty file beside the record, mode 0600, from the first container on; it outlives the sandbox."""
    with node.sandbox(runtime) as sandbox:
        assert beside_the_record(node, pvc) == {}
        for _ in range(2):
            sandbox.create(pvc.mount())
    assert beside_the_record(node, pvc) == ({sandbox.id: (0, 0o600)} if runtime == "go" else {})


def disks(sandbox):
    """How many volumes are plugged into the guest."""
    return int(sandbox.machine.run("grep -ls ^vol- /sys/block/*/serial | wc -l").output)


async def test_rust_leaves_the_disk_of_a_container_that_failed(node, pvc, rewrite, runtime):
    """It stays plugged until the sandbox ends, and the next container gets another one of the same device."""
    with node.sandbox(runtime) as sandbox:
        # To runtime-rs the second mount is EBUSY; the Go runtime fails both for an option.
        if runtime == "go":
            rewrite(options=["bogus"])
        with pytest.raises(CreateFailed, match="failed to mount"):
            sandbox.create(pvc.mount(), pvc.mount("/reader", read_only=True))
        rewrite(options=[])
        left = 0 if runtime == "go" else 1
        assert disks(sandbox) == left
        container = sandbox.create(pvc.mount())
        assert disks(sandbox) == left + 1
        container.must("echo data > file")
        sandbox.stop_container(container)
        assert disks(sandbox) == left
    assert disks(sandbox) == 0


async def test_a_dead_shim_leaves_the_guest_of_runtime_rs(node, volume, runtime, machine_of_its_own):
    """The pod is gone for the node, and its guest goes on writing; with Go the guest ends, too."""
    pvc = volume()
    await pvc.up()
    sandbox = node.sandbox(runtime, machine=machine_of_its_own)
    with sandbox:
        container = sandbox.create(pvc.mount())
        container.must("echo synced > file && sync")
        sandbox.kill_shim()
    assert not (node.places.bundles / container.id).exists()
    assert not sandbox.shim.socket.exists()
    await pvc.unpublish()
    if runtime == "runtime-rs":
        container.must("echo more > another && sync")
        for call, names in (
            (pvc.unstage, "fuser|qemu-system"),
            (pvc.stage, "qemu-system"),
            (pvc.publish, "qemu-system"),
        ):
            with pytest.raises(RpcError, match=names) as refusal:
                await call()
            assert refusal.value.code == "FAILED_PRECONDITION"
        machine_of_its_own.kill()
    await pvc.unstage()
    await pvc.stage()
    await pvc.publish()
    with node.sandbox(runtime) as sandbox:
        left = sandbox.create(pvc.mount()).must("cat file another 2>/dev/null || true").split()
    assert left == (["synced", "more"] if runtime == "runtime-rs" else ["synced"])
    await pvc.down()


async def test_go_mounts_once_and_rust_once_for_each_container(node, pvc, runtime):
    """Hence one ro and one rw mount of a volume work in Go only: to runtime-rs the second mount is EBUSY."""
    with node.sandbox(runtime) as sandbox:
        sandbox.create(pvc.mount())
        if runtime == "go":
            reader = sandbox.create(pvc.mount("/reader", read_only=True))
            assert "Read-only file system" in reader.run("echo data > file", at="/reader").output
        else:
            with pytest.raises(CreateFailed, match="failed to mount"):
                sandbox.create(pvc.mount("/reader", read_only=True))
        mounts = sandbox.machine.run("grep -c /run/kata-containers/ /proc/mounts")
        assert int(mounts.output) >= 1

"""Every way in which Kata may miss a record ends in an error in the guest, not in bytes on the node's disk.

Each case runs twice: with the guard, where the write fails with EROFS, and without it, where the same write
lands on the node's disk. The second shows that it is the guard that protects, and that the case is real.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from katacsi.csi.client import RpcError
from katacsi.directvolume import guard
from support.kata_runtime.records import CreateFailed
from support.kata_runtime.sandboxes import OciMount

pytestmark = [pytest.mark.timeout(180), pytest.mark.gate("a-missed-record-ends-in-erofs")]

guarded = pytest.mark.parametrize("with_guard", [True, False], ids=["guard", "no guard"])
go_only = pytest.mark.parametrize("runtime", ["go"])


def mount(*words):
    """Mount on the host, as the kubelet does."""
    subprocess.run(["mount", *words], check=True)


def unmount(target):
    """Unmount; of a target that leaves what a driver without a guard has there: an empty folder."""
    subprocess.run(["umount", target], check=True)


def assert_protected(container, on_host, *, with_guard):
    """Write in the guest, and look where it went."""
    answer = container.run("echo secret > file")
    if with_guard:
        assert answer.code != 0
        assert "Read-only file system" in answer.output
        assert not (on_host / "file").exists()
    else:
        assert answer.code == 0
        assert (on_host / "file").read_text() == "secret\n"
        (on_host / "file").unlink()


@pytest.fixture
async def pvc(volume, with_guard):
    """A published volume."""
    pvc = volume()
    await pvc.up()
    if not with_guard:
        unmount(pvc.target)
    yield pvc
    await pvc.down()


@guarded
@go_only
async def test_block_devices_are_disabled(node, pvc, runtime, with_guard):
    """`disable_block_device_use`, the Go runtime's default since 3.26: the record is not even read."""
    with node.sandbox(runtime, disable_block_device_use=True) as sandbox:
        assert_protected(sandbox.create(pvc.mount()), pvc.target, with_guard=with_guard)
        assert "Block device not supported" in sandbox.log


@guarded
@go_only
async def test_the_record_is_torn(node, pvc, runtime, with_guard):
    """Half a record, as a writer that does not rename leaves it: the Go runtime logs it and goes on."""
    record = node.entry_of(pvc.target) / "mountInfo.json"
    record.write_bytes(record.read_bytes()[:40])
    with node.sandbox(runtime) as sandbox:
        assert_protected(sandbox.create(pvc.mount()), pvc.target, with_guard=with_guard)
        assert "failed to parse the mount info file" in sandbox.log[0]


@guarded
async def test_the_record_is_gone(node, pvc, runtime, with_guard):
    """Taken away while the pod lives, so that its next container finds none."""
    (node.entry_of(pvc.target) / "mountInfo.json").unlink()
    node.entry_of(pvc.target).rmdir()
    with node.sandbox(runtime) as sandbox:
        assert_protected(sandbox.create(pvc.mount()), pvc.target, with_guard=with_guard)


@guarded
async def test_the_pod_uses_a_sub_path(node, pvc, runtime, with_guard, scratch):
    """The kubelet makes the sub-folder at the target and binds it elsewhere; no record is for that path."""
    at = scratch / "volume-subpaths" / "pvc-1" / "0"
    at.mkdir(parents=True)
    if with_guard:
        # The pod does not start.
        with pytest.raises(OSError, match="Read-only file system"):
            (pvc.target / "sub").mkdir()
        return
    (pvc.target / "sub").mkdir()
    mount("--bind", pvc.target / "sub", at)
    with node.sandbox(runtime) as sandbox:
        assert_protected(sandbox.create(OciMount(str(at))), pvc.target / "sub", with_guard=False)
    unmount(at)
    (pvc.target / "sub").rmdir()


@guarded
async def test_the_path_is_too_long(node, volume, runtime, with_guard):
    """No file can have the name of its record. The driver refuses it; the guard would catch it as well."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    rest = 190 - len(os.fsencode(node.pods)) - len("//mount")
    pvc.target = node.pods / ("p" * rest) / "mount"
    with pytest.raises(RpcError) as refused:
        await pvc.publish()
    assert refused.value.code == "INVALID_ARGUMENT"
    assert "189" in refused.value.message
    if with_guard:
        guard.ensure_guard(str(pvc.target), pvc.volume_id)
    with node.sandbox(runtime) as sandbox:
        assert_protected(sandbox.create(pvc.mount()), pvc.target, with_guard=with_guard)
    if with_guard:
        unmount(pvc.target)  # the driver takes back only what it could have made
    await pvc.down()


@pytest.mark.parametrize("runtime", ["runtime-rs"])
@pytest.mark.parametrize("with_guard", [True])
@pytest.mark.parametrize("case", ["torn", "empty folder", "disabled"])
async def test_runtime_rs_refuses_the_container(node, pvc, runtime, with_guard, case):
    """Where the Go runtime falls back, runtime-rs fails loudly by itself."""
    record = node.entry_of(pvc.target) / "mountInfo.json"
    if case == "torn":
        record.write_bytes(record.read_bytes()[:40])
    elif case == "empty folder":
        record.unlink()
    with node.sandbox(runtime, disable_block_device_use=case == "disabled") as sandbox:
        with pytest.raises(CreateFailed):
            sandbox.create(pvc.mount())
        assert sandbox.containers == []

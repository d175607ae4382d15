"""The stand-in does what Kata does with records that no good driver writes; without that the tests beside
this one would prove little. Each rule is in docs/kata-contract.md.
"""

from __future__ import annotations

import json

import pytest

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


async def test_only_go_leaves_its_sandbox_id(node, pvc, runtime):
    """An empty file beside the record, which stays after the sandbox."""
    with node.sandbox(runtime) as sandbox:
        sandbox.create(pvc.mount())
    names = {path.name for path in node.entry_of(pvc.target).iterdir()} - {"mountInfo.json"}
    assert names == ({sandbox.id} if runtime == "go" else set())


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

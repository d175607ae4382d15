"""fsGroup: whoever runs in the pod's group can write into the volume, whichever runtime the pod has."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.timeout(180)

GROUP = 70_000  # more than 16 bits


def as_member(command, group=GROUP):
    """Run a command as a user who owns nothing, and is in the pod's group as the kubelet has it."""
    return (
        "echo member:x:1000:1000::/:/bin/sh >/etc/passwd;"
        f" echo pod:x:{group}:member >/etc/group; su member -c '{command}'"
    )


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_member_of_the_group_can_write(node, volume, runtime, fs_type):
    """Also in runtime-rs, which does not look at the record's metadata; files inherit the group."""
    pvc = volume(fs_type=fs_type, mount_group=str(GROUP))
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        container.must(as_member("echo mine > file"))
        assert container.must("stat -c %g file") == str(GROUP)
        assert container.run(as_member("echo mine > other", group=GROUP + 1)).code != 0
        # A container that restarts meets the same again: nothing is walked, nothing changes.
        sandbox.stop_container(container)
        assert sandbox.create(pvc.mount()).must("stat -c '%g %a' .") == f"{GROUP} 2775"
    await pvc.down()


async def test_without_a_group_only_root_can_write(node, volume, runtime):
    """What the test above would see if nobody did anything."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        answer = sandbox.create(pvc.mount()).run(as_member("echo mine > file"))
        assert answer.code != 0
        assert "Permission denied" in answer.output
    await pvc.down()


async def test_a_volume_with_files_gets_another_group(node, volume, runtime):
    """The Go runtime walks the tree, which the driver must not hide from it; runtime-rs has the root only."""
    pvc = volume(mount_group=str(GROUP))
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        container.must("mkdir -m 750 folder && echo old > folder/file && chmod 640 folder/file")
    await pvc.down()
    pvc.capability.mount.volume_mount_group = str(GROUP + 1)
    await pvc.stage()
    await pvc.publish()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        container.must(as_member("echo new > file", group=GROUP + 1))
        walked = container.run(as_member("echo new > folder/file", group=GROUP + 1)).code == 0
        assert walked == (runtime == "go")
    await pvc.down()


async def test_a_read_only_volume_keeps_its_owners(node, volume, runtime):
    """The agent's chown would fail the container, so the group is not asked for at all."""
    pvc = volume(mount_group=str(GROUP))
    pvc.read_only = True
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        assert sandbox.create(pvc.mount()).must("stat -c '%g %a' .") == "0 755"
    await pvc.down()

"""`katacsi doctor` on this very machine, and in a container-like mount namespace of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from katacsi.backends.api import CreateRequest, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.model import MIB
from support import pools

KATACSI = [sys.executable, "-m", "katacsi", "doctor", "--output", "json"]


def doctor(*arguments, namespace=""):
    """Run the command, in a mount namespace that a script prepares; give findings by check and subject."""
    argv = [*KATACSI, *map(str, arguments)]
    if namespace:
        script = f'set -e\n{namespace}\nexec "$@"'
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *argv]
    environment = {key: value for key, value in os.environ.items() if key != "KATACSI_CONFIG"}
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode in {0, 1}, answer.stderr
    found = {(one["id"], one["subject"]): one for one in json.loads(answer.stdout)["findings"]}
    assert answer.returncode == (
        1
        if any(
            one["verdict"] == "failure"
            or (one["verdict"] == "unknown" and one["harm"] in {"loses data", "breaks pods"})
            for one in found.values()
        )
        else 0
    )
    return found


@pytest.fixture
def configured(scratch):
    """Write a configuration with a pool on a disk of its own, and a root of records in memory."""

    def write(**pool):
        file = scratch / "config.yaml"
        settings = {
            "direct_volume_root": str(scratch / "memory" / "records"),
            "state_directory": str(scratch / "state"),
            "pools": {"default": {"backend": "loopfile", **pool}},
        }
        file.write_text(yaml.safe_dump(settings))
        return file

    return write


def test_this_machine(scratch, configured):
    """What the other host tests rely on is found: tools, filesystems, loop devices; all is said in full."""
    (scratch / "pool").mkdir()
    found = doctor("--config", configured(directory=str(scratch / "pool")))
    verdicts = {key: one["verdict"] for key, one in found.items()}
    assert verdicts["node-tools", "tools: ext4"] == "ok"
    assert verdicts["node-filesystems", "kernel: ext4"] == "ok"
    assert verdicts["pool-loop-devices", "loop devices"] == "ok"
    # No `katacsi serve` has made it a pool, and doctor does not.
    assert verdicts["pool-usable", "pool default (loopfile)"] == "note"
    assert list((scratch / "pool").iterdir()) == []
    assert not (scratch / "state").exists()
    assert all(one["fact"] and one["why"] for one in found.values())
    assert all(one["remedy"] for one in found.values() if one["verdict"] in {"failure", "warning"})


def test_a_disk_that_is_not_mounted(scratch, configured):
    """`require_mount` on a folder of another disk is what keeps volumes off that disk."""
    (scratch / "pool").mkdir()
    found = doctor("--config", configured(directory=str(scratch / "pool"), require_mount=True))
    usable = found["pool-usable", "pool default (loopfile)"]
    assert usable["verdict"] == "failure"
    assert "require_mount" in usable["fact"]


def test_a_disk_of_its_own(scratch, configured):
    """With `require_mount` all is well; without it the next unmounted start would go wrong."""
    with pools.mounted_filesystem(scratch, "xfs", 1024) as point:
        warned = doctor("--config", configured(directory=str(point)))
        assert warned["pool-disk", "pool default (loopfile)"]["verdict"] == "warning"
        fine = doctor("--config", configured(directory=str(point), require_mount=True))
        assert fine["pool-disk", "pool default (loopfile)"]["verdict"] == "ok"


def test_records_in_memory(scratch, configured):
    """The root's filesystem is the kernel's word; modes are those on disk."""
    root = scratch / "memory" / "records"
    root.parent.mkdir()
    config = configured(directory=str(scratch))
    script = f"mount -t tmpfs tmpfs {root.parent}; mkdir -m 0755 {root}; mkdir {root}/L2EvYi9j"
    found = doctor("--config", config, namespace=script)
    assert found["records-root", str(root)]["verdict"] == "ok"
    assert found["records-memory", str(root)]["verdict"] == "ok"
    assert found["records-mode", str(root)]["verdict"] == "warning"
    # A folder without a record: not ours, so it is noted only.
    assert found["records-readable", "/a/b/c"]["verdict"] == "note"


def test_a_container_that_hides_the_node_s_folders(scratch, configured):
    """With the node's root below a folder: a record's root of the container's own is a failure."""
    root = scratch / "memory" / "records"
    host = scratch / "host"
    for folder in (root, host):
        folder.mkdir(parents=True)
    config = configured(directory=str(scratch))
    seen = f"mount --rbind / {host}"
    found = doctor("--config", config, "--host-root", host, namespace=seen)
    assert found["records-root", str(root)]["verdict"] == "ok"
    hidden = doctor(
        "--config",
        config,
        "--host-root",
        host,
        namespace=f"{seen}; mount --make-rprivate {host}; mount -t tmpfs tmpfs {root}",
    )
    assert hidden["records-root", str(root)]["verdict"] == "failure"
    assert "another folder" in hidden["records-root", str(root)]["fact"]


def test_an_absolute_link_of_the_node(scratch):
    """A handler's configuration is read below the node's root, wherever its links lead."""
    host = scratch / "host"
    (host / "etc/kata-containers").mkdir(parents=True)
    (host / "opt").mkdir()
    (host / "opt/kata.toml").write_text("[hypervisor.qemu]\ndisable_block_device_use = true\n")
    Path(host / "etc/kata-containers/configuration.toml").symlink_to("/opt/kata.toml")
    found = doctor("--host-root", host)
    assert found["kata-block-device-use", "/opt/kata.toml"]["verdict"] == "warning"


@contextlib.contextmanager
def process(*argv, holding=()):
    """Let a process run under another name, with devices open."""
    opened = [os.open(path, os.O_RDWR) for path in holding]
    program, *arguments = argv
    # A shell that waits for its input; what follows its command it leaves alone.
    words = [program, "-c", "read line", *arguments]
    running = subprocess.Popen(words, executable="/bin/sh", stdin=subprocess.PIPE, pass_fds=opened)
    for descriptor in opened:
        os.close(descriptor)
    try:
        yield running.pid
    finally:
        running.communicate(b"\n")


@pytest.fixture
async def attached(scratch):
    """A volume of a pool, with its device."""
    folder = scratch / "pool"
    folder.mkdir()
    backend = LoopfileBackend(
        LoopfileSettings(directory=folder), PoolContext("default", "csi.katacsi.io", "node", read_only=False)
    )
    await backend.start()
    volume = await backend.create(CreateRequest("pvc-1", SizeRange(16 * MIB)))
    device = await backend.attach(volume.id, {}, {})
    yield str(volume.id), str(device.path)
    await backend.detach(volume.id)
    await backend.delete(volume.id)
    await backend.close()


async def test_a_guest_that_has_outlived_its_shim(scratch, configured, attached):
    """The hypervisor that holds a volume for nobody is found, by the pool and by a record, until it ends."""
    volume, device = attached
    sandbox = secrets.token_hex(32)
    config = configured(directory=str(scratch / "pool"))
    qemu = ("/opt/kata/bin/qemu-system-x86_64", "-name", f"sandbox-{sandbox},debug-threads=on")
    shim = ("/opt/kata/bin/containerd-shim-kata-v2", "-id", sandbox)
    with process(*qemu, holding=[device]) as pid:
        subject = f"qemu-system-x86_64 (process {pid})"
        found = doctor("--config", config)["records-guests", subject]
        assert found["verdict"] == "failure"
        for named in (sandbox, device, f"volume {volume}"):
            assert named in found["fact"]
        assert f"kill {pid}" in found["remedy"]
        writer = DirectVolumeWriter(scratch / "memory" / "records")
        writer.add("/var/lib/kubelet/pods/p/target", DirectVolumeRecord(device, "ext4"))
        found = doctor("--config", config)["records-guests", subject]
        assert "record of /var/lib/kubelet/pods/p/target" in found["fact"]
        with process(*shim):
            assert ("records-guests", subject) not in doctor("--config", config)
    assert ("records-guests", subject) not in doctor("--config", config)

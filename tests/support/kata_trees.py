"""Configurations in the shape that Kata and the container runtimes have them, and nodes made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

GO_QEMU = """
# Written for a test; a shipped file has some hundred keys more.
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
rootless = false
disable_block_device_use = true
shared_fs = "virtio-fs"
block_device_driver = "virtio-scsi"
block_device_aio = "io_uring"
block_device_cache_set = false
block_device_cache_noflush = false

[agent.kata]
dial_timeout = 60

[runtime]
internetworking_model = "tcfilter"
emptydir_mode = "shared-fs"
"""

RUST_QEMU = """
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
rootless = false
disable_block_device_use = false
block_device_aio = "native"

[agent.kata]

[runtime]
name = "virt_container"
hypervisor_name = "qemu"
"""

RUST_CLH = """
[hypervisor.clh]
path = "/opt/kata/bin/cloud-hypervisor"
block_device_driver = "virtio-blk-pci"

[runtime]
name = "virt_container"
hypervisor_name = "clh"
"""

CONTAINERD_V3 = """
version = 3
imports = ["/opt/kata/containerd/config.d/*.toml"]

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""

KATA = "/opt/kata/share/defaults/kata-containers"
GO_FILE = f"{KATA}/runtimes/qemu/configuration-qemu.toml"
RUST_FILE = f"{KATA}/runtime-rs/runtimes/qemu-runtime-rs/configuration-qemu-runtime-rs.toml"

KATA_DEPLOY = f"""
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata-qemu]
runtime_type = "io.containerd.kata-qemu.v2"
runtime_path = "/opt/kata/bin/containerd-shim-kata-v2"
privileged_without_host_devices = true

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata-qemu.options]
ConfigPath = "{GO_FILE}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata-qemu-runtime-rs]
runtime_type = "io.containerd.kata-qemu-runtime-rs.v2"
runtime_path = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata-qemu-runtime-rs.options]
ConfigPath = "{RUST_FILE}"
"""

CRIO = """
[crio.runtime.runtimes.kata-clh]
	runtime_path = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"
	runtime_type = "vm"
	runtime_root = "/run/vc"
	runtime_config_path = "/etc/kata-containers/runtime-rs/configuration.toml"

[crio.runtime.runtimes.crun]
	runtime_path = "/usr/bin/crun"
"""


def containerd_v2(handler: str, runtime_type: str) -> str:
    """Give a configuration of containerd, version 2, with one handler that has no options."""
    table = f'[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}]'
    return f'version = 2\n{table}\nruntime_type = "{runtime_type}"\n'


def write(root: Path, path: str, text: str = "", mode: int = 0o644) -> Path:
    """Write a file of the node."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def shim(root: Path, path: str, said: str) -> Path:
    """Write a shim that says its version."""
    return write(root, path, f"#!/bin/sh\necho '{said}'\n", 0o755)


def deployed(root: Path, *, go: str = GO_QEMU, rust: str = RUST_QEMU, version: str = "4.1.0") -> Path:
    """Make a node as kata-deploy leaves it: both runtimes, links in the old places, a handler each."""
    write(root, "/etc/containerd/config.toml", CONTAINERD_V3)
    write(root, "/opt/kata/containerd/config.d/kata-deploy.toml", KATA_DEPLOY)
    write(root, GO_FILE, go)
    write(root, RUST_FILE, rust)
    write(root, f"{KATA}/configuration-fc.toml", "[hypervisor.firecracker]\n")
    (root / f"{KATA}/configuration-qemu.toml".lstrip("/")).symlink_to(GO_FILE)
    (root / f"{KATA}/configuration.toml".lstrip("/")).symlink_to("configuration-qemu.toml")
    write(root, "/opt/kata/VERSION", f"{version}\n")
    for folder in ("bin", "runtime-rs/bin"):
        write(root, f"/opt/kata/{folder}/containerd-shim-kata-v2", "", 0o755)
    return root

#!/usr/bin/env python3
"""The whole chain on a real LV: the driver with LVM, a record, a KVM guest that takes the device, a growth.

    make lab-nested

The machine that the driver runs on is emulated (TCG), so that it has device-mapper and KVM of its own; in it
runs a second QEMU, with KVM. Its root is this machine's, read-only below a RAM disk: nothing reaches this
machine but what it prints. It has one CPU: with two, QEMU's emulation of nested virtualisation hangs now and
then. That is also why it is tried twice.

Not part of `make test`. The exit code is that of the chain; 124 when the time was up twice.
"""

from __future__ import annotations

import argparse
import compileall
import shlex
import sys
import tempfile
import time
from pathlib import Path

import guest_packages
import lab_packages
from guest import MACHINE_FAILED, TIME_WAS_UP, Died, Guest, MonitorError, Share, Unavailable

TREE = Path(__file__).resolve().parent.parent
MODULES = ("overlay", "dm_mod", "kvm_amd")
DISK_BYTES = 2 << 30
TRIES = 2

#: Lays the lab's packages and a RAM disk over this machine's root, and mounts what a machine has mounted.
ROOT = """
    set -e
    mkdir -p /run/upper /run/work /run/root
    mount -t overlay -o \
lowerdir=/run/shares/packages:/run/shares/root,upperdir=/run/upper,workdir=/run/work lab /run/root
    cd /run/root
    for folder in proc sys dev run tmp var/tmp etc/lvm; do mkdir -p $folder; done
    mount -t proc proc proc
    mount -t sysfs sys sys
    mount -t devtmpfs dev dev
    mkdir -p dev/shm
    for folder in run tmp var/tmp dev/shm; do mount -t tmpfs tmpfs $folder; done
    mkdir -p run/lock
    echo 'activation { monitoring = 0 }' > etc/lvm/lvmlocal.conf
    [ -c dev/kvm ]
"""


def attempt(timeout_s: float) -> int:
    """Boot the machine and go through the chain in it; return the chain's exit code.

    Raises:
        TimeoutError: it took too long, or the machine hangs.
        Died: the machine is gone.
    """
    shares = {
        # Announced, its mounts would be automounts in the guest, which an overlay does not take.
        "root": Share(Path("/"), cache="always", announced=False),
        "packages": Share(lab_packages.guest_tree(), cache="always"),
    }
    end = time.monotonic() + timeout_s
    with (
        tempfile.TemporaryDirectory(prefix="katacsi-nested-", dir="/var/tmp") as folder,
        Guest(memory=3 << 30, cpu="EPYC,+svm,+npt", modules=MODULES, shares=shares) as machine,
    ):
        _say(f"the machine is up after {machine.boot_seconds:.1f} s")
        disk = Path(folder) / "disk"
        with disk.open("wb") as empty:
            empty.truncate(DISK_BYTES)
        node = machine.plug(disk, "lab")
        answer = machine.run(ROOT, timeout=60)
        if answer.code:
            raise Died(f"the machine has no root, or no KVM:\n{answer.output}")
        return _follow(machine, _command(node), end)


def _command(node: str) -> str:
    """Return the command line of the chain in the machine."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "KATACSI_CACHE": str(lab_packages.CACHE.resolve()),
        # There is no udev: LVM makes the nodes of its devices itself.
        "DM_DISABLE_UDEV": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    chain = TREE / "tools" / "lab_nested_chain.py"
    return shlex.join(
        ["chroot", "/run/root", "/usr/bin/env", "-i", *settings, sys.executable, str(chain), node]
    )


def _follow(machine: Guest, command: str, end: float) -> int:
    """Run a command in the background, passing on what it prints; return its exit code."""
    script = f"{command} > /run/said 2>&1; echo $? > /run/code"
    machine.run(f"setsid sh -c {shlex.quote(script)} > /dev/null 2>&1 &")
    seen = 0
    while time.monotonic() < end:
        # The code first: what is said after it was looked for belongs to it too.
        code = machine.run("cat /run/code 2>/dev/null", timeout=30).output.strip()
        said = machine.run(f"tail -c +{seen + 1} /run/said", timeout=30).output
        seen += len(said.encode())
        print(said, end="", flush=True)
        if code:
            return int(code)
        time.sleep(1)
    raise TimeoutError(f"the chain did not end within its time; its last words are above: {command}")


def _say(text: str) -> None:
    print(f"nested: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Go through the chain, a second time when the machine hung."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--timeout", type=float, default=240, metavar="S", help="of each try (240)")
    asked = parser.parse_args()
    # In the machine a compiler of Python is what takes longest.
    compileall.compile_dir(TREE / "src" / "katacsi", quiet=1)
    compileall.compile_dir(TREE / "tools", quiet=1, maxlevels=0)
    for number in range(TRIES):
        started = time.monotonic()
        try:
            guest_packages.prepare()  # what the inner guest boots, for the outer machine to find
            code = attempt(asked.timeout)
        except TimeoutError as error:
            _say(f"try {number + 1} of {TRIES}: {error}")
        except (Unavailable, Died, MonitorError, ValueError) as error:
            _say(str(error))
            return MACHINE_FAILED
        else:
            _say(f"{'done' if code == 0 else 'failed'} after {time.monotonic() - started:.0f} s")
            return code
    return TIME_WAS_UP


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measure `katacsi serve` with lvm pools on real device-mapper, beside the same LVM commands run bare.

    python tools/lab.py run --disk 4G --disk 4G --disk 4G --timeout 1800 -- .venv/bin/python bench/lvm.py
    … bench/lvm.py --quick     # few rounds: whether it works, not how fast

The first disk is for files. A lifecycle is what the other benchmark calls so: CreateVolume, stage, publish,
unpublish, unstage, DeleteVolume of one 64 MiB ext4 volume in direct mode. The floor is what such a volume
needs of LVM and mkfs in any case. The two take turns, so that whatever else the machine does slows both; a
ratio is the median of the turns' ratios. Then: what ListVolumes and GetCapacity cost with few and with many
LVs, and how many commands are forked for them. docs/benchmarks.md says what came out.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import load
import servers
from tables import spread

from katacsi.backends.lvm import LvmSettings
from katacsi.backends.lvm.commands import configuration, environment
from katacsi.backends.lvm.group import FRESH_S
from katacsi.model import MIB
from katacsi.testing.kubelet import DIRECT, csi
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from collections.abc import Callable

VG = "bench"
HOME_DISK, *DISKS = os.environ.get("LAB_DISKS", "/none").split()
SIZE = 64 * MIB
METRICS = "127.0.0.1:9809"
UUID = "6b1f2a52-0e5c-4c8e-9a53-000000000001"
MAKING = {
    "linear": ["--type", "linear", "-L", f"{SIZE}b", "-Zn", "-Wn", "-ay", "-K", VG],
    "thin": ["--type", "thin", "-V", f"{SIZE}b", "--thinpool", "thin", "-an", VG],
}
#: How many commands `floor` runs.
FLOOR = {"linear": 9, "thin": 6}
SETTINGS = LvmSettings(volume_group=VG, devices=tuple(DISKS))
UDEV = "DM_DISABLE_UDEV" not in os.environ
LVM = ["/usr/sbin/lvm"]
CONFIGURATION = configuration(SETTINGS, udev=UDEV)
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment(SETTINGS)}


def run(*argv: str) -> None:
    """Run a command bare."""
    subprocess.run(argv, env=ENVIRONMENT, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def lvm(*words: str) -> None:
    """Run LVM bare, with the configuration that katacsi gives it."""
    run(*LVM, *words, "--config", CONFIGURATION)


def floor(kind: str) -> None:
    """Run what a volume needs in any case."""
    device = f"/dev/mapper/{VG}-bare"
    lvm("lvcreate", "--yes", "-n", "bare", "-ky", "--addtag", "state=creating", *MAKING[kind])
    if kind == "linear":
        run("blkdiscard", "--zeroout", device)
        lvm("lvchange", "-an", f"{VG}/bare")
        lvm("lvchange", "--deltag", "state=creating", "--addtag", "state=ready", f"{VG}/bare")
    lvm("lvchange", "-ay", "-K", f"{VG}/bare")
    run("mkfs.ext4", "-q", "-F", "-U", UUID, "-E", "nodiscard", device)
    lvm("lvchange", "--addtag", "formatted", f"{VG}/bare")
    lvm("lvchange", "-an", f"{VG}/bare")
    lvm("lvremove", "--yes", f"{VG}/bare")


def server(folder: Path, kind: str) -> servers.Server:
    """Prepare katacsi with an lvm pool in a fresh folder."""
    for part in ("kubelet", "run"):
        (folder / part).mkdir(parents=True)
    pool = {"backend": "lvm", "volume_group": VG, "devices": list(DISKS), "overprovision_ratio": 1000}
    if kind == "thin":
        pool["thin_pool"] = "thin"
    process = ServeProcess(
        folder,
        run=folder / "run",
        settings={
            "driver_name": "bench.katacsi.io",
            "kube": {"enabled": False},
            "metrics": {"address": METRICS},
            "pools": {kind: pool},
        },
    )
    return servers.Server(kind, process, folder / "kubelet", DIRECT)


def forked() -> dict[str, int]:
    """Say how many commands of each tool the server has run."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics") as page:
        text = page.read().decode()
    counts: dict[str, int] = defaultdict(int)
    for line in re.finditer(
        r"^katacsi_host_command_duration_seconds_count\{(.*?)\} (\S+)", text, re.MULTILINE
    ):
        counts[re.search(r'tool="([^"]+)"', line[1])[1]] += int(float(line[2]))
    return counts


def timed(call: Callable[[], object]) -> float:
    """Give the milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def lifecycles(home: Path, kind: str, rounds: int) -> None:
    """Compare lifecycles with the floor, and print a line."""
    driver = server(home / kind, kind)
    driver.start()
    ours, bare, commands = [], [], 0
    steps: dict[str, list[float]] = defaultdict(list)

    def life() -> None:
        volume = load.Volume(connection, steps)
        volume.create()
        volume.use()
        volume.delete()

    with load.connected(driver) as connection:
        life()  # warm
        steps.clear()
        before = forked()
        for _ in range(rounds):
            ours.append(timed(life))
            bare.append(timed(lambda: floor(kind)))
        after = forked()
        commands = sum(after.values()) - sum(before.values())
    driver.stop()
    ratios = [mine / least for mine, least in zip(ours, bare, strict=True)]
    print(
        f"{kind:7} {median(ours):6.0f} ms, {commands / rounds:.1f} commands; bare {median(bare):6.0f} ms, "
        f"{FLOOR[kind]} commands; {spread(ratios)} times the floor"
    )
    tools = ", ".join(f"{(after[tool] - before[tool]) / rounds:.1f} {tool}" for tool in sorted(after))
    print(f"        of which {tools}")
    for step, times in steps.items():
        print(f"        {step:22} {1000 * median(times):6.0f} ms")


def lists(home: Path, sizes: tuple[int, ...]) -> None:
    """Measure ListVolumes and GetCapacity with so many LVs, and print a line each."""
    driver = server(home / "lists", "thin")
    made = 0
    for size in sizes:
        _make(home, range(made, size))
        made = size
        driver.start()
        with load.connected(driver) as connection:
            answer = connection.call("/csi.v1.Controller/ListVolumes", b"")
            assert len(csi.ListVolumesResponse.parse(answer).entries) == size
            for name in ("ListVolumes", "GetCapacity"):
                method = f"/csi.v1.Controller/{name}"

                def ask(method: str = method) -> float:
                    return timed(lambda: connection.call(method, b""))  # no field set: no bytes

                cold, counts = [], [sum(forked().values())]
                for _ in range(5):
                    time.sleep(FRESH_S + 0.1)
                    cold.append(ask())
                counts.append(sum(forked().values()))
                warm = [ask() for _ in range(100)]
                counts.append(sum(forked().values()))
                each = (counts[1] - counts[0]) / len(cold)
                print(
                    f"{name} of {size} LVs: {median(cold):.1f} ms, {each:.1f} commands; 100 times more: "
                    f"{median(warm):.1f} ms each, {counts[2] - counts[1]} commands in all"
                )
        driver.stop()
        print(f"bare lvs of {size} LVs: {median(timed(lambda: lvm('lvs', VG)) for _ in range(5)):.1f} ms")


def _make(home: Path, numbers: range) -> None:
    """Make volumes as katacsi's own, by one LVM for all of them: making them is not what is measured."""
    (home / "lvm.conf").write_text(CONFIGURATION)
    lines = [
        " ".join(
            ["lvcreate", "--yes", "-n", f"kv-pvc-{number}", "-ky", *_tags(f"pvc-{number}"), *MAKING["thin"]]
        )
        for number in numbers
    ]
    environment = ENVIRONMENT | {"LVM_SYSTEM_DIR": str(home)}
    words = "\n".join(lines) + "\n"
    subprocess.run(LVM, input=words, env=environment, check=True, capture_output=True, text=True)


def _tags(name: str) -> list[str]:
    from katacsi.backends.lvm.tags import Kind, Record, State  # noqa: PLC0415 -- for this only

    record = Record(
        Kind.VOLUME, State.READY, "bench.katacsi.io", "thin", name, time.time(), layout="thin:1:0:1:0::thin"
    )
    return [word for tag in sorted(record.tags()) for word in ("--addtag", tag)]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, 10 and 30 LVs")
    parser.add_argument("--rounds", type=int, default=15, help="lifecycles of each kind (15)")
    asked = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    home = Path("/mnt/bench")
    home.mkdir()
    run("mkfs.ext4", "-q", HOME_DISK)
    run("mount", HOME_DISK, str(home))
    lvm("vgcreate", "--yes", "--metadatasize", "16M", VG, *DISKS)
    lvm("lvcreate", "--yes", "--type", "thin-pool", "-L", "1G", "-n", "thin", VG)
    print("udev runs" if UDEV else "no udev")
    for kind in MAKING:
        lifecycles(home, kind, 3 if asked.quick else asked.rounds)
    lists(home, (10, 30) if asked.quick else (10, 500))


if __name__ == "__main__":
    main()

"""The floor: the steps of a lifecycle as bare commands, with next to nothing around them.

    python bare.py <folder> <seconds> <mkfs and losetup flags as JSON>

One worker is one process, so that eight of them do not share an interpreter's lock, and it starts commands by
posix_spawn(3), which copies no page tables: the time is that of the commands. It says "ready", waits for a
line, works, and prints what came of it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

_SIZE = str(64 << 20)
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def find(tool: str) -> str:
    """Give a tool's path: what a shell would remember after its first use."""
    for folder in _ENVIRONMENT["PATH"].split(":"):
        if os.access(path := f"{folder}/{tool}", os.X_OK):
            return path
    raise SystemExit(f"{tool} is not installed")


def spawn(argv: list[str], *, ok: tuple[int, ...] = (0,)) -> None:
    """Run a command to its end."""
    _wait(os.posix_spawn(argv[0], argv, _ENVIRONMENT), argv, ok)


def answer_of(argv: list[str]) -> str:
    """Run a command and give what it says."""
    reading, writing = os.pipe()
    child = os.posix_spawn(argv[0], argv, _ENVIRONMENT, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
    os.close(writing)
    said = b""
    while data := os.read(reading, 4096):
        said += data
    os.close(reading)
    _wait(child, argv, (0,))
    return said.decode().strip()


def _wait(child: int, argv: list[str], ok: tuple[int, ...]) -> None:
    _, status = os.waitpid(child, 0)
    if (code := os.waitstatus_to_exitcode(status)) not in ok:
        raise SystemExit(f"{' '.join(argv)}: exit code {code}")


def main() -> None:
    """Work as told by the command line."""
    folder, seconds, flags = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])
    truncate, losetup, blkid, mkfs, mount, umount, rm = map(
        find, ("truncate", "losetup", "blkid", "mkfs.ext4", "mount", "umount", "rm")
    )
    image, target = f"{folder}/image", f"{folder}/target"
    Path(target).mkdir(parents=True)
    steps: dict[str, list[float]] = {}

    def timed(name: str, step, *args, **kwargs):
        started = time.perf_counter()
        result = step(*args, **kwargs)
        steps.setdefault(name, []).append(time.perf_counter() - started)
        return result

    print("ready", flush=True)
    sys.stdin.readline()
    before, started, lifecycles = os.times(), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        timed("truncate", spawn, [truncate, "-s", _SIZE, image])
        device = timed("losetup", answer_of, [losetup, *flags["losetup"], "--find", "--show", image])
        timed("blkid", spawn, [blkid, "-p", device], ok=(2,))  # 2: nothing was found
        timed("mkfs.ext4", spawn, [mkfs, *flags["mkfs"], device])
        timed("mount", spawn, [mount, "-t", "ext4", device, target])
        timed("umount", spawn, [umount, target])
        timed("losetup -d", spawn, [losetup, "-d", device])
        timed("rm", spawn, [rm, image])
        lifecycles += 1
    after = os.times()
    print(
        json.dumps(
            {
                "lifecycles": lifecycles,
                "ended": time.perf_counter() - started,
                "steps": steps,
                "commands_cpu": sum(after[2:4]) - sum(before[2:4]),
                "own_cpu": sum(after[:2]) - sum(before[:2]),
            }
        )
    )


if __name__ == "__main__":
    main()

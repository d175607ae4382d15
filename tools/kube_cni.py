#!/usr/bin/python3 -ISs
"""A CNI plugin for a node that is alone: a veth pair between the pod and the bridge of the node.

It also answers to the name `loopback`, which containerd runs before the network's own plugin.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

BRIDGE = "lab0"


def _ip(*words: str, inside: str = "", handle: int | None = None) -> None:
    enter = ["nsenter", f"--net={inside}"] if inside else []
    subprocess.run(
        [*enter, "ip", *words],
        check=True,
        stdout=sys.stderr,  # stdout is the answer
        pass_fds=[] if handle is None else [handle],
    )


def _next_address(net: str, state: str) -> str:
    """Return an address that none of the last 250 pods had."""
    with Path(state).open("a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 1) + 1
        file.truncate(0)
        file.write(str(number))
    return f"{net}.{number % 250 + 2}"


def _add(settings: dict[str, str], netns: str, name: str) -> dict[str, object]:
    address = _next_address(settings["net"], settings["state"])
    peer = f"{name}p"
    _ip("link", "add", name, "master", BRIDGE, "up", "type", "veth", "peer", "name", peer)
    # By file descriptor: ip takes a name below /run/netns, a process id, or /proc/self/fd.
    with Path(netns).open("rb") as namespace:
        handle = namespace.fileno()
        _ip("link", "set", peer, "netns", f"/proc/self/fd/{handle}", handle=handle)
    _ip("link", "set", peer, "name", "eth0", "up", inside=netns)
    _ip("link", "set", "lo", "up", inside=netns)
    _ip("addr", "add", f"{address}/24", "dev", "eth0", inside=netns)
    _ip("route", "add", "default", "via", f"{settings['net']}.1", inside=netns)
    return {
        "interfaces": [{"name": "eth0", "sandbox": netns}],
        "ips": [{"address": f"{address}/24", "gateway": f"{settings['net']}.1", "interface": 0}],
    }


def _loopback(netns: str) -> dict[str, object]:
    _ip("link", "set", "lo", "up", inside=netns)
    return {
        "interfaces": [{"name": "lo", "sandbox": netns}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
    }


def main() -> None:
    """Do what CNI_COMMAND says, and answer on stdout."""
    settings = json.load(sys.stdin)
    command, netns = os.environ["CNI_COMMAND"], os.environ.get("CNI_NETNS", "")
    name = "v" + os.environ.get("CNI_CONTAINERID", "")[:12]
    loopback = Path(sys.argv[0]).name == "loopback"
    if command == "VERSION":
        print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}))
    elif command == "ADD":
        answer = _loopback(netns) if loopback else _add(settings, netns, name)
        print(json.dumps({"cniVersion": settings.get("cniVersion", "1.0.0"), "dns": {}, **answer}))
    elif command == "DEL" and not loopback:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


if __name__ == "__main__":
    main()

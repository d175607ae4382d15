"""What a cluster pays: requests to its API by account, the time of one, and the memory on a node."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from support.kube_chart import NAMESPACE

if TYPE_CHECKING:
    from support.kube_http import Api
    from support.kube_lab import Inside, Lab

_ACCOUNTS = f"system:serviceaccount:{NAMESPACE}:"
#: Not asked for a volume: open as long as their process runs, or renewed by the clock.
_STANDING_VERBS, _STANDING = ("watch", "list"), ("leases",)

#: In the place of an account: csi-provisioner tells the room of each class by the clock, if it changed.
ROOM = "(the room of the classes)"

Requests = Counter[tuple[str, str]]


def requests(lab: Lab, since: int) -> Requests:
    """Count the requests of our accounts, from some byte of the audit log on: who, and what."""
    found: Requests = Counter()
    with lab.files.audit_log.open("rb") as log:
        log.seek(since)
        for line in log:
            event = json.loads(line)
            account, resource = event["user"]["username"], event.get("objectRef", {})
            # The programs of a pod have one account.
            program = event.get("userAgent", "").partition("/")[0]
            part = program if program.startswith("csi-") else "katacsi"
            if not account.startswith(_ACCOUNTS) or not resource:
                continue
            name = "/".join(filter(None, (resource["resource"], resource.get("subresource"))))
            if event["verb"] not in _STANDING_VERBS and name not in _STANDING:
                who = ROOM if name == "csistoragecapacities" else part
                found[who, f"{event['verb']} {name}"] += 1
    return found


def round_trips(api: Api, times: int) -> dict[str, list[float]]:
    """Read and write one object so often on one connection; return the seconds of each request."""
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bench", "namespace": "default"}}
    path = "/api/v1/namespaces/default/configmaps/bench"
    api.apply(item)
    found: dict[str, list[float]] = {"GET": [], "PATCH": []}
    connection = api.connect(60)
    headers = api.headers | {"Content-Type": "application/merge-patch+json"}
    try:
        for number in range(times):
            for method, body in (("GET", None), ("PATCH", json.dumps({"data": {"turn": str(number)}}))):
                began = time.perf_counter()
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                answer.read()
                found[method].append(time.perf_counter() - began)
                assert answer.status == 200, answer.status
    finally:
        connection.close()
        api.delete("ConfigMap", "bench")
    return found


def resident_mib(started: Inside) -> float:
    """Return the resident memory of a process inside, or of the one that its supervising shell started."""
    pid = started.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    name = Path(f"/proc/{pid}/comm").read_text("ascii").strip()
    status = Path(f"/proc/{children[0] if name == 'bash' else pid}/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024

"""How the tests read the API server's audit log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.kube_audit import requests

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = "system:serviceaccount:katacsi:node"
PODS = {"apiGroup": "", "resource": "pods"}


def _event(user: dict[str, str], verb: str, **more: object) -> str:
    return json.dumps({"user": user, "objectRef": PODS, "verb": verb, **more})


def test_requests_of_nobody_are_nobodys(tmp_path: Path):
    """A request that was refused before its sender was known has no user name; it is passed over."""
    forbidden = {"authorization.k8s.io/decision": "forbid"}
    log = tmp_path / "audit.json"
    lines = (
        _event({}, "list"),
        _event({"username": ACCOUNT}, "get"),
        _event({"username": ACCOUNT}, "delete", annotations=forbidden),
        _event({"username": "system:admin"}, "update"),
    )
    log.write_text("\n".join(lines), "utf-8")

    used, refused = requests(log, ACCOUNT)

    assert used == {("", "pods", "get")}
    assert refused == {" pods delete: no rule allows it"}

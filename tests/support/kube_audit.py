"""What an account asked of the API, and by which right: from the audit log of the API server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube_chart import Chart

#: Group, resource, verb.
Right = tuple[str, str, str]
#: A client that watches has listed before, or does so with an older server; and may get what it watches.
IMPLIED = {"list": "watch", "get": "watch"}


def requests(log: Path, account: str) -> tuple[set[Right], set[str]]:
    """Return the rights that an account used, and those that it lacked.

    Args:
        log: the audit log.
        account: the user name.
    """
    used: set[Right] = set()
    refused: set[str] = set()
    for line in log.read_text("utf-8").splitlines():
        event = json.loads(line)
        what = event.get("objectRef")
        # A request that was refused before its sender was known, as while the API server starts, has no name.
        if event["user"].get("username") != account or not what:
            continue
        sub = f"/{what['subresource']}" if what.get("subresource") else ""
        right = (what.get("apiGroup", ""), what.get("resource", "") + sub, event["verb"])
        notes = event.get("annotations", {})
        if notes.get("authorization.k8s.io/decision") == "forbid":
            refused.add(
                f"{' '.join(right)}: {notes.get('authorization.k8s.io/reason') or 'no rule allows it'}"
            )
        else:
            used.add(right)
    return used, refused


def granted(chart: Chart, account: str) -> set[Right]:
    """Return the rights that a chart's roles give to an account, taken apart."""
    bound = {
        (item["roleRef"]["kind"], item["roleRef"]["name"])
        for item in chart.items
        if item["kind"].endswith("RoleBinding") and account in [each["name"] for each in item["subjects"]]
    }
    found = set()
    for role in (item for item in chart.items if (item["kind"], item["metadata"]["name"]) in bound):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found |= {(group, resource, verb) for verb in rule["verbs"]}
    return found


def unused(given: set[Right], used: set[Right]) -> set[Right]:
    """Return the rights that nobody used, also not through a verb that implies them."""
    return {
        (group, resource, verb)
        for group, resource, verb in given - used
        if (group, resource, IMPLIED.get(verb, "")) not in used
    }

"""What the driver's account has to be allowed, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.kube import paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.kube.client import ClusterApi


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that an account may do, and what for."""

    verb: str
    group: str
    resource: str
    why: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


#: In every namespace: volumes are made for claims, and published for pods, wherever these are.
NEEDED: Final = (
    Rule("get", "", "pods", "to see how the pod of a publish runs"),
    Rule("get", "", "persistentvolumeclaims", "to read what a claim asks for"),
    Rule("get", "", "persistentvolumes", "to tell the claims of a pod apart"),
    Rule("get", "node.k8s.io", "runtimeclasses", "to tell whether a pod runs in Kata"),
)
FOR_ORPHANS: Final = (
    Rule("list", "", "persistentvolumes", "to tell which volumes have none; not with kube.orphan_interval 0"),
)
FOR_EVENTS: Final = (
    Rule("create", "events.k8s.io", "events", "to say on a pod or claim why it waits"),
    Rule("patch", "events.k8s.io", "events", "to count what is said again"),
)


async def missing(api: ClusterApi, rules: Sequence[Rule]) -> list[Rule]:
    """Give those of the rules that the account has not; one request for each.

    Raises:
        Unavailable, NotPermitted: as of every request.
    """
    lacking = []
    for rule in rules:
        attributes = {"verb": rule.verb, "group": rule.group, "resource": rule.resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await api.create(paths.access_reviews(), review, what="the rules of the driver's account")
        if not (answer.get("status") or {}).get("allowed"):
            lacking.append(rule)
    return lacking

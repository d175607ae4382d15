"""docs/kubernetes.md explains every rule that the chart asks for, and no other."""

from __future__ import annotations

import re

from chart_goldens import NETWORK, TREE
from support.chart import merged, of_kind, rendered

PAGE = (TREE / "docs" / "kubernetes.md").read_text("utf-8")
_ROW = re.compile(
    r"^\| `(?P<role>[a-z-]+)` \| `(?P<resource>[a-z0-9./]+)` \| (?P<verbs>[a-z, ]+) "
    r"\| (?P<scope>\w+) \| .+ \|$",
    re.MULTILINE,
)


def explained(text):
    return {
        tuple(found[key] for key in ("role", "resource", "verbs", "scope")) for found in _ROW.finditer(text)
    }


def asked_for(objects):
    """Give each rule of the rendered chart in the words of the page."""
    for each in of_kind(objects, "ClusterRole") + of_kind(objects, "Role"):
        role = each["metadata"]["name"].removeprefix("katacsi-")
        scope = "cluster" if each["kind"] == "ClusterRole" else "namespace"
        for rule in each["rules"]:
            (group,), (resource,) = rule["apiGroups"], rule["resources"]
            name = f"{resource}.{group}" if group else resource
            yield role, name, ", ".join(rule["verbs"]), scope


def test_every_rule_is_explained():
    """The tables of local and of network releases have the chart's rules, each with its reason."""
    of_local, found, more = PAGE.partition("A release with network pools has")
    assert found
    everything = {"watchNodes": {"enabled": True, "release": True}}
    local = set(asked_for(rendered(everything)))
    assert explained(of_local) == local
    network = set(asked_for(rendered(merged(NETWORK, everything))))
    assert explained(more) == network - local


def test_every_account_has_its_rules_and_no_other():
    """Bindings are to accounts of the release, and each role is bound once."""
    for values in ({"watchNodes": {"enabled": True}}, NETWORK):
        objects = rendered(values)
        accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
        bindings = of_kind(objects, "ClusterRoleBinding") + of_kind(objects, "RoleBinding")
        roles = of_kind(objects, "ClusterRole") + of_kind(objects, "Role")
        bound = [(each["roleRef"]["kind"], each["roleRef"]["name"]) for each in bindings]
        assert sorted(bound) == sorted((each["kind"], each["metadata"]["name"]) for each in roles)
        subjects = {subject["name"] for each in bindings for subject in each["subjects"]}
        assert subjects == accounts


def test_only_an_operator_lets_volumes_be_released():
    """Without `watchNodes.release` its account cannot change or delete anything."""
    rules = [
        each for each in asked_for(rendered({"watchNodes": {"enabled": True}})) if each[0] == "watch-nodes"
    ]
    assert {verb for _, name, verbs, _ in rules for verb in verbs.split(", ") if "events" not in name} == {
        "get",
        "list",
    }


def test_the_flags_of_the_sidecars_are_explained():
    """Each flag that is more than an address or a log level has its line on the page."""
    (pod,) = (each["spec"]["template"]["spec"] for each in of_kind(rendered(), "DaemonSet"))
    flags = {
        word.partition("=")[0]
        for container in pod["containers"]
        if container["name"].startswith("csi-")
        for word in container["args"]
    }
    dull = {"--csi-address", "--v", "--workers"}
    assert [flag for flag in flags - dull if flag not in PAGE] == []


def test_every_alert_is_named_on_the_page():
    """What the chart alerts of is told where one turns it on."""
    words = {
        "KatacsiDriverDown": "driver down",
        "KatacsiPoolUnusable": "pool that cannot be used",
        "KatacsiPoolLowOnRoom": "little room",
        "KatacsiInternalErrors": "calls that end in INTERNAL",
        "KatacsiGrowthPending": "growths that wait",
        "KatacsiOrphanedVolumes": "volumes without a PersistentVolume for a day",
        "KatacsiNodeGone": "nodes that are gone",
        "KatacsiNodeWatchFails": "a watch of the nodes that fails",
    }
    values = {"metrics": {"prometheusRule": {"enabled": True}}, "watchNodes": {"enabled": True}}
    (rule,) = of_kind(rendered(values), "PrometheusRule")
    assert {each["alert"] for group in rule["spec"]["groups"] for each in group["rules"]} == set(words)
    assert all(each in PAGE for each in words.values())

"""`katacsi doctor` on nodes made of files: what is printed, and how it ends."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from katacsi.backends import registry
from katacsi.cli.root import katacsi
from katacsi.doctor import examine
from katacsi.findings import Finding, Harm, Verdict, failure, note, ok, unknown, warning
from support import kata_trees as trees


@pytest.fixture
def run():
    """Call `katacsi doctor`."""

    def call(*arguments):
        environment = {"KATACSI_CONFIG": None}
        return CliRunner(env=environment).invoke(katacsi, ["doctor", *(str(word) for word in arguments)])

    return call


def findings(result, check_id):
    everything = json.loads(result.stdout)["findings"]
    return [(one["subject"], one["verdict"]) for one in everything if one["id"] == check_id]


def test_a_node_as_kata_deploy_leaves_it(tmp_path, run):
    """Of the two runtimes, the Go one is not set up for direct volumes, and the file is named."""
    result = run("--host-root", trees.deployed(tmp_path), "--output", "json")
    assert findings(result, "kata-block-device-use") == [
        ("kata-qemu", "failure"),
        ("kata-qemu-runtime-rs", "ok"),
    ]
    assert result.exit_code == 1
    (failed,) = (
        one
        for one in json.loads(result.stdout)["findings"]
        if one["id"] == "kata-block-device-use" and one["verdict"] == "failure"
    )
    assert failed["harm"] == "breaks pods"
    assert failed["fact"] == f"{trees.GO_FILE}: [hypervisor.qemu] disable_block_device_use = true"
    assert "config.d/60-katacsi.toml" in failed["remedy"]
    assert failed["why"]


def test_the_table_says_what_to_change(tmp_path, run):
    """Groups of findings, then what to change, the worst first, then one line that sums up."""
    result = run("--host-root", trees.deployed(tmp_path))
    lines = result.stdout.splitlines()
    assert [line for line in lines if line in {"Kata", "Records", "Node", "Pools"}] == [
        "Kata",
        "Records",
        "Node",
        "Pools",
    ]
    verdicts = re.findall(r"^(Failure|Unknown|Warning|Note) ", result.stdout, re.MULTILINE)
    assert verdicts == sorted(verdicts, key=["Failure", "Unknown", "Warning", "Note"].index)
    assert verdicts[0] == "Failure"
    assert re.match(r"\d+ problems? would break pods or lose data, .*\d+ checks fine$", lines[-1])


def test_a_named_configuration_is_judged(tmp_path, run):
    """Also where no handler leads to it."""
    trees.write(tmp_path, "/srv/kata.toml", trees.GO_QEMU)
    result = run("--host-root", tmp_path, "--kata-config", "/srv/kata.toml", "--output", "json")
    assert findings(result, "kata-block-device-use") == [("/srv/kata.toml", "failure")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host-root", "/there/is/no/such/folder"],
        ["--kata-config", "/there/is/no/such.toml"],
        ["--kata-config", "relative.toml"],
        ["--config", "/there/is/no/such.yaml"],
        ["--no-such-option"],
    ],
)
def test_misuse_is_told_apart(run, arguments):
    """Exit code 2: nothing was judged."""
    assert run(*arguments).exit_code == 2


def finding(result, harm=Harm.PODS):
    check = next(check for check in examine.CHECKS if check.harm is harm)
    return Finding(check, result)


GOOD = ok("a", "b")


@pytest.mark.parametrize(
    ("found", "alarming"),
    [
        ([finding(GOOD)], False),
        ([finding(GOOD), finding(note("a", "b"))], False),
        ([finding(warning("a", "b", "c"))], False),
        ([finding(GOOD), finding(failure("a", "b", "c"))], True),
        ([finding(unknown("a", "b"))], True),
        ([finding(unknown("a", "b", harm=Harm.NONE))], False),
        ([finding(unknown("a", "b"), Harm.NONE)], False),
    ],
)
def test_exit_code(found, alarming):
    """A failure counts, and so does not knowing whether there is one."""
    assert examine.alarming(found) is alarming


def test_summary():
    """Plain numbers, in words."""
    found = [finding(GOOD), finding(failure("a", "b", "c")), finding(unknown("a", "b")), finding(GOOD)]
    assert examine.summary(found) == (
        "1 problem would break pods or lose data, 1 could not be determined, 2 checks fine"
    )
    assert examine.summary([]) == "no problems would break pods or lose data, 0 checks fine"


def test_checks_are_named_once():
    """Scripts go by the names."""
    brought = [check for name in ("loopfile", "lvm") for check in registry.load(name).checks()]
    every = [*examine.CHECKS, *brought]
    names = [check.id for check in every]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(kata|records|node|pool)-[a-z-]+", name) for name in names)
    assert all(check.why.endswith(".") and check.about for check in every)


def test_nothing_harmless_is_alarming():
    """A note has no harm, whatever its check is about."""
    assert finding(note("a", "b")).harm is Harm.NONE
    assert finding(failure("a", "b", "c")).verdict is Verdict.FAILURE

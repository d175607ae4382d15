"""The house as docs/development.md draws it is the one that the import contracts keep."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
PAGE = (TREE / "docs" / "development.md").read_text("utf-8")
CONTRACTS = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]


def contract(name: str) -> dict:
    (found,) = (each for each in CONTRACTS if each["name"] == name)
    return found


def floors() -> list[str]:
    """The floors of the picture, from the top: rooms with what stands between them, as in the contract."""
    picture = PAGE[PAGE.index("┌") : PAGE.index("└")]
    found = [""]
    for row in re.findall(r"^│ (.*)│$", picture, re.MULTILINE):
        rooms = re.split(r" {2,}", row.strip())[0]
        # A floor that does not fit into one row ends with what stands between two rooms.
        if found[-1].endswith((":", "|")):
            found[-1] += f" {rooms}"
        else:
            found.append(rooms)
    return found[1:]


def rooms() -> set[str]:
    """All rooms, by the contract."""
    layers = contract("A request walks one way")["layers"]
    return {room for layer in layers for room in re.split(r" [:|] ", layer)}


def test_the_picture_is_the_contract():
    """Every floor is drawn, in its order, with its rooms and with what may be imported between them."""
    assert floors() == contract("A request walks one way")["layers"]


def test_the_picture_has_every_room():
    """What there is in src/katacsi is in the picture, or said not to be."""
    there = {path.stem for path in (TREE / "src" / "katacsi").iterdir() if path.suffix in {"", ".py"}}
    assert there - rooms() - {"__pycache__"} == {"__init__", "__main__", "_gen"}


def test_the_rules_are_said():
    """Every contract has its sentence on the page."""
    said = PAGE.lower()
    assert [each["name"] for each in CONTRACTS if each["name"].lower() not in said] == []


def test_no_room_is_forgotten_by_a_rule():
    """A new room is under the rules for all rooms unless it is one of those that the page names."""
    for name, may in (
        ("gRPC and protobuf stop at the door", {"app", "kubelet", "csi", "rpc", "testing"}),
        ("Only host touches the kernel", {"host", "demo", "testing"}),
        ("Only kube speaks to the Kubernetes API", {"kube"}),
        ("Only otlp speaks OpenTelemetry", {"otlp"}),
    ):
        under = {module.removeprefix("katacsi.") for module in contract(name)["source_modules"]}
        assert rooms() - under == may


def test_a_newcomer_is_led_to_what_there_is():
    """Every path in the walk of a request and in the table "I want to" exists."""
    part = PAGE[PAGE.index("A request walks one way. ") : PAGE.index("**One kind of wait**")]
    paths = [code for code in re.findall(r"`([^`\n]+)`", part) if re.search(r"\.(py|md|proto)$|/$", code)]
    assert len(paths) > 20
    missing = [
        path
        for path in paths
        if not (TREE / path).exists()
        and not (TREE / "src" / "katacsi" / path).exists()
        and not list((TREE / "src" / "katacsi").rglob(path))
    ]
    assert missing == []

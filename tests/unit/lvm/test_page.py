"""What docs/lvm.md shows is what the backend takes."""

import re
from pathlib import Path

import yaml

from katacsi.backends.lvm import layout as layouts
from katacsi.backends.lvm.settings import PARAMETER_PREFIX, LvmSettings, VolumeType

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "lvm.md").read_text()


def test_the_storage_class_is_accepted():
    """Each example of parameters is legal."""
    found = re.findall(r"^```\n(parameters:\n.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    for text in found:
        given = {
            key.removeprefix(PARAMETER_PREFIX): value
            for key, value in yaml.safe_load(text)["parameters"].items()
        }
        layouts.parse(given, LvmSettings(volume_group="data"))


def test_every_type_has_a_row():
    """The table of types has each type that is not thin, with the disks that it takes by default."""
    for kind in set(VolumeType) - {VolumeType.THIN}:
        assert re.search(rf"^\| `{kind.value}` \|", PAGE, re.MULTILINE), kind

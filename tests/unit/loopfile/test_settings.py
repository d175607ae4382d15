"""What a loopfile pool can be told, and what its StorageClasses can say."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from katacsi.backends.loopfile import LoopfileSettings
from katacsi.backends.loopfile.settings import Allocation, CopyMode
from katacsi.errors import InvalidRequest
from katacsi.model import MIB


def test_a_folder_is_all_that_has_to_be_said():
    """The defaults are sparse, strict about space, and as quick with copies as the filesystem can be."""
    settings = LoopfileSettings(directory="/pool")
    assert settings.directory == Path("/pool")
    assert settings.allocation is Allocation.SPARSE
    assert settings.copies is CopyMode.AUTO
    assert settings.overprovision_ratio == 1
    assert settings.quota is None


def test_sizes_are_quantities():
    """Sizes may be written as in a StorageClass."""
    settings = LoopfileSettings(directory="/pool", quota="10Gi", reserve=5, minimum_volume_size="8Mi")
    assert (settings.quota, settings.reserve, settings.minimum_volume_size) == (10 << 30, 5, 8 * MIB)


@pytest.mark.parametrize(
    "wrong",
    [
        {"directory": "pool"},
        {"directory": "/pool", "backend": "loopfile"},
        {"directory": "/pool", "quota": "ten"},
        {"directory": "/pool", "overprovision_ratio": 0},
        {"directory": "/pool", "allocation": "thin"},
        {},
    ],
    ids=["relative", "unknown-key", "no-size", "no-ratio", "no-allocation", "no-folder"],
)
def test_what_is_not_legal_is_refused(wrong):
    """A relative folder, an unknown key and a value without meaning are refused."""
    with pytest.raises(ValidationError):
        LoopfileSettings(**wrong)


def test_every_setting_is_described_in_the_schema():
    """The JSON Schema of the settings can be made, and describes each key."""
    schema = LoopfileSettings.model_json_schema()
    assert all("description" in field for field in schema["properties"].values())


def test_the_class_beats_the_pool():
    """A StorageClass's allocation goes before the pool's."""
    settings = LoopfileSettings(directory="/pool", allocation="thick")
    assert settings.allocation_for({}) is Allocation.THICK
    assert settings.allocation_for({"allocation": "sparse"}) is Allocation.SPARSE


@pytest.mark.gate("unknown-parameter-is-refused-at-create")
@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"allocation": "thin"}, "loopfile.katacsi.io/allocation"),
        ({"allocations": "thick"}, "loopfile.katacsi.io/allocations"),
    ],
    ids=["value", "key"],
)
def test_a_parameter_is_refused_by_its_full_key(parameters, key):
    """The message names the key as the StorageClass has it, and what is legal."""
    with pytest.raises(InvalidRequest, match=r"sparse or thick|allocation") as caught:
        LoopfileSettings(directory="/pool").allocation_for(parameters)
    assert caught.value.field == key

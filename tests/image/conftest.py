"""The image of this tree, built before the first test, and what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import image_archive
import kubetools
from support.container import Container, Image

if TYPE_CHECKING:
    from collections.abc import Callable

#: Building may start with a download, a base, and wheels, on a machine that does something else, too.
BUILD_TIMEOUT_S = 1500


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test the time that the build takes."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))


@pytest.fixture(scope="session")
def image(scratch_root: Path) -> Image:
    """The image, unpacked."""
    try:
        archive = image_archive.archive()
    except image_archive.Unavailable as reason:
        pytest.skip(f"no image: {reason}")
    folder = scratch_root / "image"
    folder.mkdir()
    return Image.unpacked(archive, folder)


@pytest.fixture(scope="session")
def runc() -> Path:
    """Debian's runc; the one that is installed, or unpacked from its package."""
    try:
        return kubetools.path("runc")
    except kubetools.Unavailable as reason:
        pytest.skip(f"no runc: {reason}")


@pytest.fixture
def container(image: Image, runc: Path, scratch: Path) -> Callable[..., Container]:
    """Make containers of the image: `container("--version")`."""

    def make(*words: str, **wishes: Any) -> Container:
        return Container(image, runc, scratch, image.command(*words), **wishes)

    return make

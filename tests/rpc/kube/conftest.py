"""A server of Kubernetes' kind, and the driver's client of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from katacsi.kube.client import ClusterApi
from support import kube_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.kube_api import KubeApi


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeApi]:
    """An API server on HTTPS."""
    async with kube_api.serving(tmp_path) as serving:
        yield serving


@pytest.fixture
async def api(server: KubeApi) -> AsyncIterator[ClusterApi]:
    """The client, as a pod of that cluster has it."""
    client = ClusterApi(server.credentials, timeout_s=2)
    await client.start()
    yield client
    await client.close()

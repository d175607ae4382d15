"""Where the API server is and who the driver is there: a pod's service account, or a kubeconfig file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from katacsi.errors import SettingsError
from katacsi.kube.library import library, load_kube_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.settings import KubeSettings

#: Where the kubelet gives a pod its token and the authority of the API server's certificate, both rotated.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Credentials(Protocol):
    """Something that can be read again when the API server does not take what was read before."""

    async def load(self) -> Any:  # noqa: ANN401  # the library's Configuration
        """Read address, authority and identity.

        Raises:
            SettingsError: they are not there, or not usable; with what to set.
        """


@dataclass(frozen=True, slots=True)
class InCluster:
    """The service account of the pod that the driver runs in; its token is read again every minute."""

    folder: Path = SERVICE_ACCOUNT
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    async def load(self) -> Any:  # noqa: ANN401  # the library's Configuration
        """Read the account's files.

        Raises:
            SettingsError: this is no pod, or one without a service account.
        """
        configuration = _configuration()
        loader = library().InClusterConfigLoader(
            token_filename=str(self.folder / "token"),
            cert_filename=str(self.folder / "ca.crt"),
            environ=dict(self.environment),
        )
        try:
            loader.load_and_set(configuration)
        except (library().ConfigException, OSError) as error:
            raise SettingsError(
                f"kube.enabled: no service account of a pod is found ({error}); run katacsi in a pod whose "
                "automountServiceAccountToken is true, or set kube.kubeconfig, or set kube.enabled to false"
            ) from error
        return configuration


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context of a kubeconfig file."""

    path: Path

    async def load(self) -> Any:  # noqa: ANN401  # the library's Configuration
        """Read the file, and run its credential plugin if it has one.

        Raises:
            SettingsError: it cannot be read, or its current context is not complete.
        """
        if not self.path.is_file():
            raise SettingsError(f"kube.kubeconfig: {self.path}: there is no such file")
        configuration = _configuration()
        broken = (
            library().ConfigException,
            yaml.YAMLError,
            AssertionError,
            AttributeError,
            KeyError,
            OSError,
            TypeError,
            ValueError,
        )
        try:
            await load_kube_config()(
                config_file=str(self.path), client_configuration=configuration, persist_config=False
            )
        except broken as error:
            raise SettingsError(
                f"kube.kubeconfig: {self.path}: cannot be used ({type(error).__name__}: {error}); see "
                f"`kubectl --kubeconfig {self.path} config view`"
            ) from error
        return configuration


def credentials_of(settings: KubeSettings) -> Credentials:
    """Give the credentials that the configuration names."""
    return Kubeconfig(Path(settings.kubeconfig)) if settings.kubeconfig else InCluster()


def _configuration() -> Any:  # noqa: ANN401  # the library's
    configuration = library().Configuration()
    # Python 3.13 refuses authorities without key identifiers, which clusters have had for years and their Go
    # clients take. The chain, the host's name and the dates are checked all the same.
    configuration.disable_strict_ssl_verification = True
    return configuration

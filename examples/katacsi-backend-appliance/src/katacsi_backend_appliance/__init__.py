"""A katacsi backend for storage in the network: an example to start from."""

from katacsi_backend_appliance.backend import ApplianceBackend, ApplianceSettings

__all__ = ["ApplianceBackend", "ApplianceSettings"]

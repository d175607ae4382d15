"""Whole disks as volumes: a backend that does the least that katacsi asks for."""

from katacsi_backend_example.backend import DisksBackend, DisksSettings

__all__ = ["DisksBackend", "DisksSettings"]

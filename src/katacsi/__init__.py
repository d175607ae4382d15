"""A CSI driver that gives Kata Containers pods their volumes as direct-assigned block devices."""

__version__ = "0.1.0"

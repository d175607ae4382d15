"""A CSI driver that gives Kata Containers pods their volumes as direct-assigned block devices."""

"""Backends turn a pool's settings into block devices; each is found by its entry point."""

"""What several tiers share. `tests` is on pytest's path: `from support.node import ...`."""

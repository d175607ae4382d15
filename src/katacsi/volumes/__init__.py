"""The workflows: order, locks, idempotency and undo of each CSI call; no wire format, no kernel call."""

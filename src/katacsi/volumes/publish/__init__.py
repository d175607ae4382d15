"""Publishing: which mode a volume goes to its pod by, the three routes, and what was published since boot."""

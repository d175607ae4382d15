"""Code generated from proto/csi.proto by tools/generate.py. Never edit it."""

"""Code generated from proto/ by tools/generate.py. Never edit it."""

"""A support bundle: what a person far away needs to know of a node, without its secrets and its data."""

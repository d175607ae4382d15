"""Backends with one bug each, and the test of the kit that has to find it."""

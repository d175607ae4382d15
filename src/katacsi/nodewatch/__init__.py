"""Notices nodes that are gone for good, and what becomes of their volumes."""

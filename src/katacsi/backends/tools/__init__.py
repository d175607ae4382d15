"""What authors of backends need and katacsi has: public, and used by the backends that are built in."""

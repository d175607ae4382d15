"""gRPC on a unix socket: what stands around every call, whichever service it is for."""

"""The door: the only room that knows gRPC and protobuf. An RPC is parsed, asked of a workflow, rendered."""

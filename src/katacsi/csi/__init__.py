"""The CSI services: a message is parsed, asked of a workflow, and the answer rendered."""

"""A stand-in for Kata's runtimes: it consumes direct-volume records in a real guest, as Kata does.

Kata itself needs KVM and containerd; what matters here is the contract between a CSI driver and the two
runtimes, and that is small enough to be written down again: which record is found, what becomes of one that
is torn, what the guest mounts and where. Each rule names its source, a path in kata-containers at 7c6ba40c54
(4.1.0), and bugs are kept where a driver would meet them.

- `records`: what the Go runtime and runtime-rs make of the root of the records;
- `agent`: what the agent does in the guest;
- `sharing`: what happens to mounts that have no record: virtio-fs;
- `sandboxes`: sandboxes and containers; `go` and `rust`: those of each runtime.
"""

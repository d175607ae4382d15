"""What the kubelet wants of a driver besides CSI: to be told of it, and to hear whether it is well."""

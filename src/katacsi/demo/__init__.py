"""`katacsi demo`: the real driver, a real volume, and a stand-in for the kubelet and for the guest."""

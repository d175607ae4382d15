"""The kernel and its tools: the only room with subprocess, ctypes, ioctl and mount."""

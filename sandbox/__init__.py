"""The runtime: everything that needs root or touches the kernel."""

"""sandboxd: composition root, listener, leases, recovery. Root, one asyncio loop, never forks."""

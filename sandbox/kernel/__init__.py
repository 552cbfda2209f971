"""The only place on the host for ctypes, prctl, psutil, pyroute2, netlink and raw system calls.

OSError travels inside and out of here; it becomes a LaunchError once, where the step of a plan is known. `libc` holds the declarations and
the one error function, the modules beside it wrap them in two to six lines each. Importing this package imports none of them: the
launcher's heap stays small.
"""

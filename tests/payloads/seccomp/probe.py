"""Asks the kernel for things, in or out of a sandbox, and tells what it answered. Python 2.7 and 3."""

import ctypes
import mmap
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def raw(number, arguments):
    """0 or the errno of one system call; the arguments are whole registers. A child that a clone made ends at once."""
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in arguments])
    if result == 0 and os.getpid() != PARENT[0]:
        os._exit(0)
    number = ctypes.get_errno() if result == -1 else 0
    return -(result - (1 << 32)) if (1 << 31) < result < (1 << 32) else number  # modify_ldt answers with an int


PARENT = [0]


def told_by_a_child(act):
    """What `act` gives in a process of its own, so that nothing which it may change is ours. -signal where it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        PARENT[0] = os.getpid()
        os.write(writer, str(act()).encode("ascii"))
        os._exit(0)
    os.close(writer)
    told = os.read(reader, 100)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    return int(told) if told else -(status & 127)


def getpid_of_i386():
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


def main_handler(event, context):
    """The i386 answer, or the errno of each [number, arguments]."""
    if event == "32 bit":
        return told_by_a_child(getpid_of_i386)
    return [told_by_a_child(lambda number=number, arguments=arguments: raw(number, arguments)) for number, arguments in event]

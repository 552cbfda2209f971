"""SOCK_SEQPACKET pairs and messages with descriptors. See unix(7), cmsg(3).

One message is one packet; a truncated one is a protocol error, never half a message.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence

from sandbox.protocol import MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS

_ANCILLARY = socket.CMSG_SPACE(MAX_MESSAGE_FDS * 4) + socket.CMSG_SPACE(12)
_UCRED = struct.Struct("3i")
# Numbers: operations on the enumeration cost more than the packet.
_CUT_OFF = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)


class TruncatedMessage(ConnectionError):
    """MSG_TRUNC or MSG_CTRUNC: the peer sent more than a message may hold, or we are out of descriptors.

    `data` is the whole packet where only descriptors are missing, b"" otherwise.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__("a message or its descriptors were cut off")
        self.data = data


def seqpacket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def stream_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """One packet; BlockingIOError when the peer's buffer is full."""
    if fds:
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())], _NOSIGNAL)
    else:
        sock.send(data, _NOSIGNAL)


def receive(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """One packet: (data, descriptors, sender's pid or 0). b"" is end of file. The pid needs SO_PASSCRED."""
    data, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY, _CLOEXEC)
    if not ancillary and not flags & _CUT_OFF:
        return data, [], 0
    fds: list[int] = []
    pid = 0
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
            fds.extend(numbers)
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = _UCRED.unpack(raw)[0]
    if flags & _CUT_OFF:
        for fd in fds:
            os.close(fd)
        raise TruncatedMessage(b"" if flags & socket.MSG_TRUNC else data)
    return data, fds, pid


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of who connected, SO_PEERCRED."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid

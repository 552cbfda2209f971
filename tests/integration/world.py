"""A small world of network namespaces: the host that Hearth runs on, and the outside with a server and a resolver, joined by a veth.

    outside  198.51.100.7, 169.254.169.254, 100.100.100.200 ── 203.0.113.1 ══ 203.0.113.2 ── host, also 192.0.2.77
             says who is calling on 8080 and 80, resolver on 53                              says "host" on 7070

The calling thread lives in `host` until `close`, and so does every process and thread it starts; nothing reaches the machine's own network.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import TypeVar

from sandbox.kernel import constants as k
from sandbox.kernel import links, netlink, process

T = TypeVar("T")

SERVER = "198.51.100.7"
METADATA = "169.254.169.254"
OTHER_METADATA = "100.100.100.200"
OUTSIDE = "203.0.113.1"
HOST = "203.0.113.2"
HOST_TOO = "192.0.2.77"
NAME = "server.test"
SERVER_PORT, METADATA_PORT, HOST_PORT = 8080, 80, 7070
UPLINK = "up0"


def own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def within(namespace: int, work: Callable[[], T]) -> T:
    """Do it in a thread that has entered that network namespace."""

    def entered() -> T:
        process.setns(namespace, k.CLONE_NEWNET)
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(entered).result()


def new_namespace() -> int:
    """A network namespace with its loopback up; its descriptor keeps it."""

    def made() -> int:
        process.unshare(k.CLONE_NEWNET)
        links.bring_up_loopback()
        return own_namespace()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(made).result()


def add_address(link: str, address: str, bits: int) -> None:
    with netlink.Netlink() as sock:
        sock.call(netlink.up(links.index_of(link)), netlink.address(links.index_of(link), IPv4Address(address), bits))


def add_default_route(link: str, gateway: str) -> None:
    with netlink.Netlink() as sock:
        sock.call(netlink.default_route(links.index_of(link), IPv4Address(gateway)))


def connect(host: str, port: int, timeout_seconds: float = 2.0) -> str:
    """What the other side says."""
    with socket.create_connection((host, port), timeout_seconds) as sock:
        return sock.recv(100).decode()


class World:
    """Build in the constructor, `close` at the end; `host` and `outside` are descriptors of the namespaces."""

    def __init__(self) -> None:
        self._home = own_namespace()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.questions: list[str] = []
        self.outside = new_namespace()
        self.host = new_namespace()
        process.setns(self.host, k.CLONE_NEWNET)
        with netlink.Netlink() as sock:
            sock.call(netlink.veth(UPLINK, peer="out0", peer_mac=bytes.fromhex("02cafe000001"), peer_namespace=self.outside))
        within(self.outside, self._build_outside)
        add_address(UPLINK, HOST, 24)
        add_address("lo", HOST_TOO, 32)
        add_default_route(UPLINK, OUTSIDE)
        self._serve(HOST_PORT, lambda peer: "host")
        connect(SERVER, SERVER_PORT, 10)  # the kernel may take a second until a new link carries, and drops what comes before

    def _build_outside(self) -> None:
        add_address("out0", OUTSIDE, 24)
        for address in (SERVER, METADATA, OTHER_METADATA):
            add_address("lo", address, 32)
        self._serve(SERVER_PORT, lambda peer: peer)
        self._serve(METADATA_PORT, lambda peer: peer)
        resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        resolver.bind(("", 53))
        self._start(resolver, self._resolve)

    def _serve(self, port: int, answer: Callable[[str], str]) -> None:
        def serve(listening: socket.socket) -> None:
            while True:
                try:
                    sock, peer = listening.accept()
                except OSError:
                    return  # closed at the end
                with sock:
                    sock.sendall(answer(peer[0]).encode())

        self._start(socket.create_server(("", port)), serve)

    def _start(self, sock: socket.socket, work: Callable[[socket.socket], None]) -> None:
        self._sockets.append(sock)
        self._threads.append(threading.Thread(target=work, args=[sock]))
        self._threads[-1].start()

    def _resolve(self, sock: socket.socket) -> None:
        """A resolver, RFC 1035: NAME has one A record, nothing else exists."""
        while True:
            try:
                query, peer = sock.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            end = query.index(b"\0", 12)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, kind = ".".join(labels), struct.unpack_from(">H", query, end + 1)[0]
            self.questions.append(name)
            found = name == NAME and kind == 1
            flags = 0x8180 if name == NAME else 0x8183
            answer = query[:2] + struct.pack(">HHHHH", flags, 1, int(found), 0, 0) + query[12 : end + 5]
            if found:
                answer += struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(SERVER)
            sock.sendto(answer, peer)

    def close(self) -> None:
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes who is in accept or recvfrom
            except OSError:
                continue  # an unconnected UDP socket complains, and wakes them all the same
        for thread in self._threads:
            thread.join(5)
        for sock in self._sockets:
            sock.close()
        process.setns(self._home, k.CLONE_NEWNET)
        for fd in (self._home, self.outside, self.host):
            os.close(fd)

"""Copies of host files at the same absolute paths under another root, symbolic links and all."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Collection

from sandbox.imaging.rootfs import directory_mode, file_mode


class Mirror:
    """Copies into `root`; remembers `files`, the real host paths copied so far. Names that match `excluded` are left out of trees."""

    def __init__(self, root: str, *, excluded: re.Pattern[str]) -> None:
        self._root = root
        self._excluded = excluded
        self._folders: dict[str, str] = {"/": "/"}  # host directory as named → real, with its links made in the root
        self.files: dict[str, int] = {}
        self.copied_bytes = 0

    def add(self, path: str) -> str:
        """Copy a file, the links on the way to it, and what they point to. Returns its real path on the host."""
        folder = self.add_links(os.path.dirname(path))
        host = os.path.join(folder, os.path.basename(path))
        facts = os.lstat(host)
        if stat.S_ISLNK(facts.st_mode):
            self._link(host)
            return self.add(os.path.join(folder, os.readlink(host)))
        if stat.S_ISREG(facts.st_mode) and host not in self.files:
            shutil.copyfile(host, self._root + host)
            os.chmod(self._root + host, file_mode(facts.st_mode))
            # Byte code names the second and size of its source, so times must survive.
            os.utime(self._root + host, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            self.files[host] = facts.st_size
            self.copied_bytes += facts.st_size
        return host

    def add_tree(self, path: str, *, skip: Collection[str] = ()) -> None:
        """Copy a directory with everything below it that is neither excluded nor named in `skip`; links out of it keep their target."""
        for folder, directories, files in os.walk(self.add_links(path)):
            directories[:] = [name for name in directories if name not in skip and not self._excluded.fullmatch(name)]
            self.add_links(folder)
            for name in (*files, *directories):
                host = os.path.join(folder, name)
                if self._excluded.fullmatch(name) or (os.path.isdir(host) and not os.path.islink(host)):
                    continue
                if os.path.isfile(host):
                    self.add(host)
                elif os.path.islink(host):
                    self._link(host)

    def add_links(self, path: str) -> str:
        """Make a directory and the links on the way to it, if the host has it. Returns its real path on the host."""
        if path in self._folders:
            return self._folders[path]
        parent = self.add_links(os.path.dirname(path))
        host = os.path.normpath(os.path.join(parent, os.path.basename(path)))
        if os.path.islink(host):
            self._link(host)
            real = self.add_links(os.path.normpath(os.path.join(parent, os.readlink(host))))
        else:
            real = host
            if os.path.isdir(host) and not os.path.isdir(self._root + host):
                os.mkdir(self._root + host, 0o755)
                os.chmod(self._root + host, directory_mode(os.stat(host).st_mode & 0o777))
        self._folders[path] = real
        return real

    def _link(self, host: str) -> None:
        if not os.path.lexists(self._root + host):
            os.symlink(os.readlink(host), self._root + host)

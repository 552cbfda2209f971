"""`python -m sandbox.confine --user NAME [--expose PATH] [--expose-ro PATH] -- COMMAND…`: root becomes a user without any
privilege, then execs.

The command gets a mount namespace of its own, in which the exposed paths can be reached by that user even below a directory that is
closed to it (a checkout under /root, a state directory from mktemp): an empty directory covers the closed one, in which only the
exposed paths appear, at their own names. Nothing changes outside. Then: the user's ids, no capability, an empty bounding set,
no_new_privs; it dies with its parent.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

import click

from sandbox.kernel import constants as k
from sandbox.kernel import filesystem, process


def closed_to(path: Path, uid: int, gids: set[int]) -> bool:
    """Whether that user may not enter and list the directory `path`, by its mode alone."""
    facts = path.stat()
    if facts.st_uid == uid:
        needed = stat.S_IRUSR | stat.S_IXUSR
    elif facts.st_gid in gids:
        needed = stat.S_IRGRP | stat.S_IXGRP
    else:
        needed = stat.S_IROTH | stat.S_IXOTH
    return (facts.st_mode & needed) != needed


def plan_cover(exposed: list[Path], uid: int, gids: set[int]) -> tuple[list[Path], list[Path]]:
    """(closed directories to cover, what to attach in them): the topmost closed ancestor of each exposed path; where the exposed
    directory itself is
    closed, its entries are attached one by one."""
    covers: list[Path] = []
    attach: list[Path] = []
    for path in exposed:
        line = [*reversed(path.parents), path]
        closed = [directory for directory in line if closed_to(directory, uid, gids)]
        if not closed:
            continue
        covers.append(closed[0])
        attach += sorted(path.iterdir()) if path in closed else [path]
    topmost = [cover for cover in dict.fromkeys(covers) if not any(other in cover.parents for other in covers)]
    return topmost, list(dict.fromkeys(attach))


def expose(exposed: list[Path], uid: int, gids: set[int]) -> None:
    """Make the paths reachable in this mount namespace. OSError where the kernel refuses."""
    covers, attach = plan_cover(exposed, uid, gids)
    trees = {path: filesystem.clone_tree(str(path)) for path in attach if path.exists() and not path.is_symlink()}
    links = {path: os.readlink(path) for path in attach if path.is_symlink()}
    files = {path for path in trees if not path.is_dir()}
    for cover in covers:
        filesystem.mount("tmpfs", str(cover), "tmpfs", k.MS_NOSUID | k.MS_NODEV, "size=1m,mode=755")
    for path, fd in trees.items():
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
        filesystem.move_mount(fd, str(path))
        os.close(fd)
    for path, target in links.items():
        path.symlink_to(target)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--user", required=True)
@click.option("--expose", "paths", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--expose-ro", "read_only", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(user: str, paths: tuple[Path, ...], read_only: tuple[Path, ...], command: tuple[str, ...]) -> None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        sys.exit(f"confine: no user {user!r} (useradd --system --no-create-home --shell /usr/sbin/nologin {user})")
    process.unshare(k.CLONE_NEWNS)
    filesystem.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE)
    everything = [path.resolve() for path in (*read_only, *paths)]
    expose(everything, entry.pw_uid, {entry.pw_gid})
    for path in read_only:
        where = str(path.resolve())
        if not any(where.startswith(f"{other.resolve()}/") for other in read_only if other != path):
            filesystem.mount(where, where, None, k.MS_BIND | k.MS_REC)
            filesystem.mount(None, where, None, k.MS_BIND | k.MS_REMOUNT | k.MS_RDONLY)
    os.chdir("/")
    process.limit_bounding_set()
    process.set_ids(entry.pw_uid, entry.pw_gid)
    process.set_capabilities()
    process.set_no_new_privs()
    process.die_with_parent()
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main()

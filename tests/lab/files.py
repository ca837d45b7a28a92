"""What a guest's files are, so that one moment can be compared with another."""

import dataclasses
import json

from lab import guest

READ_TREE = """
import hashlib, json, os, pathlib, stat, sys
found = {}
for root in sys.argv[1:]:
    for folder, folders, names in os.walk(root):
        for path in [pathlib.Path(folder, name) for name in [*folders, *names]]:
            info = path.lstat()
            content = ""
            if path.is_symlink():
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = {
                "content": content,
                "mode": oct(info.st_mode),
                "owner": f"{info.st_uid}:{info.st_gid}",
                "inode": info.st_ino,
                # A folder's own time changes with a temporary file that comes and goes.
                "written": 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns,
            }
print(json.dumps(found))
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file, folder or link: its content (a hash, or a link's target) and who wrote it when.

    `written` is the time of modification in nanoseconds, 0 for folders.
    """

    content: str
    mode: str
    owner: str
    inode: int
    written: int


Tree = dict[str, Entry]


def read_tree(host: guest.Guest, *roots: str) -> Tree:
    """Return everything below these folders of the guest by path."""
    printed = host.run(["python3", "-c", READ_TREE, *roots]).stdout
    return {path: Entry(**fields) for path, fields in json.loads(printed).items()}


def list_changed(before: Tree, after: Tree) -> set[str]:
    """Return the paths that came, went, or hold something else: content, mode or owner."""
    return {
        path
        for path in before.keys() | after.keys()
        if _without_identity(before.get(path)) != _without_identity(after.get(path))
    }


def list_rewritten(before: Tree, after: Tree) -> set[str]:
    """Return the paths that were touched at all, were it with the same content."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def _without_identity(entry: Entry | None) -> Entry | None:
    return entry and dataclasses.replace(entry, inode=0, written=0)

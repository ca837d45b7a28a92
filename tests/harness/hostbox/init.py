"""First process of a host box: makes its namespaces and mounts, then waits to be told to end.

Started by box.py with a JSON specification. Prints ``ready`` when the box can be entered, and ends,
with everything in the box, when its standard input is closed or its parent dies.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import signal
import sys

from harness.hostbox import sysfs

# From linux/sched.h, linux/mount.h and linux/prctl.h.
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_RDONLY, MS_NOSUID, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# Directories of the tree that replace this machine's; below /usr they are laid over it.
FROM_TREE = ("boot", "dev", "etc", "run", "var/lib", "var/log")
WRITABLE_USR = ("lib/modules", "lib/dracut", "local/lib/nagios", "share/initramfs-tools")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError with the C library's errno when a call failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Call the system call of that name; empty strings are null pointers."""
    args = [os.fsencode(text) or None for text in (source, target, kind)]
    check(libc.mount(*args, ctypes.c_ulong(flags), os.fsencode(data) or None), f"mount {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show a directory or file at another place as well."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        # A bind mount takes its flags in a second step only: mount(2).
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def make_namespaces(*, as_root: bool) -> None:
    """Leave this machine's mounts, processes and network; become root where we are not."""
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(flags | (0 if as_root else CLONE_NEWUSER)), "unshare")
    if not as_root:
        pathlib.Path("/proc/self/setgroups").write_text("deny")
        pathlib.Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        pathlib.Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def make_root(spec: dict) -> pathlib.Path:
    """Assemble the box's root directory from this machine and the tree."""
    tree, control = pathlib.Path(spec["root"]), pathlib.Path(spec["control"])
    root = control / "root"
    root.mkdir(exist_ok=True)
    mount("", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", str(root), "tmpfs", MS_NOSUID, "mode=755")
    for entry in sorted(pathlib.Path("/").iterdir()):
        target = root / entry.name
        if entry.is_symlink():
            target.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            target.mkdir()
            if entry.name not in ("boot", "dev", "etc", "proc", "run", "sys", "usr"):
                bind(str(entry), str(target), read_only=True)
    for name in ("boot", "etc", "run"):
        (root / name).mkdir(exist_ok=True)
    for path in spec["writable"]:
        bind(path, str(root) + path)
    for name in FROM_TREE:
        bind(str(tree / name), str(root / name))
    make_usr(tree, control, root, spec["hidden"])
    for name in DEVICES:
        (tree / "dev" / name).touch()
        bind(f"/dev/{name}", str(root / "dev" / name))
    return root


def make_usr(
    tree: pathlib.Path, control: pathlib.Path, root: pathlib.Path, hidden: list[str]
) -> None:
    """Lay the tree's /usr over this machine's, and hide what the tree must not have."""
    layer = control / "hidden"
    (layer / "usr").mkdir(parents=True, exist_ok=True)
    for path in hidden:
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        if not (layer / path).exists():
            # A 0/0 character device hides what is below: Documentation/filesystems/overlayfs.rst.
            os.mknod(layer / path, 0o600 | 0o020000, os.makedev(0, 0))
    layers = f"lowerdir={layer / 'usr'}:{tree / 'usr'}:/usr"
    mount("overlay", str(root / "usr"), "overlay", MS_RDONLY, layers)
    for name in WRITABLE_USR:
        if (tree / "usr" / name).is_dir():
            bind(str(tree / "usr" / name), str(root / "usr" / name))


def make_proc(tree: pathlib.Path, root: pathlib.Path) -> None:
    """Mount the box's own /proc, with the tree's files over the kernel's.

    This machine's /proc must still be in sight: without it only real root may mount another.
    """
    mount("proc", str(root / "proc"), "proc", MS_NOSUID)
    for path in sorted((tree / "proc").rglob("*")):
        target = root / "proc" / path.relative_to(tree / "proc")
        if path.is_file() and target.exists():
            bind(str(path), str(target))


def serve_sys(tree: pathlib.Path, root: pathlib.Path, complaints: pathlib.Path) -> None:
    """Mount the /sys that answers writes, with a process behind it, and /dev/kmsg beside it."""
    device = sysfs.open_device()
    mount("made-up", str(root / "sys"), "fuse", MS_NOSUID, sysfs.mount_options(device))
    if os.fork() == 0:
        sysfs.serve(device, tree, complaints)
        os._exit(0)
    os.close(device)
    (tree / "dev/kmsg").touch()
    bind(str(root / "sys" / sysfs.KMSG), str(root / "dev/kmsg"))


def enter(root: pathlib.Path) -> None:
    """Make a directory this process's root and let go of the old one: pivot_root(2)."""
    os.chdir(root)
    number = SYS_PIVOT_ROOT[os.uname().machine]
    check(libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")
    mount("", "/", flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def be_first(spec: dict) -> None:
    """Live as process 1 of the box."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    tree = pathlib.Path(spec["root"])
    root = make_root(spec)
    if spec["still"]:
        bind(str(tree / "sys"), str(root / "sys"), read_only=True)
    else:
        serve_sys(tree, root, pathlib.Path(spec["control"]) / "not-modelled")
    make_proc(tree, root)
    enter(root)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the box are reaped
    print("ready", flush=True)
    sys.stdin.read()


def main() -> int:
    """Make the box and wait."""
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
    try:
        make_namespaces(as_root=spec["as_root"])
        child = os.fork()
        if child == 0:
            be_first(spec)
            os._exit(0)
    except OSError as error:
        print(
            f"{error} (root, or user namespaces, overlayfs and FUSE, are needed)", file=sys.stderr
        )
        return 1
    sys.stdout.close()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())

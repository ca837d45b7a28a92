"""Make a kernel and an initramfs for a guest out of this machine's own. Runs in the machine.

usage: make_guest.py FOLDER

FOLDER gets `vmlinux`, uncompressed because a guest of an emulated machine would spend its life
unpacking it, and `initrd.img`. What boots from them lists its PCI functions on the serial console,
each line behind `SIGN`, says `ready` behind it, too, and then sleeps.
"""

import lzma
import os
import pathlib
import shutil
import subprocess
import sys

SIGN = "guest:"
PROGRAMS = ("/bin/busybox", "/usr/bin/lspci")
PCI_NAMES = "/usr/share/misc/pci.ids"
INIT = f"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/usr/bin/lspci -nn | /bin/busybox sed 's/^/{SIGN} /'
echo {SIGN} ready
exec /bin/busybox sleep 1000000
"""
ELF = b"\x7fELF"
XZ = b"\xfd7zXZ\x00"
ZSTD = b"\x28\xb5\x2f\xfd"


def main():
    """Make both files in the folder on the command line."""
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    packed = pathlib.Path("/boot", f"vmlinuz-{os.uname().release}").read_bytes()
    (folder / "vmlinux").write_bytes(unpack_kernel(packed))
    tree = folder / "tree"
    fill(tree)
    with (folder / "initrd.img").open("wb") as image:
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        command = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
        subprocess.run(command, cwd=tree, input=names.encode(), stdout=image, check=True)
    shutil.rmtree(tree)


def unpack_kernel(packed):
    """Return the ELF file inside a bzImage.

    Source: the kernel's scripts/extract-vmlinux, which looks for the same marks.
    """
    for mark, unpack in ((XZ, unpack_xz), (ZSTD, unpack_zstd)):
        start = packed.find(mark)
        if start >= 0:
            kernel = unpack(packed[start:])
            if kernel.startswith(ELF):
                return kernel
    raise SystemExit("the kernel is packed neither with xz nor with zstd")


def unpack_xz(packed):
    """Unpack the first xz stream of some bytes; what follows it is not looked at."""
    return lzma.LZMADecompressor().decompress(packed)


def unpack_zstd(packed):
    """Unpack the first zstd frame of some bytes."""
    # It complains about what follows the frame, so its exit status says nothing.
    command = ["zstd", "--decompress", "--stdout", "--quiet"]
    return subprocess.run(command, input=packed, capture_output=True, check=False).stdout


def fill(tree):
    """Put together what the guest needs: programs with their libraries, and `INIT`."""
    for name in ("proc", "sys", "dev"):
        (tree / name).mkdir(parents=True)
    for path in (*PROGRAMS, *find_libraries(PROGRAMS), PCI_NAMES):
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)


def find_libraries(programs):
    """Return the paths of the shared libraries that programs are linked with, sorted."""
    printed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    words = (
        word
        for line in printed.splitlines()
        if "=>" in line or "ld-" in line
        for word in line.split()
    )
    return sorted({word for word in words if word.startswith("/") and not word.endswith(":")})


if __name__ == "__main__":
    main()

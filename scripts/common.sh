# shellcheck shell=bash
# What every script here shares. Source it; it changes no directory.
#
# Sets: root (the checkout), cache (kept between clones), and bash's strict mode.
# Progress and errors go to stderr, so that a script's stdout can be its result.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PCI_PASSTHROUGH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pci-passthrough}

# make_cache: have the cache, marked as one so that backups skip it and distclean may remove it
make_cache() {
    [ -e "$cache/CACHEDIR.TAG" ] && return
    mkdir -p "$cache"
    printf '%s\n' 'Signature: 8a477f597d28d172789f06886806bc55' \
        '# The cache of pci-passthrough. "make distclean" removes it.' >"$cache/CACHEDIR.TAG"
}

note() { printf '── %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# digest FILE... : a short name for the content of the files
digest() { cat -- "$@" | sha256sum | cut --characters=1-12; }

# find_python MINIMUM [MAXIMUM]: print the path of a real interpreter, e.g. `find_python 3.10`.
# The system's own comes first: the charm runs under it, and a pyenv shim on PATH stops working as
# soon as the directory or the environment changes.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.{20..10} python3; do
        if "$candidate" - "$@" 2>/dev/null <<'PYTHON'; then
import os, sys
low, high = (tuple(map(int, v.split("."))) for v in (sys.argv[1:] + ["3.99"])[:2])
if not low <= sys.version_info[:2] <= high:
    sys.exit(1)
print(os.path.realpath(sys.executable))
PYTHON
            return 0
        fi
    done
    return 1
}

# as_root COMMAND...: run it as root, through sudo where needed; fails where there is no way
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo "$@"
    else
        return 126
    fi
}

# install_packages WHY PACKAGE...: have the apt packages; does nothing when all are installed
install_packages() {
    local why=$1 package missing=()
    shift
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null |
            grep --quiet '^installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "there is no apt here to install the packages for $why: ${missing[*]}"
    note "apt: ${missing[*]} (for $why)"
    as_root true || die "no rights to install the packages for $why (neither root nor sudo).
Ask an administrator for: apt-get install ${missing[*]}"
    local log=$cache/apt.log
    make_cache
    : >"$log"
    # Old lists are good enough until they lack a package or name a file that is gone.
    if ! { all_have_candidates "${missing[@]}" && apt_install "${missing[@]}" >>"$log" 2>&1; }; then
        note "apt: refreshing the package lists"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update >>"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; die "apt-get update failed (whole log: $log)"; }
        apt_install "${missing[@]}" >>"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; die "apt-get install failed (whole log: $log)"; }
    fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

all_have_candidates() {
    local package
    for package in "$@"; do
        apt-cache policy "$package" | grep --quiet '^  Candidate: [^(]' || return 1
    done
}

# make_uv HOME: install the pinned uv into a virtual environment at HOME
make_uv() {
    local home=$1 python
    note "uv, the installer of Python packages → $home"
    if ! python=$(find_python 3.10) || ! "$python" -c 'import ensurepip' 2>/dev/null; then
        install_packages "the Python environment" python3 python3-venv
        python=$(find_python 3.10) || die "Python 3.10 or later is needed (Ubuntu 22.04, Debian 12)"
    fi
    if ! "$python" -m venv --clear "$home" ||
        ! "$home/bin/pip" install -qq --disable-pip-version-check --require-hashes \
            --requirement "$root/requirements/bootstrap.txt" >&2; then
        die "pip could not install uv (above): is a package index reachable?"
    fi
    touch "$home/.complete"
}

# run_uv ARGUMENT...: run the pinned uv, which is installed into the cache the first time, with the
# index and the certificates that pip is configured with (uv reads neither pip.conf nor PIP_*)
run_uv() {
    local home
    home=$cache/uv-$(digest "$root/requirements/bootstrap.txt")
    if [ ! -e "$home/.complete" ]; then
        make_cache
        (
            flock 9
            [ -e "$home/.complete" ] || make_uv "$home"
        ) 9>"$home.lock" || return
    fi
    (
        setting() { "$home/bin/pip" config get "global.$1" 2>/dev/null || true; }
        : "${UV_DEFAULT_INDEX:=${PIP_INDEX_URL:-$(setting index-url)}}"
        : "${SSL_CERT_FILE:=${PIP_CERT:-$(setting cert)}}"
        # Empty means: not configured. An empty variable would be taken as a value.
        [ -z "$UV_DEFAULT_INDEX" ] || export UV_DEFAULT_INDEX
        [ -z "$SSL_CERT_FILE" ] || export SSL_CERT_FILE
        export UV_SYSTEM_CERTS=true UV_PYTHON_DOWNLOADS=never
        exec "$home/bin/uv" "$@"
    )
}

#!/usr/bin/env bash
# Usage: scripts/prerequisites.sh build|test
#
# Installs the Debian packages of scripts/debian-packages.txt that are missing (as root; else says which), and checks
# that Python and Rust are new enough. `test` includes `build`. Prints nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")"

wanted=$1
export PYTHON=${PYTHON:-python3}
PATH=$PATH:/usr/sbin:/sbin

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

missing_packages() {
    local group package probe
    while read -r group package probe; do
        case $group in
            '' | '#') continue ;;
            test) [ "$wanted" = test ] || continue ;;
        esac
        eval "$probe" >/dev/null 2>&1 </dev/null || printf '%s\n' "$package"
    done <debian-packages.txt
}

install_packages() {
    local line="apt-get install --yes --no-install-recommends $*"
    command -v apt-get >/dev/null || fail "missing: $*" "install them with this system's package manager"
    [ "$(id -u)" = 0 ] || fail "missing: $*" "type: sudo $line"
    echo "installing $*"
    DEBIAN_FRONTEND=noninteractive $line >/dev/null 2>&1 </dev/null ||
        { apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive $line >/dev/null </dev/null; }
}

check_python() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "Python 3.11 or newer is needed" "type: make PYTHON=/path/to/a/newer/python3 …"
}

# The newest Debian release has a cargo that is new enough, older ones do not.
how_to_get_rust() {
    local candidate
    candidate=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: *//p')
    if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge 1.85 2>/dev/null; then
        echo "apt-get install --yes cargo rustc"
    else
        echo "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env"
    fi
}

check_rust() {
    local version
    version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
    if ! command -v cargo >/dev/null || ! printf '1.85\n%s\n' "$version" | sort --version-sort --check 2>/dev/null; then
        fail "Rust 1.85 or newer is needed (found: ${version:-none})" "type: $(how_to_get_rust)"
    fi
}

check_python
packages=$(missing_packages)
# shellcheck disable=SC2086 # a list of names
[ -z "$packages" ] || install_packages $packages
check_rust

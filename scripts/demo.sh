#!/usr/bin/env bash
# Shows the product on real files: a store is made, filled, filled again after changes, looked at, checked, and restored
# from; every restore is compared with what was taken. Everything happens in one temporary directory, removed at the end
# (kept with KEEP=1).
set -euo pipefail

work=$(mktemp -d "${TMPDIR:-/tmp}/snap-demo.XXXXXX")
finish() {
    if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap finish EXIT
export SNAP_STORE=$work/store
PATH=$PATH:/usr/sbin:/sbin
cd "$work"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi

say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
run() {
    printf '%s$ %s%s\n' "$bold" "$*" "$plain"
    "$@"
}
same() {
    run diff --recursive --no-dereference "$1" "$2"
    echo "no difference"
}

# What every Debian machine has: documentation, and programs.
gather() {
    mkdir -p files
    cp --archive --no-target-directory /usr/share/doc files/doc
    cp --archive --no-target-directory /etc/alternatives files/alternatives
    mkdir files/bin
    find /usr/bin -maxdepth 1 -type f -size +100k -readable -print0 | sort -z | head -z -n 40 |
        xargs -0 cp --archive --target-directory files/bin
    ln files/bin/bash files/bin/hard-link-to-bash 2>/dev/null || true
}

make_image() {
    truncate --size 256M disk.img
    if command -v mkfs.ext4 >/dev/null; then
        mkfs.ext4 -q -F -d files/bin disk.img
    else
        dd if=files/bin/bash of=disk.img bs=1M seek=100 conv=notrunc status=none
    fi
}

change() {
    rm -rf files/doc/bash
    echo "a new file" >files/new.txt
    for file in $(find files/bin -type f | sort | head -n 5); do echo "appended" >>"$file"; done
    mv files/alternatives files/moved
}

say "Real files ($(gather && du --summarize --human-readable files | cut -f1)), and a disk image of them"
make_image
run ls files
sleep 2 # files younger than this are read again by the next create, to be sure

say "A store, and a first snapshot: of a directory and of the image"
run snap init "$SNAP_STORE"
run snap create files disk.img --name first --tag demo --meta purpose=show

say "Five programs change, one directory goes, one moves, a file comes; a second snapshot"
cp --archive files before
change
run snap create files disk.img --name second --tag demo

say "What there is"
run snap list
run snap show latest
run snap ls "first:$work/files"
run snap stats

say "Every byte of the store is read and verified"
run snap check --read-data

say "Restored, read back, and compared with the source"
run snap restore "second:$work/files" --target out-second --verify
same files out-second
run snap restore "first:$work/files" --target out-first
same before out-first
run snap restore "second" "$work/disk.img" --target out-image
run cmp disk.img "out-image$work/disk.img"
echo "the image is the same, and takes $(du --human-readable "out-image$work/disk.img" | cut -f1) of its 256M: holes are holes"

say "Restored over what is there: all of it or nothing, and taken back"
cp --archive files after
run snap restore "first:$work/files" --dry-run
run snap restore "first:$work/files" --delete --yes
same before files
run snap undo --yes
same after files

if [ -w /dev/fuse ] && command -v fusermount3 >/dev/null; then
    say "Mounted: all snapshots as a file system, compared with the files"
    mkdir mnt
    run snap mount mnt --daemon
    run ls mnt mnt/by-name
    same before "mnt/by-name/first$work/files"
    run ls "mnt/versions$work/files/new.txt"
    run cmp disk.img mnt/latest/disk.img
    run snap umount mnt
else
    say "Not mounted: this machine has no /dev/fuse that may be written, or no fusermount3"
fi

say "The same by the independent reader: one file of plain Python, written from the format's document alone"
run python -m snapstore.rescue "$SNAP_STORE" second out-rescue --path "$work/files"
same files "out-rescue$work/files"

say "All of this happened in $work"

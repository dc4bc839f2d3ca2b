"""Mounting: snapshots as a file system of the kernel, through FUSE."""

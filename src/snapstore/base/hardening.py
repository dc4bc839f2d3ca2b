"""Hardening: what keeps a secret in this process from other processes of the same user.

    harden()

Then no debugger of the same user may read the memory of this process, its /proc/PID/environ and
/proc/PID/fd are root's, and it leaves no core dump. Root reads everything all the same, and what is
swapped out or hibernated is written as it is.

Tried without root rights, on ext4 and with libfuse 3: taking snapshots (names, attributes and links
are read through /proc/self/fd), restoring elsewhere and in place, exporting, checking, jobs and
mounts go on as before, since a process may always read its own /proc/self/fd, and mountinfo may be
read by all. What it loses of its own is /proc/self/environ and /proc/self/io, which nothing here
reads. A program that is started is on its own again: being dumpable ends with `exec`, so a process
that is to hold a key calls this itself. Programs that are started inherit the soft limit of core
dumps, and may raise it again.
"""

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4


def harden() -> None:
    """Does what the system lets it do; never fails."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

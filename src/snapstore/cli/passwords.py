"""Passwords: where they come from. The library is given them; only the command looks for them.

    SNAP_PASSWORD   SNAP_PASSWORD_FILE   SNAP_PASSWORD_COMMAND   SNAP_PASSWORD_FD

name the password of a store, at most one of them; the same with SNAP_NEW_PASSWORD one that is to be
set. Without any, the keyring is asked, then the user at the terminal. docs/passwords.md has the
rules.

`take_environment` moves them out of the environment before anything else happens, so that no
program that is started inherits them. Secrets are held in bytearrays, which can be overwritten
(`erase`, `wipe`), and are in no message: an error names the variable.
"""

import contextlib
import os
from dataclasses import dataclass

from snapstore.base.errors import InvalidArgument, WrongPassword

MOST_BYTES = 4096
SHORT_BYTES = 8
"""A new password below this is set, but warned of."""

_USES = ("SNAP_PASSWORD", "SNAP_NEW_PASSWORD")
_KINDS = ("", "_FILE", "_COMMAND", "_FD")
_TYPED_BYTES = 4094  # a terminal drops what is beyond in a line


@dataclass
class _Source:
    """A variable that was set. `descriptor`: our own copy of the one that it names; -1 for none."""

    variable: str
    kind: str
    value: bytearray
    descriptor: int = -1
    secret: bytearray | None = None


_taken: dict[str, _Source] = {}
_asking = True
_origin: str | None = None


def take_environment() -> None:
    """Moves the variables, and the descriptors that they name, out of reach of programs that are
    started. Never fails: what is wrong with them is said when a password is needed.
    """
    for use in _USES:
        for kind in _KINDS:
            variable = use + kind
            if variable in os.environ:
                _taken[variable] = _take(variable, kind)


def wipe() -> None:
    """Overwrites what is held, and forgets it: when no further store is to be opened."""
    for source in _taken.values():
        erase(source.value)
        erase(source.secret)
        if source.descriptor >= 0:
            os.close(source.descriptor)
    _taken.clear()


def erase(secret: bytearray | None) -> None:
    """Overwrites a secret with zeros."""
    if secret is not None:
        secret[:] = bytes(len(secret))


def never_ask() -> None:
    """From now on nobody is asked: no terminal, keyring or command."""
    global _asking
    _asking = False


def given(*, new: bool = False) -> bool:
    """Whether the environment names a password of a store, or a new one."""
    return any(_USES[new] + kind in _taken for kind in _KINDS)


def current(store: str, id: str | None) -> bytearray | None:
    """The password of the store at this path, with this id (32 hexadecimal digits; None: the
    keyring is not asked). None where there is none to be had.

    The caller erases it. Usage for several sources; WrongPassword for one that gives none.
    """
    global _origin
    from snapstore.cli import wallet

    _harden()
    source = _chosen(_USES[0])
    if source is not None:
        _origin = source.variable
        return _read(source)
    kept = wallet.recall(id) if id is not None and _asking else None
    if kept:
        _origin = "keyring"
        return kept
    typed = _typed(f"Password of {_shown(store)}: ")
    _origin = None if typed is None else "terminal"
    return None if typed is None else _checked(typed, "what was typed")


def origin() -> str | None:
    """Where the last `current` found it: a variable's name, `keyring`, `terminal`."""
    return _origin


def new(store: str, what: str) -> bytearray:
    """A password that is to be set for `what` (`the key laptop`) of a store. A short one is warned
    of.

    The caller erases it. As `current`, and WrongPassword where there is none to be had;
    InvalidArgument when the two that were typed differ.
    """
    from snapstore.cli import render

    _harden()
    source = _chosen(_USES[1])
    secret = _typed_twice(store, what) if source is None else _read(source)
    if len(secret) < SHORT_BYTES:
        render.warning(f"the new password is shorter than {SHORT_BYTES} bytes, and easily guessed")
    return secret


# The environment


def _take(variable: str, kind: str) -> _Source:
    source = _Source(variable, kind, bytearray(os.environb[variable.encode()]))
    _blank(variable)
    del os.environ[variable]
    if kind == "_FD":
        source.descriptor = _own(source.value)
    if kind == "_FILE":
        _keep_from_children(source.value)
    return source


def _blank(variable: str) -> None:
    """Overwrites the value where the process was given it, which /proc/PID/environ shows."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        c = ctypes.CDLL(None)
        c.getenv.restype = ctypes.c_void_p
        c.strlen.argtypes = [ctypes.c_void_p]
        c.strlen.restype = ctypes.c_size_t
        place = c.getenv(variable.encode())
        if place:
            ctypes.memset(place, 0, c.strlen(place))


def _own(number: bytearray) -> int:
    """A copy, which programs do not inherit, of a descriptor that is then closed; -1 where it is
    none that could be read from. Done at once: later its number may be that of a file of ours.
    """
    import fcntl

    if not number.isdigit() or len(number) > 9 or int(number) in (1, 2):
        return -1
    given = int(number)
    if any(source.descriptor == given for source in _taken.values()):
        return -1
    try:
        own: int = fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return -1
    os.close(given)
    if given == 0:  # for writing: to read it as a file is an error then
        os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)
    return own


def _keep_from_children(path: bytearray) -> None:
    """A file that is a descriptor (`<(…)` of a shell) is not inherited either."""
    import re

    named = re.fullmatch(rb"/(?:dev|proc/self)/fd/([0-9]{1,9})", path)
    if named and int(named[1]) > 2:
        with contextlib.suppress(OSError):
            os.set_inheritable(int(named[1]), False)


def _chosen(use: str) -> _Source | None:
    """The one source of a password, if there is one. Usage for several."""
    found = [_taken[use + kind] for kind in _KINDS if use + kind in _taken]
    if len(found) > 1:
        from snapstore.cli.errors import Usage

        names = [source.variable for source in found]
        raise Usage(
            f"{', '.join(names[:-1])} and {names[-1]} are set, but a password has one source",
            hint="unset all but one",
        )
    return found[0] if found else None


def _harden() -> None:
    from snapstore.base.hardening import harden

    harden()


# Sources


def _read(source: _Source) -> bytearray:
    """The password that a source gives: read once, and given again when it is asked for again."""
    if source.secret is None:
        match source.kind:
            case "_FILE":
                secret = _without_newline(_from_file(source))
            case "_COMMAND":
                secret = _without_newline(_from_command(source))
            case "_FD":
                secret = _without_newline(_from_descriptor(source))
            case _:
                secret = bytearray(source.value)
        source.secret = _checked(secret, source.variable)
    return bytearray(source.secret)


def _checked(secret: bytearray, origin: str) -> bytearray:
    wrong = None
    if not secret:
        wrong = "is empty"
    elif len(secret) > MOST_BYTES:
        wrong = f"has more than {MOST_BYTES:,} bytes"
    elif 0 in secret:
        wrong = "has a zero byte"
    if wrong:
        erase(secret)
        raise WrongPassword(f"{origin}: the password {wrong}")
    return secret


def _without_newline(secret: bytearray) -> bytearray:
    """Without the one that editors and commands put behind it."""
    for newline in (b"\r\n", b"\n"):
        if secret.endswith(newline):
            del secret[-len(newline) :]
            break
    return secret


def _read_all(descriptor: int) -> bytearray:
    """All that there is, or enough of it to tell that it is too much."""
    buffer = bytearray(MOST_BYTES + 3)
    size = 0
    with memoryview(buffer) as view:
        while size < len(buffer) and (count := os.readv(descriptor, [view[size:]])):
            size += count
    del buffer[size:]
    return buffer


def _from_descriptor(source: _Source) -> bytearray:
    if source.descriptor < 0:
        raise WrongPassword(
            f"{source.variable} is not the number of a descriptor that can be read",
            hint=f"for instance: {source.variable}=3 snap … 3</path/to/file",
        )
    try:
        return _read_all(source.descriptor)
    except OSError as error:
        raise WrongPassword(f"{source.variable}: {error.strerror}") from None
    finally:
        os.close(source.descriptor)
        source.descriptor = -1


def _from_file(source: _Source) -> bytearray:
    """Links are followed, as secrets that systems provide are often behind some; what is opened is
    what is looked at.
    """
    path = bytes(source.value)
    about = f"{source.variable}: {_shown(path)}"
    if b"\0" in path or not path:
        raise WrongPassword(f"{source.variable} names no file")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise WrongPassword(f"{about}: {error.strerror}") from None
    try:
        _require_private(descriptor, path, about)
        return _read_all(descriptor)
    except OSError as error:
        raise WrongPassword(f"{about}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _require_private(descriptor: int, path: bytes, about: str) -> None:
    """WrongPassword unless it is a file, or a pipe, that only this user and root can read."""
    import shlex
    import stat

    status = os.fstat(descriptor)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise WrongPassword(f"{about} is not a file")
    name = shlex.quote(os.fsdecode(os.path.realpath(path)))
    if status.st_uid not in (os.geteuid(), 0):
        raise WrongPassword(
            f"{about} belongs to another user, who can change it",
            hint=f"if it is yours: chown {os.geteuid()} {name}",
        )
    if status.st_mode & 0o077 and not _is_shared_with_us_alone(descriptor, status.st_mode):
        raise WrongPassword(
            f"{about} can be read or changed by other users", hint=f"chmod 600 {name}"
        )


def _is_shared_with_us_alone(descriptor: int, mode: int) -> bool:
    """Whether the bits of the group stand for an ACL that lets in this user and nobody else: so
    systemd hands a credential to a service.
    """
    import struct

    try:
        acl = os.getxattr(descriptor, "system.posix_acl_access")
    except OSError:
        return False
    user, group, named_group, mask = 2, 4, 8, 16
    for tag, rights, id in struct.iter_unpack("<HHI", acl[4:]):
        ours = tag == user and id == os.geteuid()
        if tag in (user, group, named_group) and rights and not ours:
            return False
        if tag == mask and rights & 2:
            return False
    return mode & 0o007 == 0


def _from_command(source: _Source) -> bytearray:
    import re
    import shlex
    import subprocess

    try:
        words = shlex.split(os.fsdecode(bytes(source.value)))
    except ValueError:
        raise WrongPassword(f"{source.variable}: a quote in it is not closed") from None
    if not words:
        raise WrongPassword(f"{source.variable} names no command")
    if not _asking:
        raise WrongPassword(f"{source.variable} is not run for this")
    about = f"{source.variable}: {_shown(words[0])}"
    clean = {
        name: value
        for name, value in os.environ.items()
        if not re.fullmatch(r"SNAP_.*PASSWORD.*", name)
    }
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=clean, bufsize=0
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it cannot be run"
        raise WrongPassword(f"{about}: {reason}") from None
    assert process.stdout is not None
    with process:
        secret = _read_all(process.stdout.fileno())
        if len(secret) > MOST_BYTES + 2:
            process.kill()
    if process.returncode and len(secret) <= MOST_BYTES + 2:
        erase(secret)
        raise WrongPassword(
            f"{about} failed ({_ending(process.returncode)})",
            hint="run the command by itself to see why",
        )
    return secret


def _ending(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"signal {-code}"


# The terminal


def _typed_twice(store: str, what: str) -> bytearray:
    first = _typed(f"New password for {_shown(what)} of {_shown(store)}: ")
    if first is None:
        raise WrongPassword(
            "there is no new password, and no terminal to ask for one",
            hint="name one with SNAP_NEW_PASSWORD_FILE, SNAP_NEW_PASSWORD_COMMAND,"
            " SNAP_NEW_PASSWORD_FD or SNAP_NEW_PASSWORD",
        )
    _checked(first, "what was typed")
    second = _typed("The same again: ")
    same = first == second
    erase(second)
    if not same:
        erase(first)
        raise InvalidArgument("the two passwords differ; nothing was set")
    return first


def _typed(prompt: str) -> bytearray | None:
    """A line that is typed at the terminal and not shown; None without a terminal. WrongPassword
    for an empty one, and one that the terminal may have cut off.
    """
    import termios

    terminal = _terminal()
    if terminal is None:
        return None
    try:
        before = termios.tcgetattr(terminal)
        quiet = termios.tcgetattr(terminal)
        quiet[3] = quiet[3] & ~termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG
        try:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
            os.write(terminal, os.fsencode(prompt))
            return _read_line(terminal)
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
    except termios.error:
        return None
    finally:
        os.close(terminal)


def _terminal() -> int | None:
    if not _asking:
        return None
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _read_line(terminal: int) -> bytearray:
    buffer = bytearray(_TYPED_BYTES + 2)
    size = 0
    with memoryview(buffer) as view:
        while size < len(buffer) and (count := os.readv(terminal, [view[size:]])):
            size += count
            if buffer[size - 1] == ord("\n"):
                size -= 1
                break
    del buffer[size:]
    if not buffer:
        raise WrongPassword("no password was typed")
    if size > _TYPED_BYTES:
        erase(buffer)
        raise WrongPassword(f"a password of more than {_TYPED_BYTES:,} bytes cannot be typed")
    return buffer


def _shown(name: str | bytes) -> str:
    from snapstore.cli import render

    return render.name(name)

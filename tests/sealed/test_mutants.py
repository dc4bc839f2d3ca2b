"""The harnesses of this folder catch what they are for: each fault that is sown here makes one of
them fail, and without any they do not.

The faults are sown in the independent reader, in the writer that was made from the format's pages
alone, or in both, never in what is shipped.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attacks import Attack, all_attacks, mw
from blake3 import blake3
from nonce_log import log_of
from sealed_examine import by_rescue, outcome
from sealed_world import PASSWORD, Answer, World, changed, faults, noticed, objects_of

from tree_store import rescue

Mutant = Callable[[pytest.MonkeyPatch], None]


# A store that can be written with faults


def _mini(path: Path, seed: int = 0) -> mw.MiniStore:
    """Two snapshots and labels; those of another seed differ in what they hold, not in chance."""
    store = mw.MiniStore(path, PASSWORD)
    for number in range(2):
        chance = random.Random(f"{seed} {number}")
        parts = [(8192, chance.randbytes(8192)) for _ in range(24)]  # blocks of one length
        files = {b"alike": mw.Item(mw.FILE, parts=parts)}
        files |= {b"f%d" % n: mw.file((b"%d %d %d " % (seed, number, n)) * 4_000) for n in range(3)}
        ops = [["set", "name", f"s{number}"], ["tag", f"t{number}"]]
        id = store.snapshot([store.root(mw.directory(files))], ops, time_ns=number)
        store.label(id, [["set", "description", f"d{number}"]], n=2)
    store.ref("branch", "main", "a")
    return store


@pytest.fixture
def mini(tmp_path: Path) -> Callable[[], World]:
    """Makes the store, with the faults that there are by then, as a world to be attacked."""

    def make() -> World:
        path = tmp_path / "mini"
        objects = objects_of(_mini(path).path)
        other = objects_of(_mini(tmp_path / "other", 1).path)
        return World(path, tmp_path, objects, {}, other)

    return make


GROUPS = ("flip", "swap", "rename", "unsealed", "blocks", "blocks of one length")
MOST = 6
"""So many attacks of a kind are tried."""


def _chosen(world: World) -> Iterator[Attack]:
    """Attacks that a reader without memory can notice, with right checksums, in an order without
    meaning.
    """
    found = [a for a in all_attacks(world) if a.name.split(":")[0] in GROUPS]
    found = [a for a in found if "checksum wrong" not in a.name and "beside" not in a.name]
    kinds: dict[str, int] = {}
    for attack in sorted(found, key=lambda attack: blake3(attack.name.encode()).digest()):
        kinds[attack.kind] = kinds.get(attack.kind, 0) + 1
        if kinds[attack.kind] <= MOST:
            yield attack


def _look(world: World) -> Answer:
    request = {"store": str(world.path), "password": PASSWORD.decode()}
    return {"rescue": outcome(lambda: by_rescue(request, world.cache))}


def _first_catch(world: World) -> str | None:
    """What the harness says of the first attack that it finds not to be withstood."""
    sound = _look(world)
    assert faults(sound, sound, {}) == [], "the store cannot be read to begin with"
    for attack in _chosen(world):
        with changed(world.path, world.objects, attack.changes):
            answer = _look(world)
        found = faults(sound, answer, attack.changes)
        if found:
            return f"{attack.name}: {found[0]}"
        if not attack.is_idle(world.objects) and not noticed(sound, answer):
            return f"{attack.name}: nobody noticed"
    return None


# Faults of a reader, and of a writer that does not bind what it seals


def tag_not_checked(patch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    def decrypt(key: bytes, body: bytes, associated: bytes) -> bytes:
        rescue().require(len(body) >= 28, "sealed bytes too short")
        counter = modes.CTR(body[:12] + b"\0\0\0\2")
        return Cipher(algorithms.AES(key), counter).decryptor().update(body[12:-16])

    patch.setattr(rescue(), "open_sealed", decrypt)


def _bind(patch: pytest.MonkeyPatch, bound: Callable[[bytes], bytes]) -> None:
    """Writer and reader bind this part of what they should."""
    seal, open_sealed = mw.seal, rescue().open_sealed
    patch.setattr(
        mw,
        "seal",
        lambda key, nonce_key, inside, associated: seal(key, nonce_key, inside, bound(associated)),
    )
    patch.setattr(
        rescue(),
        "open_sealed",
        lambda key, body, associated: open_sealed(
            key,
            body,
            associated if associated.startswith(b"snapstore v1 key") else bound(associated),
        ),
    )


def nothing_bound(patch: pytest.MonkeyPatch) -> None:
    _bind(patch, lambda associated: b"")


def name_not_bound(patch: pytest.MonkeyPatch) -> None:
    _bind(patch, lambda associated: associated[:48])


def role_not_bound(patch: pytest.MonkeyPatch) -> None:
    """Neither name nor type."""
    _bind(patch, lambda associated: associated[:5] + associated[6:8])


def blocks_not_bound(patch: pytest.MonkeyPatch) -> None:
    """Their number is neither sealed nor looked at, and ids are taken on trust."""
    _bind(patch, lambda associated: b"" if len(associated) == 24 else associated)
    source = rescue()
    decode = source.decode_block

    def anywhere(raw: bytes, number: int, kind: int, pack: Any, keys: Any) -> Any:
        return decode(raw, int.from_bytes(raw[4:8], "little"), kind, pack, keys)

    fetch = source.Store._fetch

    def trusting(self: Any, kind: int, item: bytes, key: bytes) -> Any:
        here = source.keyed_hash
        patch.setattr(source, "keyed_hash", lambda k, d: item if k == key else here(k, d))
        try:
            return fetch(self, kind, item, key)
        finally:
            patch.setattr(source, "keyed_hash", here)

    patch.setattr(source, "decode_block", anywhere)
    patch.setattr(source.Store, "_fetch", trusting)


def unsealed_taken(patch: pytest.MonkeyPatch) -> None:
    """An object that is not sealed passes in a store that is."""
    source = rescue()
    decode = source.decode_frame

    def lenient(data: bytes, expected: int, name: str, keys: Any) -> Any:
        unsealed = len(data) > 8 and not data[7]
        return decode(data, expected, name, SimpleNamespace(sealed=False) if unsealed else keys)

    require = source.require
    patch.setattr(source, "decode_frame", lenient)
    patch.setattr(
        source, "require", lambda fits, what: require(fits or what == source.MISNAMED, what)
    )


def a_password_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A config that says that nothing is encrypted is believed."""
    source = rescue()
    begin = source.Store.__init__

    def lenient(self: Any, path: str, password: bytes | None = None) -> None:
        try:
            begin(self, path, password)
        except source.Damaged as error:
            if "not sealed" not in str(error):
                raise
            begin(self, path)

    patch.setattr(source.Store, "__init__", lenient)


READERS: list[Mutant] = [
    tag_not_checked,
    nothing_bound,
    name_not_bound,
    role_not_bound,
    blocks_not_bound,
    unsealed_taken,
    a_password_is_ignored,
]


def test_without_a_fault_nothing_is_caught(mini: Callable[[], World]) -> None:
    assert _first_catch(mini()) is None


@pytest.mark.parametrize("mutant", READERS, ids=lambda mutant: mutant.__name__)
def test_a_reader_with_a_fault_is_caught(
    mini: Callable[[], World], monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant(monkeypatch)
    caught = _first_catch(mini())
    assert caught is not None
    print(f"{mutant.__name__}: {caught}")


# Faults in nonces


def _sealing(patch: pytest.MonkeyPatch, nonce: Callable[[bytes, bytes], bytes]) -> None:
    """Seals under `nonce(what is bound, the envelope)`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    def seal(key: bytes, nonce_key: bytes, inside: bytes, associated: bytes) -> bytes:
        chosen = nonce(associated, inside)
        return chosen + AESGCM(key).encrypt(chosen, inside, associated)

    patch.setattr(mw, "seal", seal)


def constant_nonce(patch: pytest.MonkeyPatch) -> None:
    _sealing(patch, lambda associated, inside: bytes(12))


def nonce_is_the_number_of_the_block(patch: pytest.MonkeyPatch) -> None:
    """Unique in a pack. Where two machines have the same salt, it is not."""
    _sealing(patch, lambda associated, inside: associated[4:8] + bytes(8))


def random_nonce_that_repeats(patch: pytest.MonkeyPatch) -> None:
    """As on a machine that was copied: each has the same first, second, third one."""
    counts: dict[str, int] = {}

    def nonce(associated: bytes, inside: bytes) -> bytes:
        machine = os.environ["SNAP_TEST_MACHINE"]
        counts[machine] = counts.get(machine, 0) + 1
        return counts[machine].to_bytes(12, "little")

    _sealing(patch, nonce)


def nonce_of_the_plaintext_alone(patch: pytest.MonkeyPatch) -> None:
    """One that does not follow from what is bound is used for two tags."""
    _sealing(patch, lambda associated, inside: mw.blake3(inside).digest()[:12])
    patch.setattr(mw.MiniStore, "random", lambda self, count: bytes(count))


def nonce_counter_that_stands_still(patch: pytest.MonkeyPatch) -> None:
    """A counter that is reset by each object."""
    _sealing(patch, lambda associated, inside: len(inside).to_bytes(12, "little"))


NONCES: list[Mutant] = [
    constant_nonce,
    nonce_is_the_number_of_the_block,
    random_nonce_that_repeats,
    nonce_of_the_plaintext_alone,
    nonce_counter_that_stands_still,
]


def _two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two stores whose random bytes are the same; what the log says of them."""
    paths = []
    for seed, machine in enumerate(("one", "two")):
        monkeypatch.setenv("SNAP_TEST_MACHINE", machine)
        paths.append(_mini(tmp_path / machine, seed).path)
    log = log_of(paths)
    assert any(count > 1 for count in log.salts.values()), "salts do not repeat"
    return log.reused


def test_without_a_fault_no_nonce_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _two_machines(tmp_path, monkeypatch)


def test_salts_that_never_change_are_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonces that follow from all that is sealed and bound stand alone."""
    monkeypatch.setattr(mw.MiniStore, "random", lambda self, count: bytes(count))
    assert not _two_machines(tmp_path, monkeypatch)


@pytest.mark.parametrize("mutant", NONCES, ids=lambda mutant: mutant.__name__)
def test_a_writer_with_a_fault_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Mutant
) -> None:
    mutant(monkeypatch)
    assert _two_machines(tmp_path, monkeypatch)

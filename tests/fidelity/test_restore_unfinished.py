"""Who meets a restore that was interrupted: above, below, and beside it."""

import os
from pathlib import Path

import pytest

import snapstore
from snapstore import RestoreResult, RestoreUnfinished, Store
from tree_scan import assert_same, scan

NAME = ".snapstore-restore-01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "srv"
    (top / "app/deep/down").mkdir(parents=True)
    for name in ("file", "app/file", "app/deep/down/file"):
        (top / name).write_text("taken")
    return top


def restore(store: Store, path: Path) -> RestoreResult:
    """A part of what was taken, over itself."""
    return store.restore(f"latest:{path}", target=path)


def interrupted(store: Store, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a restore leaves that is killed when it begins to exchange."""

    def die(*arguments: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patches:
        patches.setattr("snapstore.ops.inplace._Restoring._apply", die)
        with pytest.raises(RuntimeError):
            restore(store, target)


def change(top: Path) -> None:
    for path in top.rglob("file"):
        path.write_text("changed since")


@pytest.mark.parametrize("other", ["", "app", "app/deep", "app/deep/down", "app/deep/down/file"])
def test_a_restore_around_or_inside_it_is_refused(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        change(top)
        before = scan(top)
        interrupted(store, top / "app", monkeypatch)
        count = len(list(store.snapshots()))
        with pytest.raises(RestoreUnfinished, match=r"into .*/srv/app was interrupted \(ready\)"):
            restore(store, top / other)
        assert len(list(store.snapshots())) == count
        store.abort(top / "app")
        assert_same(before, scan(top))
        assert restore(store, top / other).success


def test_a_restore_beside_it_is_not_refused(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (top / "beside").mkdir()
    (top / "beside" / "file").write_text("taken")
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        change(top)
        interrupted(store, top / "app", monkeypatch)
        assert restore(store, top / "beside").success
        store.resume(top / "app")
        assert (top / "app/file").read_text() == "taken"
        assert (top / "file").read_text() == "changed since"


@pytest.mark.needs("root")
def test_what_somebody_else_made_below_is_told_and_hinders_nobody(
    tmp_path: Path, top: Path
) -> None:
    """Whoever may write somewhere below could forbid every restore else."""
    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        change(top)
        fake = top / "app" / NAME
        fake.mkdir()
        (fake / "head").write_bytes(b"SNJRNL01")
        os.chown(fake, 65534, 65534)
        result = store.restore("latest")
        assert (top / "file").read_text() == "taken"
        (warning,) = result.warnings
        assert "a restore into " in warning
        assert "srv/app is not finished" in warning
        assert fake.exists()


@pytest.mark.parametrize("act", ["abort", "resume"])
def test_whoever_handles_the_error_may_bring_it_to_an_end(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The journal is let go although the error keeps alive what it went through."""

    def die(*arguments: object) -> None:
        raise RuntimeError

    with snapstore.init(tmp_path / "store") as store:
        store.create(top)
        change(top)
        monkeypatch.setattr("snapstore.ops.inplace._Restoring._apply", die)
        try:
            restore(store, top / "app")
        except RuntimeError:
            getattr(store, act)(top / "app")
        assert not store.unfinished(top / "app")
        text = "taken" if act == "resume" else "changed since"
        assert (top / "app/file").read_text() == text

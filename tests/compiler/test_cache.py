"""The cache on its own: entries come back whole or not at all, whatever happens to the folder."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netloom.compiler import cache as module
from netloom.compiler.cache import Cache, compiler_version, default_cache

ROOT = Path(__file__).parents[2]
DATA = bytes(range(256)) * 16


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    """A cache with one entry."""
    cache = Cache(tmp_path / "cache")
    cache.put(DATA, "a", "key")
    return cache


@pytest.fixture
def entry(store: Cache) -> Path:
    (only,) = store.entries()
    return only.path


def test_what_is_put_is_got(store: Cache) -> None:
    assert store.get("a", "key") == DATA
    # parts are kept apart
    assert store.get("ak", "ey") is None and store.get("a", "key", "") is None
    store.put(b"", "empty")
    assert store.get("empty") == b"" and len(store.entries()) == 2


def test_files_are_private(store: Cache, entry: Path) -> None:
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert store.folder is not None
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (store.folder, entry.parent)} == {
        0o700
    }


@pytest.mark.parametrize("place", [0, 8, 20, 40, 41, -1])
def test_a_changed_byte_is_found(place: int, store: Cache, entry: Path) -> None:
    contents = bytearray(entry.read_bytes())
    contents[place] ^= 1
    entry.write_bytes(contents)
    assert store.get("a", "key") is None
    store.put(DATA, "a", "key")
    assert store.get("a", "key") == DATA


@pytest.mark.parametrize("size", [0, 7, 40, 100, len(DATA) + 39])
def test_a_truncated_entry_is_found(size: int, store: Cache, entry: Path) -> None:
    os.truncate(entry, size)
    assert store.get("a", "key") is None


def test_an_entry_under_another_name_is_not_taken(store: Cache, entry: Path) -> None:
    store.put(b"other", "b")
    (other,) = {e.path for e in store.entries()} - {entry}
    other.write_bytes(entry.read_bytes())
    assert store.get("b") is None and store.get("a", "key") == DATA


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "writable"])
def test_what_is_no_file_of_this_user_alone_is_not_read(
    kind: str, store: Cache, entry: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    entry.rename(moved)
    match kind:
        case "link":
            entry.symlink_to(moved)
        case "pipe":
            os.mkfifo(entry, 0o600)
        case "folder":
            entry.mkdir()
        case "writable":
            moved.rename(entry)
            entry.chmod(0o666)
    assert store.get("a", "key") is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_is_not_used(mode: int, store: Cache) -> None:
    assert store.folder is not None
    store.folder.chmod(mode)
    assert store.get("a", "key") is None and not store.is_usable and store.entries() == []
    store.put(DATA, "b")
    store.folder.chmod(0o700)
    assert store.get("a", "key") == DATA and store.get("b") is None


def test_a_folder_of_another_user_is_not_used(
    store: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert store.get("a", "key") is None and not store.is_usable


def test_a_link_to_a_folder_is_not_used(store: Cache, tmp_path: Path) -> None:
    assert store.folder is not None
    (tmp_path / "link").symlink_to(store.folder)
    assert Cache(tmp_path / "link").get("a", "key") is None


def test_no_folder_keeps_nothing() -> None:
    cache = Cache(None)
    cache.put(DATA, "a")
    assert (
        cache.get("a") is None
        and cache.entries() == []
        and cache.clear() == []
        and not cache.is_usable
    )


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_no_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("x")
    cache = Cache(
        {"a file": tmp_path / "a file", "below a file": tmp_path / "a file" / "cache"}.get(
            place, Path(place)
        )
    )
    cache.put(DATA, "a")
    assert cache.get("a") is None and (tmp_path / "a file").read_text() == "x"


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Files cannot grow beyond the size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 8, 100, len(DATA)])
def test_a_write_that_fails_leaves_nothing(size: int, store: Cache) -> None:
    assert store.folder is not None
    before = files(store.folder)
    with file_limit(size):
        store.put(DATA, "b")
        store.put(DATA[::-1], "a", "key")
    assert (
        files(store.folder) == before and store.get("b") is None and store.get("a", "key") == DATA
    )
    with file_limit(len(DATA) + 1000):  # the control
        store.put(DATA, "b")
    assert store.get("b") == DATA


def test_a_read_only_cache_is_read(
    store: Cache, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.folder is not None
    for folder in (entry.parent, store.folder):
        folder.chmod(0o500)
    opened = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        """As the system does it for any user but root."""
        if flags & (os.O_CREAT | os.O_WRONLY):
            raise PermissionError(path)
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    store.put(DATA, "b")
    assert store.get("a", "key") == DATA and store.get("b") is None
    for folder in (store.folder, entry.parent):
        folder.chmod(0o700)
    assert files(store.folder) == [entry]


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for number in range(10):
        cache.put(bytes(1000), str(number))
        (newest,) = {e.path for e in cache.entries()} - {
            e.path for e in cache.entries() if e.used < 1e9
        }
        os.utime(newest, (1000 + number, 1000 + number))
    assert cache.get("0") is not None  # now it is the one used last
    cache.trim(limit=10_400, room=5_000)
    assert len(cache.entries()) == 10
    cache.trim(limit=10_399, room=5_000)
    kept = [str(number) for number in range(10) if cache.get(str(number)) is not None]
    assert kept == ["0", "6", "7", "8", "9"]
    assert len(cache.clear()) == 5 and cache.entries() == []


def test_temporaries_of_dead_processes_are_swept(store: Cache, entry: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, alive = (entry.parent / f".netloom-{number}-0.tmp" for number in (dead.pid, os.getpid()))
    left.write_bytes(b"x")
    alive.write_bytes(b"x")
    assert len(store.entries()) == 1
    assert alive.exists() and not left.exists()


WRITER = """
import sys
from pathlib import Path
from netloom.compiler.cache import Cache
cache = Cache(Path(sys.argv[1]))
for number in range(60):
    key = str(number % 6)
    cache.put(key.encode() * 5000, key)
    cache.trim(limit=20_000, room=10_000)
    found = cache.get(key)
    assert found is None or found == key.encode() * 5000
"""


def test_many_may_write_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "cache")]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [(b"", 0)] * 4
    assert sum(entry.size for entry in Cache(tmp_path / "cache").entries()) <= 20_000 + 4 * 5_100


# -- where it is, and what keys hold ---------------------------------------------------------------


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NETLOOM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for shared, expected in (("", tmp_path / ".cache/netloom"), ("relative", tmp_path / ".cache/netloom"),
                             ("/x", Path("/x/netloom"))):  # fmt: skip
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert default_cache().folder == expected
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "own"))
    assert default_cache().folder == tmp_path / "own"
    monkeypatch.setenv("NETLOOM_CACHE", "off")
    assert default_cache().folder is None


def test_the_version_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "a.py").write_text("x = 1")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "cache.py"))
    found = []
    for change in (
        lambda: None,
        lambda: (tmp_path / "passes" / "a.py").write_text("x = 2"),
        lambda: (tmp_path / "passes" / "a.py").rename(tmp_path / "passes" / "b.py"),
    ):
        change()
        compiler_version.cache_clear()
        found.append(compiler_version())
    compiler_version.cache_clear()
    assert len(set(found)) == 3

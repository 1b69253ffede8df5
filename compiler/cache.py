"""A folder of compiled pieces, each under a key that names all that decides its bytes.

An entry is one private file: its digest, then the data. It appears whole or not at all, so any
number of compilers may share a folder. What is read is checked: a damaged entry is absent and will
be made anew. A folder or file of another user, or one that others may write, is never read. The
cache is only ever a saving: no fault of the disk makes a compile fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from netloom import __version__, abi
from netloom.environment import cache_folder

LIMIT = 256 << 20  # bytes that a cache may hold
ROOM = LIMIT // 4  # bytes that are free again after the oldest entries went
MAGIC = b"netloom1"
_HEADER = len(MAGIC) + hashlib.sha256().digest_size
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_TEMPORARY = ".netloom-"


@dataclass(frozen=True)
class Entry:
    """A file of the cache; ``used``: when it was last read or written, in seconds since 1970. There
    may be very many, and each compile counts them: a path is made where one is wanted."""

    place: str
    size: int
    used: float

    @property
    def path(self) -> Path:
        return Path(self.place)


@dataclass(frozen=True)
class Cache:
    """A cache in a folder, which is made when something is stored; ``folder`` None: nothing is
    kept.
    """

    folder: Path | None

    @property
    def is_usable(self) -> bool:
        """Whether entries are read: the folder is this user's alone, or will be made."""
        return self.folder is not None and (
            _is_private(self.folder) or not os.path.lexists(self.folder)
        )

    def get(self, *key: str) -> bytes | None:
        """What was stored under the key, if it is there, ours and undamaged."""
        file = self.open_file(*key)
        if file is None:
            return None
        try:
            with file:
                contents = file.read()
        except OSError:
            return None
        data = contents[_HEADER:]
        return data if contents[:_HEADER] == _header(_digest_of(key), data) else None

    def put(self, data: bytes, *key: str) -> None:
        """Store the data under the key, if that is possible."""
        header = _header(_digest_of(key), data)
        self._store(lambda place: _write_new(place, header, data), key)

    def put_file(self, source: Path, *key: str) -> None:
        """Store the contents of a file as they are, without a digest, if that is possible."""
        self._store(lambda place: shutil.copyfile(source, place), key)

    def open_file(self, *key: str) -> BinaryIO | None:
        """What ``put_file`` stored under the key, if it is there and ours; whoever reads it finds
        out whether it is damaged.
        """
        if self.folder is None or not _is_private(self.folder):
            return None
        place = self._place(_digest_of(key))
        try:
            file = _open_own(place)
        except OSError:
            return None
        _note_use(place)
        return file

    def remove(self, *key: str) -> None:
        """Forget what is stored under the key."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self._place(_digest_of(key)).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """All entries, the one that was used longest ago first."""
        return sorted(self._files(), key=_oldest_first)

    def trim(self, limit: int = LIMIT, room: int = ROOM) -> None:
        """Remove the oldest entries if there are more than ``limit`` bytes, until ``room`` bytes
        are free again.
        """
        entries = list(self._files())
        total = sum(entry.size for entry in entries)
        if total <= limit:
            return
        for entry in sorted(entries, key=_oldest_first):
            if total <= limit - room:
                return
            total -= entry.size
            with contextlib.suppress(OSError):
                entry.path.unlink(missing_ok=True)

    def clear(self) -> list[Entry]:
        """Remove every entry; the removed ones. OSError if one cannot be removed."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        return entries

    def _store(self, write: Callable[[Path], object], key: tuple[str, ...]) -> None:
        """Puts the file that ``write`` makes under the key's name: whole or not at all."""
        if self.folder is None:
            return
        place = self._place(_digest_of(key))
        temporary = place.with_name(f"{_TEMPORARY}{os.getpid()}-{uuid4().hex}.tmp")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(self.folder):
                return
            place.parent.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            write(temporary)
            temporary.replace(place)  # no fsync: what a power failure tears is found by its digest
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name[:2] / name[2:]

    def _files(self) -> Iterator[Entry]:
        """The files of a folder that is ours; temporaries that killed processes left behind are
        removed on the way.
        """
        if self.folder is None or not _is_private(self.folder):
            return
        for part in sorted(self.folder.iterdir()):
            if len(part.name) != 2 or part.is_symlink() or not part.is_dir():
                continue
            for item in os.scandir(part):
                if item.name.startswith(_TEMPORARY):
                    _sweep(Path(item.path))
                    continue
                with contextlib.suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    yield Entry(item.path, status.st_size, status.st_mtime)


def _oldest_first(entry: Entry) -> tuple[float, str]:
    return entry.used, entry.place


def default_cache() -> Cache:
    """The user's cache: NETLOOM_CACHE, or netloom in XDG_CACHE_HOME."""
    return Cache(cache_folder())


@cache
def compiler_version() -> str:
    """The package's version and a digest of the compiler's own source files and of the C
    interface's table.
    """
    return f"{__version__} {digest_of_sources(os.path.dirname(__file__), abi.__file__)}"


def digest_of_sources(folder: str, *others: str) -> str:
    """Of all Python files of a folder, and of other ones."""
    digest = hashlib.sha256()
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    named = [(path[len(folder) :], path) for path in sorted(paths) if path.endswith(".py")]
    for name, path in [*named, *((os.path.basename(other), other) for other in others)]:
        with open(path, "rb", buffering=0) as file:  # hundreds of small ones
            source = file.read()
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def _digest_of(key: tuple[str, ...]) -> str:
    """The name of a key; parts are kept apart by their lengths."""
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in key).encode()).hexdigest()


def _header(name: str, data: bytes) -> bytes:
    return MAGIC + hashlib.sha256(name.encode() + data).digest()


def _is_private(folder: Path) -> bool:
    """Whether a folder is there, ours, and closed to other writers."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and _is_ours(status)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _WRITABLE_BY_OTHERS


def _note_use(place: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
        os.utime(place)


def _write_new(place: Path, *parts: bytes) -> None:
    with place.open("wb") as file:
        for part in parts:
            file.write(part)


def _open_own(path: Path) -> BinaryIO:
    """A regular file of ours (never a link or a pipe); OSError for any other."""
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and _is_ours(status):
        return file
    file.close()
    raise PermissionError(f"{path} is no file of this user alone")


def _sweep(temporary: Path) -> None:
    number = temporary.name.removeprefix(_TEMPORARY).partition("-")[0]
    if number.isdecimal() and not Path("/proc", number).exists():
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


__all__ = ["LIMIT", "Cache", "Entry", "compiler_version", "default_cache", "digest_of_sources"]

"""A disk that fails when it is told to, below SQLite: a layer over the file system that SQLite has for just this.

All that SQLite does to the files of one journal goes through here and is counted; a chosen call fails, or every call
from there on until the disk is healed. Nothing of undertow knows of it, and SQLite takes it for the operating system.
What undertow does to files by itself is not seen here.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from threading import local
from typing import Any, Literal

import attrs

Operation = Literal["open", "read", "write", "sync", "truncate", "shared memory", "delete"]
CHANGES: frozenset[Operation] = frozenset({"open", "write", "sync", "truncate", "shared memory", "delete"})

IO_ERROR: dict[Operation, int] = {
    "open": 14,
    "read": 10 | 1 << 8,
    "write": 10 | 3 << 8,
    "sync": 10 | 4 << 8,
    "truncate": 10 | 6 << 8,
    "shared memory": 10 | 21 << 8,
    "delete": 10 | 10 << 8,
}
"""What SQLite says when the operating system says EIO."""

NO_SPACE: dict[Operation, int] = {"write": 13, "shared memory": 10 | 19 << 8}
"""What SQLite says when the operating system says ENOSPC, and of what it may say so."""


@attrs.define
class Disk:
    """What happens to the files of one journal, and what is to fail."""

    path: str
    calls: list[Operation] = attrs.Factory(list)
    """What was asked of it, while it was watched."""
    hits: int = 0
    """How often it has failed."""
    _codes: dict[Operation, int] = attrs.Factory(dict)
    _first: int = -1
    _lasting: bool = False
    _watched: bool = False
    _aside: local = attrs.Factory(local)

    def watch(self, codes: dict[Operation, int], first: int = -1, lasting: bool = False) -> None:
        """Count the calls that `codes` has from now on, and fail the one of that number, or all from that on."""
        self.calls, self.hits = [], 0
        self._codes, self._first, self._lasting, self._watched = codes, first, lasting, True

    def heal(self) -> None:
        """Fail no more, and count no more."""
        self._watched = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What this thread does in the block neither counts nor fails."""
        self._aside.on = True
        yield
        self._aside.on = False

    def asked(self, operation: Operation) -> int:
        """A call of SQLite's: the code of its failure, or 0."""
        if not self._watched or operation not in self._codes or getattr(self._aside, "on", False):
            return 0
        number = len(self.calls)
        self.calls.append(operation)
        if number != self._first and not (self._lasting and number > self._first):
            return 0
        self.hits += 1
        return self._codes[operation]


# --- between SQLite and the operating system ---------------------------------------------------------------------


class _File(ctypes.Structure):
    """`sqlite3_file`, as far as it is the same for all systems."""


_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Transfer = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
_Share = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, c_void_p)


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`."""

    _fields_ = [
        ("version", c_int),
        ("close", c_void_p),
        ("read", _Transfer),
        ("write", _Transfer),
        ("truncate", _Truncate),
        ("sync", _Sync),
        ("others", c_void_p * 7),
        ("share", _Share),
        ("more", c_void_p * 5),
    ]


_File._fields_ = [("methods", POINTER(_Methods))]


class _System(ctypes.Structure):
    """`sqlite3_vfs`."""

    _fields_ = [
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _Open),
        ("delete", _Delete),
        ("others", c_void_p * 14),
    ]


class _Layer:
    """The layer: a copy of the system's own table of calls, with ours in the place of some."""

    def __init__(self) -> None:
        self._sqlite = ctypes.CDLL(_sqlite3.__file__)  # the very library that Python's own module uses
        self._sqlite.sqlite3_vfs_find.restype = POINTER(_System)
        self._system = self._sqlite.sqlite3_vfs_find(None).contents
        self._table = _System.from_buffer_copy(self._system)
        self._table.name = b"failing"
        self._table.open, self._table.delete = _Open(self._opened), _Delete(self._deleted)
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}
        self._disks: dict[int, Disk] = {}
        self.disk = Disk("")

    def attach(self) -> None:
        self._sqlite.sqlite3_vfs_register(ctypes.byref(self._table), 1)

    def detach(self) -> None:
        self._sqlite.sqlite3_vfs_unregister(ctypes.byref(self._table))

    def _has(self, name: bytes | None) -> bool:
        return name is not None and name.decode().startswith(self.disk.path)

    def _opened(self, table: int, name: int | None, file: Any, flags: int, out: int | None) -> int:
        ours = self._has(None if name is None else ctypes.string_at(name))
        code = self.disk.asked("open") if ours else 0
        if code:
            file.contents.methods = None
            return code
        code = self._system.open(table, name, file, flags, out)
        if code == 0 and ours and file.contents.methods:
            # SQLite leaves the table of a file alone, but there is one for several kinds of files.
            address = ctypes.addressof(file.contents.methods.contents)
            made = self._methods.get(address) or self._made(address)
            file.contents.methods = ctypes.pointer(made)
        return int(code)

    def _deleted(self, table: int, name: bytes, sync: int) -> int:
        code = self.disk.asked("delete") if self._has(name) else 0
        return code or int(self._system.delete(table, name, sync))

    def _made(self, address: int) -> Any:
        real = _Methods.from_address(address)
        made = _Methods.from_buffer_copy(real)
        for name, operation in _OPERATIONS.items():
            setattr(made, name, type(getattr(real, name))(self._failing(operation, getattr(real, name))))
        self._methods[address] = made  # type: ignore[assignment]
        return made

    def _failing(self, operation: Operation, call: Callable[..., int]) -> Callable[..., int]:
        def asked(*args: Any) -> int:
            return self.disk.asked(operation) or call(*args)

        return asked


_OPERATIONS: dict[str, Operation] = {
    "read": "read",
    "write": "write",
    "truncate": "truncate",
    "sync": "sync",
    "share": "shared memory",
}

_LAYER = _Layer()


@contextmanager
def failing_disk(path: Path) -> Iterator[Disk]:
    """Put the layer under all connections that are opened in the block; it fails for the files of this journal."""
    _LAYER.disk = Disk(str(path))
    _LAYER.attach()
    try:
        yield _LAYER.disk
    finally:
        _LAYER.detach()
        _LAYER.disk = Disk("\0")

"""Where bytes come from: a local file, or an object behind a URL that is read by ranges.

URLs: s3://, gs://, az://, http://, https:// (through obstore, extra `s3`); file:// is a local path.
Credentials stay out of names.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

from storage.errors import DamagedError, FormatError, one_line

_URL = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)$", re.IGNORECASE | re.DOTALL)
_FILE_SCHEME = "file://"
_SCHEMES = ("s3", "gs", "az", "http", "https")
# What a URL may carry that is nobody's business: the user part, and the whole query (signatures,
# tokens).
_USER = re.compile(r"([a-z][a-z0-9+.-]*:/{1,2})[^/\s@?#'\"]+@", re.IGNORECASE)
_QUERY = re.compile(r"([a-z][a-z0-9+.-]*:/{1,2}[^\s?#'\"]*)[?#][^\s'\"]*", re.IGNORECASE)
# Ranges that a remote file is fetched in when all of it is needed.
_RANGE = 8 << 20
# Read ahead of parsers, which take a header in many small steps.
_BUFFER = 1 << 16

Data = mmap.mmap | bytes
"""All bytes of a file, addressed without being loaded: parsers and codecs read them in place."""


def redact(text: str) -> str:
    """Return a message without the user part and the query of any URL in it."""
    if ":/" not in text:  # every line of a log comes by here
        return text
    return _QUERY.sub(r"\1?...", _USER.sub(r"\1...@", text))


def is_url(path: Path | str) -> bool:
    """Tell whether a path names something that is not on a local disk."""
    url = _URL.match(str(path))
    return url is not None and url["scheme"].lower() != "file"


def located(path: Path | str) -> str:
    """Return an absolute path or the URL, as a job keeps it.

    file:// becomes a path, other URLs stay as they are.
    """
    if is_url(path):
        return str(path)
    return str(Path(_without_file_scheme(str(path))).absolute())


def _without_file_scheme(text: str) -> str:
    is_file_url = text.lower().startswith(_FILE_SCHEME)
    return text[len(_FILE_SCHEME) :] if is_file_url else text


class ByteSource:
    """The bytes of one file or object; safe to read from several threads.

    Raises FormatError on one line for what is absent, not allowed to be read or of an unknown
    scheme.
    """

    name: str
    """The path or URL without credentials, for messages."""
    size: int
    """Bytes."""

    def __init__(self, path: Path | str) -> None:
        text = str(path)
        self.name = redact(text)
        self._remote = _RemoteObject(text, self.name) if is_url(text) else None
        if self._remote is not None:
            self._fd = -1
            self.size = self._remote.size
            return
        try:
            self._fd = os.open(_without_file_scheme(text), os.O_RDONLY)
        except FileNotFoundError:
            raise FormatError(f"{self.name}: no such file; check the path") from None
        except OSError as error:
            raise _unreadable(self.name, error) from error
        self.size = os.fstat(self._fd).st_size

    @property
    def local(self) -> bool:
        """Whether the bytes are in a local file."""
        return self._remote is None

    def read(self, offset: int, count: int) -> bytes:
        """Return the bytes offset .. offset + count, fewer at the end of the file."""
        if self._remote is None:
            return os.pread(self._fd, count, offset)
        left = max(0, self.size - offset)
        return self._remote.read(offset, min(count, left))

    def opened(self) -> BinaryIO:
        """Return a seekable binary file over the same bytes, with a position of its own."""
        return io.BufferedReader(_Seekable(self), _BUFFER)

    def data(self) -> Data:
        """Return all bytes; a remote object is copied to an unnamed temporary file first."""
        if self.size == 0:
            return b""
        if self._remote is None:
            return mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        with tempfile.TemporaryFile() as copy:
            for offset in range(0, self.size, _RANGE):
                copy.write(self.read(offset, _RANGE))
            copy.flush()
            return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Release the file; reading afterwards is an error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Seekable(io.RawIOBase):
    """A source as a raw file, for parsers that seek."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._source.size,
        }
        position = starts[whence] + offset
        if position < 0:
            raise ValueError(f"seek to {position}")
        self._position = position
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        data = self._source.read(self._position, len(target))
        target[: len(data)] = data
        self._position += len(data)
        return len(data)


class _RemoteObject:
    """One object of an obstore store."""

    def __init__(self, url: str, name: str) -> None:
        store, key = remote_store(url, name, parent=True)
        self._store = store
        self._key = key
        self._name = name
        self._lock = threading.Lock()
        obstore = obstore_for(name)
        try:
            self.size = int(obstore.head(store, key)["size"])
        except Exception as error:  # every store raises errors of its own
            raise _refused(name, error) from None

    def read(self, offset: int, count: int) -> bytes:
        if count <= 0:
            return b""
        obstore = obstore_for(self._name)
        try:
            data = bytes(obstore.get_range(self._store, self._key, start=offset, length=count))
        except Exception as error:  # every store raises errors of its own
            end = offset + count
            raise DamagedError(
                f"{self._name}: bytes {offset} to {end} cannot be read: {_why(error)}"
            ) from None
        if len(data) != count:
            raise DamagedError(
                f"{self._name}: asked for {count} bytes at {offset}, got {len(data)}; try again"
            )
        return data


def remote_store(
    url: str,
    name: str,
    *,
    parent: bool,
) -> tuple[Any, str]:
    """Return (obstore store, key) of a URL.

    parent: the store of the object's folder, else of the URL itself. Credentials come from the
    environment, never from the user part of a URL. Raises FormatError.
    """
    parts = _URL.match(url)
    scheme = parts["scheme"].lower() if parts else ""
    if parts is None or scheme not in _SCHEMES:
        raise FormatError(
            f"{name}: unknown kind of address {scheme}://; "
            f"supported: {', '.join(_SCHEMES)} and paths"
        )
    host = parts["rest"].partition("/")[0]
    if "@" in host:
        raise FormatError(
            f"{name}: a URL with a user name or password is not accepted; "
            "set them in the environment"
        )
    obstore = obstore_for(name)
    rest, _, query = parts["rest"].partition("?")
    whole = rest.rstrip("/")
    folder, _, key = whole.rpartition("/")
    if not folder or not key:
        raise FormatError(f"{name}: names no object; give {scheme}://BUCKET-OR-HOST/PATH")
    if not parent:
        folder = whole
        key = ""
    try:
        if not scheme.startswith("http"):
            return obstore.store.from_url(f"{scheme}://{folder}"), key
        options = {"client_options": {"allow_http": scheme == "http"}}
        if query:  # a signed object: the query belongs to every request
            signed = f"{scheme}://{rest}?{query}"
            return obstore.store.HTTPStore.from_url(signed, **options), ""
        return obstore.store.HTTPStore.from_url(f"{scheme}://{folder}", **options), key
    except Exception as error:  # every store raises errors of its own
        raise _refused(name, error) from None


def obstore_for(name: str) -> Any:
    """Return the module obstore; raises FormatError, which names the URL, where it is missing."""
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise FormatError(
            f"{name}: reading URLs needs obstore; install it: pip install 'gigarestore[s3]'"
        ) from None
    return obstore


def _why(error: BaseException) -> str:
    return redact(one_line(error))


def _refused(name: str, error: BaseException) -> FormatError:
    kind = type(error).__name__
    if kind in ("NotFoundError", "FileNotFoundError"):
        return FormatError(f"{name}: no such object; check the address")
    if kind in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError"):
        return FormatError(
            f"{name}: access was denied ({kind}); check the credentials in the environment"
        )
    return FormatError(f"{name}: cannot be read: {_why(error)}")


def _unreadable(name: str, error: OSError) -> FormatError:
    return FormatError(
        f"{name}: cannot be read: {error.strerror}; check the path and its permissions"
    )

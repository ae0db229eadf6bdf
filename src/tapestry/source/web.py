"""What web servers answer, within bounds: of redirects, of the headers' time and length, of the body's slowness.

requests leaves all that open: its timeout is that of one read, which a byte now and then keeps off for ever.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

from tapestry.core.errors import TapestryError

BY_HAND = "Or download the file by hand and use it through source.release: files with source.path"
PIECE = 1 << 16  # bytes read at a time
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses worth another attempt
_DIGITS = 18  # of the longest number that is taken for a size
_SHOWN = 400  # characters of what a server says


@dataclass(frozen=True)
class Bounds:
    """Of one answer; times in seconds, lengths in bytes."""

    connect: float = 10.0
    silence: float = 60.0  # without a byte
    headers: float = 120.0  # until they are whole
    window: float = 60.0  # of waiting, over which the speed is averaged
    slowest: float = 2000.0  # bytes a second
    framing: int = 1 << 20  # of the headers, and of all that comes between two pieces of the file
    redirects: int = 10
    undeclared: int = 1 << 36  # of a file whose length the server does not say


class PassingError(Exception):
    """A fault that another attempt may not meet."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait  # seconds the server asks for


class Answer:
    """Status and headers of what came for `url`, and the body, which is read by `pieces`."""

    def __init__(
        self, url: str, response: requests.Response, reader: _BoundedReader, redirects: list[Mapping[str, str]]
    ) -> None:
        self._url = url
        self._response = response
        self._reader = reader
        self._redirects = redirects
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave what hasn't been read of the body."""
        self._response.close()

    def linked(self, name: str) -> str | None:
        """A header of the first redirect that has it, or else of the answer itself."""
        return next((headers[name] for headers in (*self._redirects, self.headers) if name in headers), None)

    def size(self, name: str, text: str | None) -> int | None:
        """The number in `text`, which the header `name` has; None if it isn't one."""
        if text is None or not re.fullmatch(r"[0-9]+", text):
            return None
        if len(text) > _DIGITS:
            raise TapestryError(f"{self._url}: the server's {name} has {len(text)} digits and is no size. {BY_HAND}")
        return int(text)

    def pieces(self) -> Iterator[bytes]:
        """The body as it is sent, undecoded.

        Raises:
            PassingError: it is cut, silent or too slow.
        """
        try:
            for piece in self._response.raw.stream(PIECE, decode_content=False):
                self._reader.piece_came()
                yield piece
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError) as error:
            raise PassingError(f"the connection broke ({shown(error)})") from error


def ask(url: str, headers: Mapping[str, str], accepted: set[int], bounds: Bounds) -> Answer:
    """GET `url`, over redirects, of which none may lead from https to http.

    Raises:
        PassingError: no answer came, it was too slow, or its status may be another next time.
        TapestryError: the address or a redirect is none, or the status is none of those `accepted`.
    """
    # identity: compressed on the way, the lengths and ranges would not be the file's.
    headers = {"Accept-Encoding": "identity", **headers}
    adapter = _BoundedAdapter(bounds)
    at = url
    passed: list[Mapping[str, str]] = []
    with _Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        response = _get(session, url, at, headers, bounds)
        while response.is_redirect:
            response.close()  # its body is of no use, and may have no end
            passed.append(response.headers)
            at = _redirected(url, at, response.headers["Location"])
            if len(passed) > bounds.redirects:
                raise TapestryError(
                    f"{url}: more than {bounds.redirects} redirects, the last to {shown(at)}. Check the address. "
                    f"{BY_HAND}"
                )
            response = _get(session, url, at, headers, bounds)
    if response.status_code in accepted:
        return Answer(url, response, adapter.reader, passed)
    response.close()
    status = f"the server answers {response.status_code} {shown(response.reason or '')}"
    if response.status_code in PASSING:
        raise PassingError(status, wait=_seconds(response.headers.get("Retry-After")))
    raise TapestryError(f"{url}: {status}. Check the address and who may read it. {BY_HAND}")


def shown(text: object) -> str:
    """What a server says, as it may stand in a message: short, and without control characters."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: _SHOWN + 1])
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}…"


def _get(session: requests.Session, url: str, at: str, headers: Mapping[str, str], bounds: Bounds) -> requests.Response:
    try:
        return session.get(
            at, headers=headers, stream=True, timeout=(bounds.connect, bounds.silence), allow_redirects=False
        )
    except (requests.ConnectionError, requests.Timeout) as error:
        raise PassingError(f"no answer ({shown(error)})") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError) as error:
        where = "" if at == url else f"the server redirects to {shown(at)}: "
        raise TapestryError(f"{url}: {where}{shown(error)}. {BY_HAND}") from error


def _redirected(url: str, at: str, location: str) -> str:
    """The address that the server at `at` names."""
    try:
        target = urljoin(at, location.encode("latin-1").decode("utf-8"))  # http.client has read it as Latin-1
    except ValueError as error:
        raise TapestryError(
            f"{url}: the server redirects to {shown(location)}, which is no address ({shown(error)}). {BY_HAND}"
        ) from error
    secure = at.lower().startswith("https://")
    if secure and target.lower().startswith("http://"):
        raise TapestryError(
            f"{url}: the server redirects from https to http ({shown(location)}), where anybody on the way could "
            f"change the file. {BY_HAND}"
        )
    return target


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and re.fullmatch(r"[0-9]+", text) else 0.0


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, or requests would read the body of every redirect to its end."""


class _BoundedAdapter(HTTPAdapter):
    """Reads answers by a `_BoundedReader`; the last one is `reader`."""

    reader: _BoundedReader

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        super().__init__()

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*arguments, **options)
        adapter, bounds = self, self._bounds

        class BoundedResponse(http.client.HTTPResponse):
            def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
                super().__init__(sock, *arguments, **options)
                adapter.reader = _BoundedReader(self.fp.detach(), sock, bounds)
                self.fp = io.BufferedReader(adapter.reader)

            def begin(self) -> None:
                super().begin()
                adapter.reader.headers_came()

        pool.ConnectionCls = type("BoundedConnection", (pool.ConnectionCls,), {"response_class": BoundedResponse})
        return pool


class _BoundedReader(io.RawIOBase):
    """What comes by a socket, within bounds of time, speed and length."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, bounds: Bounds) -> None:
        self._raw = raw
        self._socket = sock
        self._bounds = bounds
        self._headers_until: float | None = time.monotonic() + bounds.headers
        self._waited = 0.0  # seconds in this window; the time in which nothing is read is not the server's
        self._came = 0  # bytes in this window
        self._framing = 0  # bytes since the last piece of the file

    def readable(self) -> bool:
        return True

    def headers_came(self) -> None:
        self._headers_until = None
        self._waited, self._came, self._framing = 0.0, 0, 0

    def piece_came(self) -> None:
        self._framing = 0

    def readinto(self, buffer: Any) -> int | None:
        if self._framing > self._bounds.framing + PIECE:
            raise PassingError(f"{self._framing} bytes came that are no part of the file")
        started = time.monotonic()
        allowed = self._bounds.silence
        if self._headers_until is not None:
            allowed = min(allowed, self._headers_until - started)
            if allowed <= 0:
                raise self._late_headers()
        self._socket.settimeout(allowed)
        try:
            came = self._raw.readinto(buffer) or 0
        except TimeoutError as error:
            if allowed < self._bounds.silence:
                raise self._late_headers() from error
            raise
        self._framing += came
        self._count(came, time.monotonic() - started)
        return came

    def _late_headers(self) -> PassingError:
        return PassingError(f"the answer's headers were not whole after {self._bounds.headers:g} s")

    def _count(self, came: int, waited: float) -> None:
        self._came += came
        self._waited += waited
        if self._headers_until is not None or self._waited < self._bounds.window:
            return
        if self._came < self._bounds.slowest * self._waited:
            raise PassingError(
                f"too slow: {self._came} bytes came in {self._waited:.0f} s, and {self._bounds.slowest:g} a second are "
                "the least"
            )
        self._waited, self._came = 0.0, 0

    def close(self) -> None:
        self._raw.close()
        super().close()

"""HTTP GET with limits on redirects, on the time and size of the headers, and on the speed of the body.

requests has no such limits: its timeout applies to one read, so a server that sends one byte now and then is never
given up.
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

from tapestry.core.errors import TapestryError, one_line

MANUAL_DOWNLOAD = "Or download the file by hand and use it through source.release: files with source.path"
CHUNK_BYTES = 1 << 16  # bytes of the body read at a time
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_SIZE_DIGITS = 18
_MAX_SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class Limits:
    """Limits on one response; times in seconds, sizes in bytes."""

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    """Longest time without a byte."""
    header_timeout: float = 120.0
    """Longest time until the headers are complete."""
    speed_window: float = 60.0
    """Time spent reading over which the speed is averaged."""
    min_speed: float = 2000.0
    """Bytes a second."""
    max_overhead: int = 1 << 20
    """Bytes of headers, and of chunk framing between two chunks of the body."""
    max_redirects: int = 10
    max_undeclared_size: int = 1 << 36
    """Size of a file whose length the server doesn't declare."""


class TransientError(Exception):
    """A fault that may not happen on the next attempt."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds that the server asks to wait


class Response:
    """Status and headers of the response to a request for `url`; its body is read by `chunks`."""

    def __init__(
        self, url: str, response: requests.Response, reader: _LimitedReader, redirects: list[Mapping[str, str]]
    ) -> None:
        self._url = url
        self._response = response
        self._reader = reader
        self._redirects = redirects
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection without reading the rest of the body."""
        self._response.close()

    def first_header(self, name: str) -> str | None:
        """Return a header of the first redirect that has it, else of the final response; None if none has it."""
        return next((headers[name] for headers in (*self._redirects, self.headers) if name in headers), None)

    def parse_size(self, name: str, text: str | None) -> int | None:
        """Parse `text`, the value of the header `name`, as a number of bytes; None if it isn't a number.

        Raises:
            TapestryError: the number has more than 18 digits.
        """
        if text is None or not re.fullmatch(r"[0-9]+", text):
            return None
        if len(text) > _MAX_SIZE_DIGITS:
            raise TapestryError(
                f"{self._url}: the server's {name} has {len(text)} digits and is no size. {MANUAL_DOWNLOAD}"
            )
        return int(text)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as sent, without decoding it.

        Raises:
            TransientError: the connection breaks, or the server is silent or too slow.
        """
        try:
            for chunk in self._response.raw.stream(CHUNK_BYTES, decode_content=False):
                self._reader.end_overhead()
                yield chunk
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError) as error:
            raise TransientError(f"the connection broke ({printable(error)})") from error


def get(url: str, headers: Mapping[str, str], accepted: set[int], limits: Limits) -> Response:
    """Send GET to `url` and follow redirects, but none from https to http.

    Args:
        url: the address.
        headers: headers of the request.
        accepted: statuses that are not an error.
        limits: limits on the response.

    Raises:
        TransientError: no response, a response that is too slow, or a status that the next attempt may not meet.
        TapestryError: an address or redirect that isn't valid, or a status that is not accepted.
    """
    # identity: if the server compressed the body, lengths and ranges would not be the file's.
    headers = {"Accept-Encoding": "identity", **headers}
    adapter = _LimitedAdapter(limits)
    address = url
    redirects: list[Mapping[str, str]] = []
    with _Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        response = _get_once(session, url, address, headers, limits)
        while response.is_redirect:
            response.close()  # the body of a redirect is of no use and may be endless
            redirects.append(response.headers)
            address = _redirect_target(url, address, response.headers["Location"])
            if len(redirects) > limits.max_redirects:
                raise TapestryError(
                    f"{url}: more than {limits.max_redirects} redirects, the last to {printable(address)}. Check the "
                    f"address. {MANUAL_DOWNLOAD}"
                )
            response = _get_once(session, url, address, headers, limits)
    if response.status_code in accepted:
        return Response(url, response, adapter.reader, redirects)
    response.close()
    status = f"the server answers {response.status_code} {printable(response.reason or '')}"
    if response.status_code in TRANSIENT_STATUSES:
        raise TransientError(status, retry_after=_seconds(response.headers.get("Retry-After")))
    raise TapestryError(f"{url}: {status}. Check the address and who may read it. {MANUAL_DOWNLOAD}")


def printable(text: object) -> str:
    """Make a server's text safe for a message: at most 400 characters, control characters escaped."""
    return one_line(str(text)[: _MAX_SHOWN_CHARACTERS + 1], _MAX_SHOWN_CHARACTERS)


def _get_once(
    session: requests.Session, url: str, address: str, headers: Mapping[str, str], limits: Limits
) -> requests.Response:
    """Send GET to `address`, to which `url` redirects, and follow no redirect."""
    timeout = (limits.connect_timeout, limits.read_timeout)
    try:
        return session.get(address, headers=headers, stream=True, timeout=timeout, allow_redirects=False)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TransientError(f"no answer ({printable(error)})") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError) as error:
        where = "" if address == url else f"the server redirects to {printable(address)}: "
        raise TapestryError(f"{url}: {where}{printable(error)}. {MANUAL_DOWNLOAD}") from error


def _redirect_target(url: str, address: str, location: str) -> str:
    """Resolve the header Location of a redirect from `address`."""
    try:
        target = urljoin(address, location.encode("latin-1").decode("utf-8"))  # http.client decodes it as Latin-1
    except ValueError as error:
        raise TapestryError(
            f"{url}: the server redirects to {printable(location)}, which is no address ({printable(error)}). "
            f"{MANUAL_DOWNLOAD}"
        ) from error
    secure = address.lower().startswith("https://")
    if secure and target.lower().startswith("http://"):
        raise TapestryError(
            f"{url}: the server redirects from https to http ({printable(location)}), where anybody on the way could "
            f"change the file. {MANUAL_DOWNLOAD}"
        )
    return target


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and re.fullmatch(r"[0-9]+", text) else 0.0


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: otherwise requests reads the body of every redirect to its end."""


class _LimitedAdapter(HTTPAdapter):
    """Reads responses through a `_LimitedReader`. `reader` is the one of the last response."""

    reader: _LimitedReader

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        super().__init__()

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*arguments, **options)
        adapter, limits = self, self._limits

        class LimitedResponse(http.client.HTTPResponse):
            def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
                super().__init__(sock, *arguments, **options)
                adapter.reader = _LimitedReader(self.fp.detach(), sock, limits)
                self.fp = io.BufferedReader(adapter.reader)

            def begin(self) -> None:
                super().begin()
                adapter.reader.end_headers()

        pool.ConnectionCls = type("LimitedConnection", (pool.ConnectionCls,), {"response_class": LimitedResponse})
        return pool


class _LimitedReader(io.RawIOBase):
    """Reads a socket and raises a TransientError when a limit on time, speed or overhead is passed."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, limits: Limits) -> None:
        self._raw = raw
        self._socket = sock
        self._limits = limits
        self._header_deadline: float | None = time.monotonic() + limits.header_timeout
        self._window_seconds = 0.0  # spent reading; the time between two reads isn't the server's
        self._window_bytes = 0
        self._overhead = 0  # bytes since the last chunk of the body

    def readable(self) -> bool:
        return True

    def end_headers(self) -> None:
        """Start to measure the body: the headers are complete."""
        self._header_deadline = None
        self._window_seconds, self._window_bytes, self._overhead = 0.0, 0, 0

    def end_overhead(self) -> None:
        """Count overhead from 0 again: a chunk of the body is complete."""
        self._overhead = 0

    def readinto(self, buffer: Any) -> int | None:
        if self._overhead > self._limits.max_overhead + CHUNK_BYTES:
            raise TransientError(f"the server sent {self._overhead} bytes that are no part of the file")
        started = time.monotonic()
        timeout = self._limits.read_timeout
        if self._header_deadline is not None:
            timeout = min(timeout, self._header_deadline - started)
            if timeout <= 0:
                raise self._header_timeout_error()
        self._socket.settimeout(timeout)
        try:
            count = self._raw.readinto(buffer) or 0
        except TimeoutError as error:
            if timeout < self._limits.read_timeout:
                raise self._header_timeout_error() from error
            raise
        self._overhead += count
        self._check_speed(count, time.monotonic() - started)
        return count

    def _header_timeout_error(self) -> TransientError:
        return TransientError(f"the headers were not complete after {self._limits.header_timeout:g} s")

    def _check_speed(self, count: int, seconds: float) -> None:
        self._window_bytes += count
        self._window_seconds += seconds
        if self._header_deadline is not None or self._window_seconds < self._limits.speed_window:
            return
        if self._window_bytes < self._limits.min_speed * self._window_seconds:
            raise TransientError(
                f"too slow: {self._window_bytes} bytes in {self._window_seconds:.0f} s; at least "
                f"{self._limits.min_speed:g} bytes a second are needed"
            )
        self._window_seconds, self._window_bytes = 0.0, 0

    def close(self) -> None:
        self._raw.close()
        super().close()

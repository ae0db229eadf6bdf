"""Responses of broken or hostile servers: slow, endless, or with bad redirects. Each is an error within seconds."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tapestry.core.errors import TapestryError
from tapestry.source.web import Limits, Response, TransientError, get

BODY = b"user,item,timestamp\n" * 100
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = Limits(read_timeout=0.4, header_timeout=0.6, speed_window=0.3, min_speed=1000.0, max_overhead=50_000)
MAX_SECONDS = 5.0  # of any response

Sent = Iterator[bytes]
Serve = Callable[..., str]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(sent, …, tls=None) starts a server and returns its address. The n-th connection gets the n-th `sent`."""
    with contextlib.ExitStack() as stack:

        def start(*responses: Sent, tls: ssl.SSLContext | None = None) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                for response in responses:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    with contextlib.suppress(OSError), connection:
                        wrapped = tls.wrap_socket(connection, server_side=True) if tls else connection
                        with wrapped:
                            wrapped.recv(65536)
                            for chunk in response:
                                wrapped.sendall(chunk)

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/Books.csv"

        yield start


def slowly(content: bytes, seconds: float = 0.02) -> Sent:
    for byte in content:
        time.sleep(seconds)
        yield bytes([byte])


def after(start: bytes, more: Sent) -> Sent:
    yield start
    yield from more


def redirect(location: bytes, status: int = 302) -> Sent:
    return iter(
        [b"HTTP/1.1 %d Found\r\nConnection: close\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % (status, location)]
    )


def read(url: str, limits: Limits = LIMITS) -> bytes:
    with get(url, {}, {200}, limits) as response:
        return b"".join(response.chunks())


def test_a_body_is_read_to_its_end(serve: Serve) -> None:
    assert read(serve(iter([WHOLE]))) == BODY
    assert read(serve(iter([CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)]))) == BODY


def test_a_body_above_the_minimum_speed_is_read_to_its_end(serve: Serve) -> None:
    chunks = (WHOLE[start : start + 100] for start in range(0, len(WHOLE), 100))
    assert read(serve(chunk for chunk in chunks if not time.sleep(0.04))) == BODY  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (lambda: slowly(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1000), "headers were not complete after 0.6 s"),
        (lambda: slowly(b"H" * 9999), "headers were not complete after 0.6 s"),
        (lambda: slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 99), "headers were not complete after 0.6 s"),
        (lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 99), "bytes that are no part of the file"),
        (lambda: after(b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"X: " + b"x" * 60_000 + b"\r\n")), "no part of the"),
        (lambda: after(b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"X: 1\r\n")), "no answer .*100 headers"),
        (lambda: after(b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"x" * 9999)), "no answer|no part of the file"),
        (lambda: itertools.repeat(b"x" * 9999), "no answer|no part of the file"),
        (lambda: after(b"", slowly(b"", 1)), "no answer"),
        (lambda: iter([b"HTTP/1.1 %s OK\r\n\r\n" % (b"2" * 5000)]), "no answer"),
    ],
)
def test_headers_that_never_end_or_trickle_are_given_up(serve: Serve, sent: Callable[[], Sent], message: str) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match=message):
        read(serve(sent()))
    assert time.monotonic() - started < MAX_SECONDS


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (lambda: after(WHOLE[:100], slowly(BODY)), r"too slow: \d+ bytes in 0 s"),
        (lambda: after(CHUNKED, slowly(b"1\r\nx\r\n" * 999)), "too slow"),
        (lambda: after(CHUNKED, slowly(b"0" * 9999)), "too slow"),
        (lambda: after(CHUNKED + b"0\r\n", slowly(b"X: 1\r\n" * 999)), "too slow"),
        (lambda: after(CHUNKED, itertools.repeat(b"0" * 9999)), "no part of the file|broke"),
        (lambda: after(CHUNKED + b"0\r\n", itertools.repeat(b"X: 1\r\n" * 999)), "no part of the file"),
        (lambda: after(CHUNKED + b"1;", itertools.repeat(b"x" * 9999)), "no part of the file|broke"),
        (lambda: iter([CHUNKED + b"-5\r\n" + BODY]), "broke"),
        (lambda: iter([CHUNKED + b"f" * 5000 + b"\r\n" + BODY]), "broke"),
        (lambda: iter([CHUNKED + b"x\r\n" + BODY]), "broke"),
        (lambda: iter([WHOLE[:-1]]), "broke"),
    ],
)
def test_a_body_that_trickles_or_never_ends_is_given_up(serve: Serve, sent: Callable[[], Sent], message: str) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match=message):
        read(serve(sent()))
    assert time.monotonic() - started < MAX_SECONDS


def test_the_speed_excludes_the_time_between_reads(serve: Serve) -> None:
    with get(serve(iter([WHOLE])), {}, {200}, LIMITS) as response:
        time.sleep(0.5)
        assert b"".join(response.chunks()) == BODY


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_and_its_body_not_read(serve: Serve, status: int) -> None:
    address = serve(iter([WHOLE]))
    head = b"HTTP/1.1 %d Found\r\nX-Linked-Size: 7\r\nLocation: %s\r\n\r\n" % (status, address.encode())
    with get(serve(after(head, itertools.repeat(b"x" * 9999))), {}, {200}, LIMITS) as response:
        assert b"".join(response.chunks()) == BODY
        assert response.first_header("X-Linked-Size") == "7"


def test_a_relative_redirect_is_followed(serve: Serve) -> None:
    assert read(serve(redirect(b"../other"), iter([WHOLE]))) == BODY


@pytest.mark.parametrize(
    "location",
    [
        b"http://127.0.0.1:99999/",
        b"http://127.0.0.1:port/",
        b"http://[::1/",
        b"http://" + b"a" * 70 + b".example/",
        b"http://.example/",
        b"http://" + "\u2603..\u2603".encode() + b"/",
        b"http://xn--\xff/",
        b"http:///nowhere",
        b"http://",
        b"ftp://127.0.0.1/Books.csv",
        b"file:///etc/passwd",
        b"javascript:alert(1)",
        b"\xff\xfe\xfd",
        b"http://127.0.0.1:" + b"9" * 5000 + b"/",
        b"http://\x1b[31m/",
    ],
)
def test_a_redirect_to_an_invalid_address_is_refused_in_one_line(serve: Serve, location: bytes) -> None:
    url = serve(redirect(location), iter([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]))
    with pytest.raises(TapestryError, match=rf"^{re.escape(url)}: ") as caught:
        read(url)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_redirects_without_end_are_an_error(serve: Serve) -> None:
    url = serve(*(redirect(b"/again\x1b[2J" + b"x" * 999) for _ in range(20)))
    with pytest.raises(
        TapestryError, match=r"more than 10 redirects, the last to http://.*Check the address"
    ) as caught:
        read(url)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context for 127.0.0.1, and the path of the certificate that makes clients trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, folder / "certificate.pem"


def test_a_redirect_from_https_to_http_is_refused(
    serve: Serve, tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    plain = serve(iter([WHOLE]))
    secure = serve(redirect(plain.replace("http", "HTTP", 1).encode()), tls=context)
    with pytest.raises(TapestryError, match=r"redirects from https to http \(HTTP://127\.0\.0\.1"):
        read(secure)
    first = serve(redirect(serve(redirect(plain.encode()), tls=context).encode()))
    with pytest.raises(TapestryError, match="redirects from https to http"):
        read(first)
    assert read(plain) == BODY  # it had got no request before


def test_redirects_to_https_are_followed(
    serve: Serve, tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    secure = serve(redirect(serve(iter([WHOLE]), tls=context).encode()), tls=context)
    assert read(serve(redirect(secure.encode()))) == BODY


def test_a_slow_response_over_tls_is_given_up(
    serve: Serve, tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with pytest.raises(TransientError, match="headers were not complete"):
        read(serve(slowly(WHOLE), tls=context))
    with pytest.raises(TransientError, match="too slow"):
        read(serve(after(WHOLE[:100], slowly(BODY)), tls=context))


def test_a_response_through_a_proxy_has_the_same_limits(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(iter([WHOLE]), slowly(WHOLE), slowly(b"HTTP/1.1 200 Connection established\r\n\r\n" * 9))
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    assert read("http://elsewhere.invalid/Books.csv") == BODY
    for scheme in ("http", "https"):
        with pytest.raises(TransientError, match="headers were not complete"):
            read(f"{scheme}://elsewhere.invalid/Books.csv")


# Text and numbers of headers.


def test_headers_with_invalid_or_huge_numbers_are_refused_or_ignored(serve: Serve) -> None:
    digits = b"9" * 5000
    with get(serve(iter([b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % digits])), {}, {200}, LIMITS) as response:
        with pytest.raises(TapestryError, match=r"Content-Length has 5000 digits and is no size"):
            response.parse_size("Content-Length", response.headers["Content-Length"])
        assert response.parse_size("X", "-1") is None
        assert response.parse_size("X", "1_0") is None
        assert response.parse_size("X", "012") == 12
    with pytest.raises(TransientError, match="answers 503 Sorry") as caught:
        read(serve(iter([b"HTTP/1.1 503 Sorry\r\nRetry-After: %s\r\n\r\n" % digits])))
    assert caught.value.retry_after > 1e9


def test_control_characters_of_a_server_are_escaped_in_messages(serve: Serve) -> None:
    url = serve(iter([b"HTTP/1.1 404 \x1b[2J" + b"x" * 9999 + b"\r\nContent-Length: 0\r\n\r\n"]))
    with pytest.raises(TapestryError, match=r"answers 404 \\x1b\[2Jxxx") as caught:
        read(url)
    assert len(str(caught.value)) < 1000


def test_a_response_can_be_closed_before_its_end(serve: Serve) -> None:
    sent = itertools.repeat(b"x" * 9999)
    response = get(serve(after(b"HTTP/1.1 200 OK\r\n\r\n", sent)), {}, {200}, LIMITS)
    assert isinstance(response, Response)
    next(response.chunks())
    response.close()

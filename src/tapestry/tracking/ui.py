"""Serve MLflow's UI of the store on this machine only. The server ends with this process, even if it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from tapestry.core.errors import TapestryError
from tapestry.tracking.delivery import send_pending
from tapestry.tracking.store import open_store, store_uri

HOST = "127.0.0.1"
_START_SECONDS = 120
_END_SECONDS = 5
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # Linux's prctl(2): the signal that a process gets when its parent dies


def address(server: str, experiment_id: str) -> str:
    """Return the UI's address of an experiment's runs.

    Without `workflowType`, MLflow opens its view of language-model traces.
    """
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}?workflowType=machine_learning"


def serve(port: int, show: Callable[[str], None]) -> None:
    """Serve the store's UI on 127.0.0.1 until a signal ends this process.

    If the store is a server itself, only its address is shown.

    Args:
        show: called with the UI's address once the server responds.

    Raises:
        TapestryError: the port is taken, the store can't be opened (see `open_store`), or the server ends by itself.
    """
    _require_free(port)
    uri = store_uri()
    _, experiment_id = open_store()
    send_pending()
    if uri.startswith(("http://", "https://")):
        show(f"MLFLOW_TRACKING_URI is a server, and has its own UI: {address(uri, experiment_id)}")
        return
    with _ending() as ended, _server(port, uri) as process:
        _wait_for_answer(process, port, ended)
        if not ended():
            show(f"{address(f'http://{HOST}:{port}', experiment_id)}\nCtrl-C ends it")
        while not ended() and process.poll() is None:
            time.sleep(0.1)
        if not ended():
            raise TapestryError(f"MLflow's server ended by itself, with exit code {process.returncode}")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise TapestryError(
                f"port {port} on {HOST} is not available ({reason}): end what uses it, or choose another by --port"
            ) from error


@contextmanager
def _ending() -> Iterator[Callable[[], bool]]:
    """Catch the signals that end a process; yield a function that says whether one has arrived."""
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, record) for number in _ENDING}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _server(port: int, uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start MLflow's server in a separate process group; end the whole group after the block."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", f"{HOST}:{port},localhost:{port}", "--uvicorn-opts", "--log-level warning"]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs evaluate language models, in extra processes
        "PYTHONWARNINGS": "ignore",  # deprecation warnings between its libraries
    }
    process = subprocess.Popen(
        [*command, "--backend-store-uri", uri, "--registry-store-uri", uri],
        env=environment,
        start_new_session=True,
        preexec_fn=_end_with_parent(os.getpid()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        _end(process)


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """Make Linux end the server if this process is killed; MLflow forwards the signal to its child processes."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before prctl
            os._exit(1)

    return prepare


def _wait_for_answer(process: subprocess.Popen[bytes], port: int, ended: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ended():
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        if process.poll() is not None:
            raise TapestryError(f"MLflow's server didn't start, and ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise TapestryError(f"MLflow's server didn't respond within {_START_SECONDS} s")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its child processes: the process group can outlive its first process."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _END_SECONDS
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.05)

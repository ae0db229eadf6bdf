"""Start `tapestry ui`: its command, and a free port."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

UI = [sys.executable, "-c", "from tapestry.cli import app; app()", "ui", "--port"]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])

"""Start of the processes of a run, by torchrun (`torch.distributed.run`), and what each of them does first.

`launch` starts this machine's processes; each runs the same command again and calls `joined`. More machines: each runs
the stage with torchrun's own environment, `PET_NNODES`, `PET_NODE_RANK`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`
(docs/scaling.md).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from tapestry.core.errors import TapestryError, one_line
from tapestry.parallel.processes import ALONE, TIMEOUT, Processes

_LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun sets it in the processes that it starts
_MACHINES = ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
_TO_BE_ENDED = 10.0  # seconds after which torchrun has ended a process whose peer has failed


def launched() -> bool:
    """Return whether torchrun has started this process."""
    return _LAUNCHED in os.environ


def launch(processes: int, threads: int, arguments: Sequence[str], after_stop: str = "run it again") -> None:
    """Run `python arguments` in so many processes on this machine, and wait for their end.

    Args:
        processes: on this machine.
        threads: CPU threads of each process.
        arguments: the script and its own arguments.
        after_stop: what the user is told when a signal such as SIGTERM ends this process.

    Raises:
        TapestryError: a process failed; its message, or its traceback on stderr, says why. Or a port is taken.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException  # one second of imports
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # errors are told below
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torchrun would set 1 and warn
    if "PET_RDZV_BACKEND" in os.environ:
        raise TapestryError(
            "PET_RDZV_BACKEND: with it any machine may become the first one, which writes the result; set "
            "PET_MASTER_ADDR and PET_MASTER_PORT in its place"
        )
    alone = not any(name in os.environ for name in _MACHINES)
    local = ["--standalone", "--local-addr=localhost"] if alone else []
    try:
        run(parse_args([f"--nproc-per-node={processes}", *local, *arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise TapestryError(_told(rank, failure.message)) from None
    except SignalException as error:
        raise TapestryError(f"ended by {error.sigval.name}; {after_stop}") from None
    except dist.DistNetworkError as error:
        raise TapestryError(
            f"torchrun can't listen or connect: {one_line(str(error))[:200]}; set PET_MASTER_PORT to a free port of "
            "the first machine, on all machines"
        ) from error


def _told(rank: int, message: Any) -> str:
    """Return what a failed process has recorded, as one line; print its traceback unless the user can mend it."""
    if not isinstance(message, dict):  # ended by a signal
        return f"process {rank}: {message}"
    text = str(message["message"])
    kind, _, rest = text.partition(": ")
    if kind == TapestryError.__name__:
        return rest
    print(f"process {rank}:\n{message['extraInfo']['py_callstack']}", file=sys.stderr)
    return f"process {rank} failed: {one_line(text)}"


@contextmanager
def joined(device: torch.device, expected: int) -> Iterator[Processes]:
    """Join the processes that torchrun has started; in a process that it hasn't, return `ALONE`.

    In a process of several, an error is recorded for `launch`, which tells it, and ends the process.

    Args:
        device: on which they compute.
        expected: how many processes each machine has by the parameters.
    """
    if not launched():
        yield ALONE
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    handler = get_error_handler()
    handler.initialize()
    try:
        with _group(device) as processes, processes.naming_absent():
            started = int(os.environ["LOCAL_WORLD_SIZE"])
            if started != expected:
                raise TapestryError(f"torchrun started {started} processes here, but the parameters say {expected}")
            yield processes
    except Exception as error:
        if not isinstance(error, TapestryError) and _peer_has_gone(error):
            time.sleep(_TO_BE_ENDED)  # torchrun tells of the process that failed first, and ends this one
        handler.record_exception(TapestryError(str(error)) if isinstance(error, TapestryError) else error)
        sys.exit(1)


@contextmanager
def _group(device: torch.device) -> Iterator[Processes]:
    """Initialise torch's process group by torchrun's environment: gloo for CPU tensors, NCCL for those on CUDA."""
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Processes.of_group()
    finally:
        dist.destroy_process_group()


def require_same(processes: Processes, fingerprint: Mapping[str, Any]) -> None:
    """Check that all processes have the same of all that determines a result.

    Args:
        fingerprint: by name, such as the parameters and the hash of the code.

    Raises:
        TapestryError: one differs; the message names it, the machine and both values.
    """
    told = processes.gather((socket.gethostname(), dict(fingerprint)))
    first_host, first = told[0]
    for rank, (host, other) in enumerate(told):
        wrong = [name for name in first if other.get(name) != first[name]]
        if wrong:
            raise TapestryError(
                f"process {rank} on {host} has other {' and '.join(wrong)} than process 0 on {first_host}: "
                f"{_difference(first[wrong[0]], other.get(wrong[0]))}; all machines need the same"
            )


def _difference(first: Any, other: Any) -> str:
    """Return two values that differ, of mappings only the entries that do."""
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        return ", ".join(f"{key} is {other.get(key)}, not {first.get(key)}" for key in keys[:3])
    return f"{other}, not {first}"


def _peer_has_gone(error: Exception) -> bool:
    """Return whether the error is that of a message to a process that has ended."""
    text = str(error)
    return any(part in text for part in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))

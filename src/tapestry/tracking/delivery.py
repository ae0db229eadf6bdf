"""Send journals to MLflow: while a stage runs, at its end, and later if the store was not available.

Sending an event twice changes nothing, so a process that is killed while it sends needs no cleanup: a run is found by
the name of its journal, and MLflow stores equal points of a metric once.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.core.errors import TapestryError, for_terminal, one_line
from tapestry.tracking.client import find_runs, log, log_file, log_input
from tapestry.tracking.experiment import complete
from tapestry.tracking.journal import EVENTS, FILES, Journal, locked_journal, now_ms, pending_journals, read_events
from tapestry.tracking.store import open_store, shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DRIVER = re.compile(r"^\([\w.]+\) ")  # SQLAlchemy puts the driver's exception class before its message
_MIN_RETRY_WAIT, _MAX_RETRY_WAIT = 1.0, 60.0  # seconds between retries after an error of the store
_FINISH_SECONDS = 20  # how long a stage waits at its end until all is sent, while the store accepts data
_FAILING_FINISH_SECONDS = 2  # and how long if the last attempt failed


class Delivery:
    """Sends one journal; each call continues where the one before ended."""

    def __init__(self, folder: Path, client: MlflowClient, experiment_id: str) -> None:
        self._folder, self._client, self._experiment_id = folder, client, experiment_id
        self._offset = 0  # bytes of the journal that are sent
        self._run_id: str | None = None

    def advance(self) -> None:
        """Send the journal's new events: metrics first, then files, the end of the run last.

        Raises:
            Exception: any of MLflow's, if the store doesn't accept the events; the next call sends them again.
        """
        events, end = read_events(self._folder, self._offset)
        by_kind: dict[str, list[Any]] = defaultdict(list)
        for kind, value in events:
            by_kind[kind].append(value)
        for run in by_kind["run"]:
            self._run_id = self._create(run)
        if self._run_id is not None:
            points = [(key, number, time, step) for part in by_kind["metrics"] for key, number, time, step in part]
            log(self._client, self._run_id, points, _merged(by_kind["params"]), _merged(by_kind["tags"]))
            for value in by_kind["input"]:
                log_input(self._client, self._run_id, value)
            for name in by_kind["artifact"]:
                log_file(self._client, self._run_id, self._folder / FILES / name, name)
            for value in by_kind["end"]:
                self._client.set_terminated(self._run_id, value["status"], value["time"])
        for experiment in by_kind["experiment"]:
            complete(self._client, self._experiment_id, experiment, self._folder)
        self._offset = end

    def _create(self, run: Mapping[str, Any]) -> str:
        found = find_runs(self._client, self._experiment_id, {"journal": self._folder.name}, deleted=True)
        if found:
            return str(found[0].info.run_id)
        tags = {"journal": self._folder.name, "mlflow.runName": run["name"]} | run["tags"]
        return str(self._client.create_run(self._experiment_id, run["start"], tags, run["name"]).info.run_id)


def _merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}


class Sender(threading.Thread):
    """Sends this process's journal from a thread, so that a failing store doesn't delay the stage."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="mlflow", daemon=True)  # stages/run.py knows the name
        self._folder = folder
        self._wake = threading.Event()
        self._ending = self._failing = False
        self._done = threading.Event()

    def run(self) -> None:
        wait, delivery = _MIN_RETRY_WAIT, None
        while True:
            last = self._ending  # read before the journal, so that the last pass sees every event
            try:
                if delivery is None:
                    delivery = Delivery(self._folder, *open_store())
                    with suppress(Exception):  # other journals must not delay this run
                        send_pending()
                delivery.advance()
            except Exception as error:
                self._warn(error)
                delivery, wait = None, min(2 * wait, _MAX_RETRY_WAIT)  # the next attempt opens the store again
            else:
                if self._failing:
                    self._failing = False
                    print("MLflow: the store is available again; all metrics are sent", file=sys.stderr)
                wait = _MIN_RETRY_WAIT
                if last:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    break
            self._wake.wait(wait)
            self._wake.clear()
        self._done.set()

    def finish(self) -> None:
        """Wait until the rest is sent: `_FINISH_SECONDS`, or less if the store fails."""
        self._ending = True
        self._wake.set()
        for _ in range(_FINISH_SECONDS):
            if self._done.wait(1):
                return
            if self._failing:
                self._done.wait(_FAILING_FINISH_SECONDS)
                return
        self._warn(TapestryError(f"{shown_uri()} doesn't respond"))

    def _warn(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            print(
                f"MLflow: {for_terminal(describe_store_error(error))}; the run continues, its metrics are kept in "
                f"{self._folder.parent}, and `tapestry sync` sends them",
                file=sys.stderr,
            )


@contextmanager
def sending(journal: Journal) -> Iterator[None]:
    """Send a journal while the block writes it, wait at the end until the rest is sent, and close the journal."""
    sender = None if journal.folder is None else Sender(journal.folder)  # the journal has warned that it has no folder
    if sender is not None:
        sender.start()
    try:
        yield
    finally:
        if sender is not None:
            sender.finish()
        journal.close()


def describe_store_error(error: Exception) -> str:
    """Describe in one line why the store doesn't accept what is sent."""
    if isinstance(error, TapestryError):
        return str(error)
    text = _DRIVER.sub("", str(error).strip()) or type(error).__name__
    return f"{shown_uri()}: {one_line(text.splitlines()[0])}"


def send_pending() -> tuple[int, list[str]]:
    """Send the journals of processes that have ended. The run of a process that was killed gets the status KILLED.

    Returns:
        The number of journals that were sent, and one line for each that was not.

    Raises:
        TapestryError: the store can't be opened.
    """
    count, unsent = 0, []
    store: tuple[MlflowClient, str] | None = None
    for folder in pending_journals():
        with locked_journal(folder) as locked:
            if not locked:
                continue
            try:
                address = _address(folder)
                if address != shown_uri():
                    unsent.append(f"{folder.name}: it is for {address}; set MLFLOW_TRACKING_URI to it")
                    continue
                store = store or open_store()
                _end_killed(folder)
                Delivery(folder, *store).advance()
            except ValueError as error:
                unsent.append(f"{folder}: damaged ({one_line(str(error))}); remove it")
                continue
            except TapestryError:
                raise
            except Exception as error:
                unsent.append(f"{folder.name}: {describe_store_error(error)}")
                continue
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count, unsent


def _address(folder: Path) -> str:
    events, _ = read_events(folder)
    return next((str(value) for kind, value in events if kind == "store"), "")


def _end_killed(folder: Path) -> None:
    """Append the status KILLED, at the time of the last event, to the journal of a process that was killed."""
    events, end = read_events(folder)
    kinds = {kind for kind, _ in events}
    if "run" in kinds and "end" not in kinds:
        last_write = int((folder / EVENTS).stat().st_mtime * 1000)
        with (folder / EVENTS).open("r+b") as file:
            file.truncate(end)  # drop an incomplete last line
            file.seek(end)
            for kind, value in (
                ("tags", {"error": "the process was killed"}),
                ("end", {"status": "KILLED", "time": min(last_write, now_ms())}),
            ):
                file.write((json.dumps([kind, value]) + "\n").encode())

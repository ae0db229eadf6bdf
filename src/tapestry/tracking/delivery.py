"""Send journals to MLflow: while a stage runs, at its end, or later.

To load MLflow and to open its store takes seconds of CPU time. So only a stage that runs longer than `LIVE_SECONDS`, or
that fails, sends its journal itself. Those of other stages wait for the last stage, `record`, which sends them all
before its own; `tapestry ui` and `tapestry sync` send them too. Journals also wait while the store is not available.

Sending an event twice changes nothing, so a process that is killed while it sends needs no cleanup: a run is found by
the name of its journal, and MLflow stores equal points of a metric once.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.core.ending import SENDER
from tapestry.core.errors import TapestryError, for_terminal, one_line
from tapestry.tracking.client import find_runs, log, log_file, log_input
from tapestry.tracking.experiment import complete
from tapestry.tracking.journal import EVENTS, FILES, Journal, locked_journal, now_ms, pending_journals, read_events
from tapestry.tracking.store import open_store, shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DRIVER = re.compile(r"^\([\w.]+\) ")  # SQLAlchemy puts the driver's exception class before its message
_MIN_RETRY_WAIT, _MAX_RETRY_WAIT = 1.0, 60.0  # seconds between retries after an error of the store
LIVE_SECONDS = 15.0  # a stage that runs longer is sent while it runs
_FINISH_SECONDS = 60  # how long a stage waits at its end until all is sent, while the store accepts data
_FAILING_FINISH_SECONDS = 2  # and how long if the last attempt failed
_STAGES_SECONDS = 20  # how long `record` waits until the journals of the other stages are sent
_STAGES_WAIT = 0.2  # seconds between two looks whether they are


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

    def __init__(self, folder: Path, pipeline: str | None) -> None:
        super().__init__(name=SENDER, daemon=True)
        self._folder, self._pipeline = folder, pipeline
        self._wake = threading.Event()
        self._ending = self._failing = self._stage_failed = False
        self._done = threading.Event()

    def run(self) -> None:
        wait, delivery = _MIN_RETRY_WAIT, None
        if self._pipeline is None:
            live_from = time.monotonic() + LIVE_SECONDS
            self._wake.wait(LIVE_SECONDS)
            if time.monotonic() < live_from and not self._stage_failed:
                self._done.set()
                return
        while True:
            last = self._ending  # read before the journal, so that the last pass sees every event
            try:
                if delivery is None:
                    delivery = Delivery(self._folder, *open_store())
                    with suppress(Exception):  # other journals must not delay this run
                        _send_stages(self._pipeline)
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

    def finish(self, failed: bool) -> None:
        """Wait until the rest is sent: `_FINISH_SECONDS`, or less if the store fails.

        A journal that isn't live yet is left to a later stage, unless this one failed: then there may be none.
        """
        self._stage_failed = failed
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
def sending(journal: Journal, pipeline: str | None = None) -> Iterator[None]:
    """Send a journal while the block writes it, or leave it to a later stage (see this module), and close it.

    Args:
        pipeline: the execution of the pipeline (`pipeline_id`) whose other journals are to be sent before this one,
            which is then sent in any case.
    """
    sender = None  # the journal has warned that it has no folder
    if journal.folder is not None:
        sender = Sender(journal.folder, pipeline)
        sender.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        if sender is not None:
            sender.finish(failed)
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


def _send_stages(pipeline: str | None) -> None:
    """Send what is pending. Of a pipeline's stages, wait also for those that another process is sending.

    Raises:
        Exception: any of MLflow's, and those of `send_pending`.
    """
    deadline = time.monotonic() + _STAGES_SECONDS
    send_pending()
    while pipeline is not None and any(map(partial(_ended_stage_of, pipeline), pending_journals())):
        if time.monotonic() > deadline:
            return
        time.sleep(_STAGES_WAIT)
        send_pending()


def _ended_stage_of(pipeline: str, folder: Path) -> bool:
    """Say whether a journal for this store is of a stage of `pipeline` that has ended."""
    try:
        events, _ = read_events(folder)
    except (OSError, ValueError):  # sent in the meantime, or damaged
        return False
    of_kind = dict(events)
    run = of_kind.get("run", {"tags": {}})
    return "end" in of_kind and of_kind["store"] == shown_uri() and run["tags"].get("pipeline") == pipeline


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

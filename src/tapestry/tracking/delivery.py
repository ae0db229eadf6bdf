"""Sending journals to MLflow: as a run goes on, at its end, and later where the store didn't answer.

Sending anew what was sent before changes nothing, so a process that is killed meanwhile leaves nothing to sort out: a
run is found by the name of its journal, and MLflow keeps one of equal points of a curve.
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
from tapestry.tracking.experiment import complete
from tapestry.tracking.journal import EVENTS, FILES, Journal, left_journals, now_ms, owned, read_events
from tapestry.tracking.rows import find_runs, log, log_file, log_input
from tapestry.tracking.store import open_store, shown_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DRIVER = re.compile(r"^\([\w.]+\) ")  # SQLAlchemy puts the driver's class before its words
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds between tries of a store that fails
_SETTLED = 20  # seconds that a stage waits at its end for a store that answers
_GIVEN_UP = 2  # and for one that doesn't


class Delivery:
    """Sends one journal, from where it stopped last."""

    def __init__(self, folder: Path, client: MlflowClient, experiment_id: str) -> None:
        self._folder, self._client, self._experiment_id = folder, client, experiment_id
        self._read = 0
        self._run_id: str | None = None

    def advance(self) -> None:
        """Send what the journal has by now: figures first, then files, the end of the run last.

        Raises:
            Exception: any of MLflow's, when the store doesn't take it; the next call tries again.
        """
        events, end = read_events(self._folder, self._read)
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
        self._read = end

    def _create(self, run: Mapping[str, Any]) -> str:
        found = find_runs(self._client, self._experiment_id, {"journal": self._folder.name}, deleted=True)
        if found:
            return str(found[0].info.run_id)
        tags = {"journal": self._folder.name, "mlflow.runName": run["name"]} | run["tags"]
        return str(self._client.create_run(self._experiment_id, run["start"], tags, run["name"]).info.run_id)


def _merged(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}


class Sender(threading.Thread):
    """Sends this process's journal while it is written, so that a store which fails holds nothing up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="mlflow", daemon=True)
        self._folder = folder
        self._wake = threading.Event()
        self._ending = self._failing = False
        self._done = threading.Event()

    def run(self) -> None:
        wait, delivery = _FIRST_WAIT, None
        while True:
            last = self._ending  # before the journal is read: what was written before this is sent now
            try:
                if delivery is None:
                    delivery = Delivery(self._folder, *open_store())
                    with suppress(Exception):  # what is left of others is not to hold up this run
                        send_left()
                delivery.advance()
            except Exception as error:
                self._tell(error)
                delivery, wait = None, min(2 * wait, _LONGEST_WAIT)  # another time from the start
            else:
                if self._failing:
                    self._failing = False
                    print("MLflow: the store answers again; all figures are there", file=sys.stderr)
                wait = _FIRST_WAIT
                if last:
                    shutil.rmtree(self._folder, ignore_errors=True)
                    break
            self._wake.wait(wait)
            self._wake.clear()
        self._done.set()

    def finish(self) -> None:
        """Wait for the rest to be sent, as long as there is hope."""
        self._ending = True
        self._wake.set()
        for _ in range(_SETTLED):
            if self._done.wait(1):
                return
            if self._failing:
                self._done.wait(_GIVEN_UP)
                return
        self._tell(TapestryError(f"{shown_uri()} doesn't answer"))

    def _tell(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            print(
                f"MLflow: {for_terminal(explained(error))}; the run goes on, its figures are kept in "
                f"{self._folder.parent}, and `tapestry sync` sends them",
                file=sys.stderr,
            )


@contextmanager
def sent(journal: Journal) -> Iterator[None]:
    """Send a journal while the block writes it, and what is left after it as long as there is hope; then close it."""
    sender = None if journal.folder is None else Sender(journal.folder)  # without one the journal has said so
    if sender is not None:
        sender.start()
    try:
        yield
    finally:
        if sender is not None:
            sender.finish()
        journal.close()


def explained(error: Exception) -> str:
    """One line on why a store doesn't take what is sent."""
    if isinstance(error, TapestryError):
        return str(error)
    text = _DRIVER.sub("", str(error).strip()) or type(error).__name__
    return f"{shown_uri()}: {one_line(text.splitlines()[0])}"


def send_left() -> tuple[int, list[str]]:
    """Send the journals of processes that have ended. A run that was killed is ended, as far as is known.

    Returns:
        How many were sent, and a line on each that was not.

    Raises:
        TapestryError: the store can't be opened.
    """
    count, kept = 0, []
    store: tuple[MlflowClient, str] | None = None
    for folder in left_journals():
        with owned(folder) as ours:
            if not ours:
                continue
            try:
                address = _address(folder)
                if address != shown_uri():
                    kept.append(f"{folder.name}: it is for {address}; set MLFLOW_TRACKING_URI to it")
                    continue
                store = store or open_store()
                _end_killed(folder)
                Delivery(folder, *store).advance()
            except ValueError as error:
                kept.append(f"{folder}: damaged ({one_line(str(error))}); remove it")
                continue
            except TapestryError:
                raise
            except Exception as error:
                kept.append(f"{folder.name}: {explained(error)}")
                continue
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count, kept


def _address(folder: Path) -> str:
    events, _ = read_events(folder)
    return next((str(value) for kind, value in events if kind == "store"), "")


def _end_killed(folder: Path) -> None:
    """End a run in the journal of a process that was killed, when it wrote last."""
    events, end = read_events(folder)
    kinds = {kind for kind, _ in events}
    if "run" in kinds and "end" not in kinds:
        last = int((folder / EVENTS).stat().st_mtime * 1000)
        with (folder / EVENTS).open("r+b") as file:
            file.truncate(end)  # a line that was cut
            file.seek(end)
            for kind, value in (
                ("tags", {"error": "the process was killed"}),
                ("end", {"status": "KILLED", "time": min(last, now_ms())}),
            ):
                file.write((json.dumps([kind, value]) + "\n").encode())

"""The command `tapestry recommend`, run in the root of a checkout."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from tapestry.core.errors import TapestryError, one_line
from tapestry.core.settings import load_section
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.network import Recommender
from tapestry.model.request_time import LATEST
from tapestry.model.storage import load_model
from tapestry.recommending.catalogue import Catalogue, catalogue_of, read_catalogue
from tapestry.recommending.histories import History, read_histories
from tapestry.recommending.output import as_json, as_text, write_parquet
from tapestry.recommending.recommendations import (
    recommend,
    requests_of_histories,
    requests_of_users,
    user_indices,
)
from tapestry.recommending.top import Request
from tapestry.sequences.reader import read_sequences

MODEL, SEQUENCES = Path("models"), Path("data/sequences")
_SHOWN = 5


@dataclass(frozen=True)
class Options:
    """The command's options: for whom (users, a file of histories or everybody), which domains and day, which output.

    date: the day (UTC) of the requests; None: after all training data.
    """

    users: list[str]
    histories: Path | None
    everybody: bool
    domains: list[str]
    date: datetime | None
    k: int
    exclude_seen: bool
    out: Path | None
    json: bool


def run(options: Options) -> None:
    """Print the recommendations, or write them to `options.out`.

    Raises:
        TapestryError: options contradict each other, a user or domain is unknown, no item of the histories is known,
            or the model or the data are missing or damaged.
    """
    _check(options)
    settings = load_section(EvaluateSettings, "evaluate")
    make_deterministic(0, settings.threads)
    histories = None if options.histories is None else _read(options.histories)
    model, catalogue, requests, count = _for_users(options) if histories is None else _for_histories(options, histories)
    if options.date is not None and model.request_time is None and model.settings.recent_weight == 0:
        raise TapestryError(
            "--date: this model doesn't know the time; train one with `model.request_time: true` or a "
            "`model.recent_weight`"
        )
    model = model.to(choose_device(settings.device))
    bar = tqdm(requests, "recommend", count, unit="list", leave=False, disable=None if options.everybody else True)
    found = recommend(model, catalogue, bar, options.k, options.exclude_seen, settings.batch_users)
    if options.out is None:
        for line in as_json(found) if options.json else as_text(found):
            print(line)
    else:
        print(f"{options.out}: {write_parquet(found, options.out):,} rows")


def _check(options: Options) -> None:
    if sum((bool(options.users), options.histories is not None, options.everybody)) != 1:
        raise TapestryError("give one of --user ID, --history FILE and --everybody")
    if options.everybody and options.out is None and not options.json:
        raise TapestryError("--everybody needs --out FILE.parquet or --json")
    if options.out is not None and options.json:
        raise TapestryError("--out writes Parquet and --json prints: give only one of them")
    if options.out is not None and options.out.suffix != ".parquet":
        raise TapestryError(f"--out writes Parquet: {options.out} must end in .parquet")


def _for_users(options: Options) -> tuple[Recommender, Catalogue, Iterable[Request], int]:
    """Return the model, its catalogue, the requests and their number, for users of the data."""
    sequences = read_sequences(SEQUENCES)
    model, _ = load_model(MODEL, sequences.domains)
    catalogue = catalogue_of(sequences, model.settings)
    wanted = _domains(options, catalogue)
    users = range(len(sequences.user_id)) if options.everybody else user_indices(sequences, options.users)
    return model, catalogue, requests_of_users(sequences, users, wanted, _time(options)), len(users) * len(wanted)


def _for_histories(options: Options, histories: list[History]) -> tuple[Recommender, Catalogue, Iterable[Request], int]:
    """Return the same for given histories."""
    model, domains = load_model(MODEL)
    recent = read_sequences(SEQUENCES).known_counts if model.settings.recent_weight else None
    catalogue = read_catalogue(SEQUENCES / "items.parquet", domains, recent)
    wanted = _domains(options, catalogue)
    requests = list(requests_of_histories(catalogue, histories, wanted, _time(options)))
    _report_unknown(requests[:: len(wanted)])
    return model, catalogue, requests, len(requests)


def _time(options: Options) -> int:
    """Return the time of the requests in ms."""
    return LATEST if options.date is None else int(options.date.replace(tzinfo=UTC).timestamp() * 1000)


def _domains(options: Options, catalogue: Catalogue) -> list[int]:
    """Return the numbers of the named domains, each once; of all domains if none is named."""
    return [catalogue.domain_number(name) for name in dict.fromkeys(options.domains)] or [
        *range(len(catalogue.domains))
    ]


def _report_unknown(requests: list[Request]) -> None:
    """Print how many items of the histories are unknown. `requests`: one a history.

    Raises:
        TapestryError: no item of any history is known.
    """
    unknown = sum(request.unknown for request in requests)
    empty = [request.user_id for request in requests if len(request.history) == 0]
    if len(empty) == len(requests):
        raise TapestryError(
            f"no item of {'the history' if len(requests) == 1 else f'the {len(requests)} histories'} is known to the "
            f"model, so there is nothing to recommend from; the known ids are in {SEQUENCES / 'items.parquet'}"
        )
    if unknown:
        affected = sum(request.unknown > 0 for request in requests)
        print(f"unknown items skipped: {unknown:,}, in {affected:,} of {len(requests):,} histories", file=sys.stderr)
    if empty:
        shown = ", ".join(one_line(user_id) for user_id in empty[:_SHOWN]) + (", …" if len(empty) > _SHOWN else "")
        print(f"nothing recommended for {len(empty):,}, because none of their items is known: {shown}", file=sys.stderr)


def _read(path: Path) -> list[History]:
    """Read histories from a file, or from standard input if `path` is `-`."""
    if path == Path("-"):
        return read_histories(sys.stdin.buffer.read(), "standard input")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise TapestryError(f"{path}: no such file; --history reads item ids, one a line, or JSON lines") from error
    except IsADirectoryError as error:
        raise TapestryError(f"{path}: a folder; --history reads a file") from error
    return read_histories(content, str(path))

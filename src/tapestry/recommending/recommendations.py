"""Recommendations with the source's item ids, for users of the data and for given histories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tapestry.core.errors import TapestryError, shown
from tapestry.model.network import Recommender
from tapestry.model.request_time import LATEST
from tapestry.recommending.catalogue import Catalogue
from tapestry.recommending.histories import History
from tapestry.recommending.top import Request, top_items
from tapestry.sequences.reader import Sequences


@dataclass(frozen=True)
class Recommendation:
    """Items of a domain for a user, best first, with their scores.

    known, unknown: number of items of the history that the model knows, and that were skipped.
    """

    user_id: str
    domain: str
    items: list[str]
    scores: list[float]
    known: int
    unknown: int


def recommend(
    model: Recommender,
    catalogue: Catalogue,
    requests: Iterable[Request],
    k: int,
    exclude_seen: bool,
    batch_requests: int,
) -> Iterator[Recommendation]:
    """Yield the `top_items` of each request, with the ids of the source."""
    for request, top in top_items(model, catalogue, requests, k, exclude_seen, batch_requests):
        yield Recommendation(
            user_id=request.user_id,
            domain=catalogue.domains[request.domain].name,
            items=catalogue.item_id[top.item].tolist(),
            scores=top.score.tolist(),
            known=len(request.history),
            unknown=request.unknown,
        )


def requests_of_histories(
    catalogue: Catalogue, histories: Iterable[History], domains: Sequence[int], time: int = LATEST
) -> Iterator[Request]:
    """Yield a request for each history and domain number, at this time (ms).

    Raises:
        TapestryError: an id of a history names items of several domains, and its domain isn't given.
    """
    for history in histories:
        try:
            numbers, unknown = catalogue.numbers(history.item_ids, history.domains)
        except TapestryError as error:
            raise TapestryError(f"{history.user_id}: {error}") from error
        for domain in domains:
            yield Request(history.user_id, numbers, unknown, domain, time)


def requests_of_users(
    sequences: Sequences, users: Iterable[int], domains: Sequence[int], time: int = LATEST
) -> Iterator[Request]:
    """Yield a request for each user index and domain number, at this time (ms).

    The history is the user's whole one, test targets included.
    """
    for user in users:
        history = sequences.item[sequences.offsets[user] : sequences.offsets[user + 1]].astype(np.int64)
        for domain in domains:
            yield Request(str(sequences.user_id[user]), history, 0, domain, time)


def user_indices(sequences: Sequences, user_ids: Sequence[str]) -> list[int]:
    """Return the index of each user in `sequences`.

    Raises:
        TapestryError: a user is not in the data.
    """
    index = dict(zip(sequences.user_id.tolist(), range(len(sequences.user_id)), strict=True))
    for user_id in user_ids:
        if user_id not in index:
            raise TapestryError(
                f"user {shown(user_id)} is not among the {len(index):,} users of data/sequences; users with too few "
                "interactions are filtered out. Choose another user, or give the history with --history"
            )
    return [index[user_id] for user_id in user_ids]


def request_of_target(sequences: Sequences, target: int) -> Request:
    """Return the request that a test target answers: the history before it, its domain and its time.

    Args:
        target: index of an interaction.
    """
    user = sequences.user[target]
    return Request(
        user_id=str(sequences.user_id[user]),
        history=sequences.item[sequences.offsets[user] : target].astype(np.int64),
        unknown=0,
        domain=int(sequences.domain[target]),
        time=int(sequences.timestamp[target]),
    )

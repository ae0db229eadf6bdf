"""Recommendations in the ids of the source, for users of the data and for histories that users wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tapestry.core.errors import TapestryError, shown
from tapestry.model.network import Recommender
from tapestry.recommending.catalogue import Catalogue
from tapestry.recommending.histories import History
from tapestry.recommending.top import Request, top_items
from tapestry.sequences.reader import Sequences


@dataclass(frozen=True)
class Recommendation:
    """Items of a domain for a user, the best first, with their scores (cosines).

    known, unknown: how many items of the history the model knows, and how many were left out.
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
    """`top_items` of the requests, in the ids of the source."""
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
    catalogue: Catalogue, histories: Iterable[History], domains: Sequence[int]
) -> Iterator[Request]:
    """A request for each history and domain.

    Raises:
        TapestryError: a history's id is that of several domains' items, and its domain isn't given.
    """
    for history in histories:
        try:
            numbers, unknown = catalogue.numbers(history.item_ids, history.domains)
        except TapestryError as error:
            raise TapestryError(f"{history.user_id}: {error}") from error
        for domain in domains:
            yield Request(history.user_id, numbers, unknown, domain)


def requests_of_users(sequences: Sequences, users: Iterable[int], domains: Sequence[int]) -> Iterator[Request]:
    """A request for each user, by place, and domain: what comes after all that is known of them, test included."""
    for user in users:
        history = sequences.item[sequences.offsets[user] : sequences.offsets[user + 1]].astype(np.int64)
        for domain in domains:
            yield Request(str(sequences.user_id[user]), history, 0, domain)


def places_of_users(sequences: Sequences, user_ids: Sequence[str]) -> list[int]:
    """The place of each user.

    Raises:
        TapestryError: the data have no such user.
    """
    places = dict(zip(sequences.user_id.tolist(), range(len(sequences.user_id)), strict=True))
    for user_id in user_ids:
        if user_id not in places:
            raise TapestryError(
                f"user {shown(user_id)} is none of the {len(places):,} in data/sequences, where those with too few "
                "interactions are left out; give the history itself with --history"
            )
    return [places[user_id] for user_id in user_ids]

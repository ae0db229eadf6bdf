"""Scores of items by a trained model, and the ranks of targets by these scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tapestry.core.arrays import Integers
from tapestry.evaluation.ranking import Ranks, ScoreFunction, rank_targets, seen_items
from tapestry.model.network import Recommender
from tapestry.model.request_time import Requests
from tapestry.model.tensors import to_device
from tapestry.parallel.item_rows import RowExchange
from tapestry.parallel.processes import ALONE, Processes
from tapestry.sequences.batches import Batch, target_batches
from tapestry.sequences.reader import Sequences
from tapestry.sequences.recent import RecentCounts, log_of_aged_counts


def last_queries(model: Recommender, batch: Batch, table_UK: Tensor | None = None) -> Tensor:
    """Compute the query of each history's last token for its target domain and time: (B, K), on the model's device.

    Args:
        table_UK: item embeddings, of which `batch.item_N` are rows; by default the whole item embedding.
    """
    device = model.item.weight.device
    segments = model.arrange(batch, model.kernel(device))
    last_B = batch.offsets_B1[1:] - 1
    requests = Requests(segments.inverse_N[last_B], batch.target_domain_N[last_B], batch.target_time_N[last_B])
    query_BK: Tensor = model(
        to_device(batch, device), to_device(segments, device), table_UK, to_device(requests, device)
    )
    return query_BK


def item_scores(
    model: Recommender,
    query_BK: Tensor,
    items: slice,
    time_B: Integers,
    recent: RecentCounts | None,
    history: tuple[Integers, Integers] | None,
) -> Tensor:
    """Compute the scores of `items` for queries: (B, items).

    A score is the cosine of query and item. With `model.recent_weight`, it also has what recent counts add
    (`tapestry.sequences.recent`), and with `model.neighbour_weight` what the neighbours of the history's items add
    (`tapestry.sequences.neighbours`).

    Args:
        items: rows of the model's item embedding, of one domain.
        time_B: the times of the requests, in ms.
        recent: counts of all interactions known; not read without `model.recent_weight`.
        history: the items of the histories that are of that domain, in time order: (row of the query, item's number).
            Not read without `model.neighbour_weight`.
    """
    score_BI = query_BK @ model.item_vectors(items).T
    device = score_BI.device
    if model.trained_until is not None:
        assert recent is not None, "a model with recent_weight is asked for scores without counts"
        day_P, count_PI, row_B = recent.at(time_B, model.shard.numbers(items))
        added_PI = log_of_aged_counts(count_PI, model.settings.recent_weight, day_P - int(model.trained_until))
        score_BI.add_(torch.from_numpy(added_PI).to(device)[torch.from_numpy(row_B).to(device)])
    if model.neighbours is not None:
        assert history is not None, "a model with neighbour_weight is asked for scores without histories"
        place, value = model.neighbours.added(model.settings.neighbour_weight, history, model.shard.rows(items))
        # Each place comes once, so there is no sum whose order could matter.
        score_BI.view(-1)[torch.from_numpy(place).to(device)] += torch.from_numpy(value).to(device, score_BI.dtype)
    return score_BI


@torch.inference_mode()
def rank_by_model(
    model: Recommender,
    sequences: Sequences,
    targets: Integers,
    exclude_seen: bool,
    batch_users: int,
    processes: Processes = ALONE,
    recent: RecentCounts | None = None,
) -> Ranks:
    """Rank `targets` (indices of interactions) by the model's scores, `batch_users` histories at a time.

    Memory is bounded by a batch of histories and the scores of `rank_targets`, beside one number a target.

    Several processes share the batches. If each holds the whole model, ranks are exactly those of one process. If each
    holds a shard of the items, it computes the queries of its batches, and all score their items for every batch. A
    score may then differ in its last bit, so the ranks of items with almost equal scores may, too.

    Args:
        recent: what a model with `recent_weight` counts; by default all interactions, of which those before a request
            are known, of whatever user and split.
    """
    model.eval()
    sharded = model.shard.count > 1

    def chunks() -> Iterator[tuple[Integers, ScoreFunction]]:
        window = model.settings.window
        own = target_batches(sequences, targets, window, batch_users, processes.rank, processes.count)
        queries = ((chunk, last_queries(model, batch)) for chunk, batch in own)
        for chunk, query_BK in _of_all(own, model, processes, len(targets), batch_users) if sharded else queries:
            query_row = np.empty(len(targets), dtype=np.int64)
            query_row[chunk] = np.arange(len(chunk))
            yield chunk, partial(scores_of, query_BK, query_row)

    def scores_of(query_BK: Tensor, query_row: Integers, index: Integers, items: slice) -> Tensor:
        """Compute scores for targets `index`; the query of target t is row query_row[t] of `query_BK`."""
        rows = torch.from_numpy(query_row[index]).to(query_BK.device)
        history = None
        if model.neighbours is not None:
            domain = sequences.domains[sequences.domain[targets[index[0]]]]
            row, item = seen_items(sequences, targets[index], domain)
            history = row, item + domain.start
        return item_scores(model, query_BK[rows], items, sequences.timestamp[targets[index]], recent, history)

    if model.settings.recent_weight and recent is None:
        recent = sequences.known_counts
    return rank_targets(sequences, targets, exclude_seen, chunks(), processes, sharded)


def _of_all(
    own: Iterator[tuple[Integers, Batch]], model: Recommender, processes: Processes, targets: int, batch_users: int
) -> Iterator[tuple[Integers, Tensor]]:
    """Yield indices and queries of every batch, in order; each process computes the queries of its own batches."""
    table, width = model.item.weight, model.settings.width
    rows = RowExchange(table, processes)
    no_items = torch.empty(0, dtype=torch.int64, device=table.device)
    sizes = [min(batch_users, targets - first) for first in range(0, targets, batch_users)]
    for first in range(0, len(sizes), processes.count):
        mine = next(own, None)
        if mine is None:
            rows.read(no_items)  # the other processes read theirs
        else:
            chunk, batch = mine
            touched_U, local_N = batch.item_N.unique(return_inverse=True)
            table_UK = rows.read(touched_U.to(table.device))
            query_BK = last_queries(model, replace(batch, item_N=local_N), table_UK).contiguous()
        for holder, size in enumerate(sizes[first : first + processes.count]):
            here = holder == processes.rank
            told = chunk if here else np.empty(size, dtype=np.int64)
            processes.broadcast(torch.from_numpy(told), holder)
            yield told, processes.broadcast(query_BK if here else table.new_empty((size, width)), holder)

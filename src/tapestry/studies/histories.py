"""The same targets with other histories: what is the history in other domains worth?

`own_domain` leaves only the interactions in the target's domain. `exchanged` deals out the users' interactions of each
domain anew, among the users of that domain. So a target's history in its own domain stays what it is, and that in the
other domains is as real as before, but of other people (of n users, one in n keeps their own by chance).

Both return sequences with one user a training history, then one user a target: its history, which is not trained on,
and the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tapestry.core.arrays import Integers
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sequences.reader import Sequences

_HISTORY = 3  # a split of its own: neither trained on nor ranked


def own_domain(sequences: Sequences) -> Sequences:
    """Leave only the interactions in the target's domain; targets without any are left out."""
    parts = _parts(sequences)
    targets = []
    for part in parts.values():
        places = np.flatnonzero(np.isin(sequences.split[part], (VALIDATION, TEST)))
        targets += [(part[:place], int(part[place])) for place in places if place > 0]
    return _rebuilt(sequences, parts.values(), targets)


def exchanged(sequences: Sequences, seed: int) -> Sequences:
    """Exchange the interactions of each domain between its users, at random."""
    generator = np.random.default_rng(seed)
    parts = _parts(sequences)
    domains_of: dict[int, list[int]] = {}
    for user, domain in parts:
        domains_of.setdefault(user, []).append(domain)
    giver: dict[tuple[int, int], int] = {}
    for domain in range(len(sequences.domains)):
        users = [user for user, of_domain in domains_of.items() if domain in of_domain]
        giver |= {
            (user, domain): other for user, other in zip(users, generator.permutation(users).tolist(), strict=True)
        }
    training, targets = [], []
    for user, domains in domains_of.items():
        received = {domain: parts[giver[user, domain], domain] for domain in domains}
        merged = np.concatenate([received[domain] for domain in domains])
        merged = merged[np.argsort(sequences.timestamp[merged], kind="stable")]
        training.append(merged)
        for domain, part in received.items():
            others = merged[sequences.domain[merged] != domain]
            for place in np.flatnonzero(np.isin(sequences.split[part], (VALIDATION, TEST))):
                target = int(part[place])
                before = others[sequences.timestamp[others] < sequences.timestamp[target]]
                history = np.concatenate([part[:place], before])
                history = history[np.argsort(sequences.timestamp[history], kind="stable")]
                if len(history):
                    targets.append((history, target))
    return _rebuilt(sequences, training, targets)


def _parts(sequences: Sequences) -> dict[tuple[int, int], Integers]:
    """Return the interactions of each user and domain, in time order."""
    key = sequences.user * len(sequences.domains) + sequences.domain
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    return {divmod(int(key[part[0]]), len(sequences.domains)): part for part in np.split(order, starts[1:])}


def _rebuilt(sequences: Sequences, training: Iterable[Integers], targets: Sequence[tuple[Integers, int]]) -> Sequences:
    """Return sequences of these training histories (interactions not of training are dropped) and targets."""
    histories = [part[sequences.split[part] == TRAIN] for part in training]
    histories = [part for part in histories if len(part)]
    index = np.concatenate([*histories, *(np.append(history, target) for history, target in targets)])
    lengths = [*map(len, histories), *(len(history) + 1 for history, _ in targets)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.full(len(index), _HISTORY, dtype=np.int8)
    split[: offsets[len(histories)]] = TRAIN
    split[offsets[len(histories) + 1 :] - 1] = sequences.split[[target for _, target in targets]]
    owner = [*(part[0] for part in histories), *(target for _, target in targets)]
    return replace(
        sequences,
        item=sequences.item[index],
        domain=sequences.domain[index],
        timestamp=sequences.timestamp[index],
        split=split,
        offsets=offsets,
        user_id=sequences.user_id[sequences.user[owner]],
    )

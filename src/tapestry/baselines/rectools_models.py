"""SASRec and HSTU of the library RecTools (optional: `make peers`), trained in an environment of its own.

RecTools wants NumPy below 2, which Tapestry doesn't run with. So `rectools_training.py` is started with the Python of
that environment. Files in a temporary folder pass the sequences to it, and the vectors of requests and items back.

Source: https://github.com/MobileTeleSystems/RecTools
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tapestry.baselines.interface import Requests
from tapestry.baselines.ranks import rank_by_scores
from tapestry.baselines.settings import BaselineSettings
from tapestry.core.arrays import Integers
from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError
from tapestry.core.splits import VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import ScoreFunction
from tapestry.sequences.reader import Sequences

ENVIRONMENT = ".venv-rectools"
SCRIPT = Path(__file__).with_name("rectools_training.py")
# By default glibc returns large blocks to the system after each use, and RecTools' softmax over the catalogue spends
# half of its time on page faults of new blocks. These settings keep the blocks.
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=16000000000"}
_HEADS = 4


def rectools_python() -> Path:
    """Return the Python that has RecTools: of `.venv-rectools` beside the environment that runs, or in the checkout.

    Raises:
        TapestryError: there is none.
    """
    for folder in (Path(sys.prefix).parent, checkout_root()):
        python = folder / ENVIRONMENT / "bin/python"
        if python.exists():
            return python
    raise TapestryError(f"RecTools isn't installed: {checkout_root()} has no {ENVIRONMENT}; run `make peers`")


def export(sequences: Sequences, targets: Integers, file: Path) -> None:
    """Write the sequences and the targets in the format that `rectools_training.py` reads."""
    np.savez(
        file,
        item=sequences.item,
        offsets=sequences.offsets,
        split=sequences.split,
        timestamp=sequences.timestamp,
        targets=targets,
        items=np.array(sequences.items),
    )


class RecTools:
    """A model of RecTools, with a softmax over the whole catalogue; the epoch of the best validation NDCG@10 is kept.

    HSTU reads real times, also that of the request.
    """

    def __init__(self, model: Literal["sasrec", "hstu"]) -> None:
        self._model = model
        self._folder = tempfile.TemporaryDirectory(prefix="tapestry-rectools-")

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Train on the training interactions, and choose the epoch.

        Raises:
            TapestryError: RecTools isn't installed, the width doesn't suit it, there is nothing to validate on, or the
                training failed.
        """
        if settings.peers.width % _HEADS:
            raise TapestryError(f"peers.width: {settings.peers.width} is not divisible by {_HEADS}, RecTools' heads")
        self._settings = settings
        targets = sequences.targets(VALIDATION)
        if len(targets) == 0:
            raise TapestryError(f"{self._model}: there is no validation target to choose an epoch by")
        self._run(sequences, targets, "epochs", epochs=settings.peers.epochs)
        best = -1.0
        for epoch in range(1, settings.peers.epochs + 1):
            score = self._scores("epochs", str(epoch))
            ranks = rank_by_scores(self._model, score, sequences, targets, settings)
            found = ranking_metrics(ranks.rank, (10,))["ndcg_10"]
            print(f"epoch {epoch}: validation NDCG@10 {found:.4f}", flush=True)
            if found > best:
                best, self.best_epoch = found, epoch

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the products of the requests' vectors and those of items; what has no vector comes last."""
        network = Path(self._folder.name) / f"epochs/{self.best_epoch}.pt"
        self._run(requests.sequences, requests.targets, "requests", network=network)
        return self._scores("requests", str(self.best_epoch))

    def _run(self, sequences: Sequences, targets: Integers, name: str, **more: object) -> None:
        """Start the script, which writes vectors to the folder `name`."""
        folder, settings = Path(self._folder.name), self._settings
        python = rectools_python()
        (folder / name).mkdir(exist_ok=True)
        export(sequences, targets, folder / f"{name}.npz")
        options: dict[str, object] = {
            "data": folder / f"{name}.npz",
            "model": self._model,
            "width": settings.peers.width,
            "heads": _HEADS,
            "window": settings.peers.window,
            "loss": "softmax",
            "learning-rate": settings.peers.learning_rate,
            "dropout": settings.peers.dropout,
            "threads": settings.threads,
            "seed": settings.peers.seed,
            "report": folder / f"{name}.json",
            "vectors": folder / name,
            **more,
        }
        words = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run([python, "-P", SCRIPT, "--times", *words], env=kept | ALLOCATOR)
        if done.returncode != 0:
            raise TapestryError(f"{self._model}: RecTools ended with the exit code {done.returncode}; see above")

    def _scores(self, name: str, epoch: str) -> ScoreFunction:
        with np.load(Path(self._folder.name) / f"{name}/{epoch}.npz") as saved:
            query, item = (torch.from_numpy(saved[part]) for part in ("query", "item"))

        def score(index: Integers, items: slice) -> Tensor:
            return torch.nan_to_num(query[index] @ item[items].T, nan=-1e9)

        return score

"""The training step under torch's DistributedDataParallel (DDP), in a process group of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from small import WHOLE_MODEL, random_sequences
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender
from tapestry.parameters import Parameters
from tapestry.sequences.batches import pack
from tapestry.training.optimizer import Optimizer
from tapestry.training.steps import prepare_step


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_sees_the_gradients_of_all_parameters(process_group: None, parameters: Parameters) -> None:
    """DDP raises an error in the next forward pass if its hooks missed the gradient of a parameter."""
    sequences = random_sequences(0, items=90)
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    states = []
    for distributed in (False, True):
        torch.manual_seed(0)
        model = Recommender(WHOLE_MODEL, sequences.items, 3).eval()
        optimizer = Optimizer(model, parameters.train)
        forward: nn.Module = DistributedDataParallel(model) if distributed else model
        generator = np.random.default_rng(0)
        for _ in range(3):
            step = prepare_step(model, "tiled", sequences, np.arange(12), batch, 5, generator)
            table_UK = optimizer.read(step.touched_U)
            domain_softmax_loss(
                forward(step.batch, step.segments, table_UK), table_UK, step.targets, temperature=0.1
            ).backward()
            optimizer.step()
        states.append(model.state_dict())
    plain, under_ddp = states
    assert all(torch.equal(plain[name], under_ddp[name]) for name in plain)

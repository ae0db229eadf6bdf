"""The state of the target's domain: what the model last knew of the domain in which it is to recommend.

    query_i(d, t) = normalize(h_i + g ⊙ h_l(i,d) + A[period(t)])

d is the target's domain, which is known when a recommendation is asked for, and l(i, d) the last position of domain d
at or before i; without one the term is 0. g ∈ R^K is a learned gate. Where the domain stays, l(i, d) = i. Where it
switches, the query keeps what the last interaction *in the target's domain* led to, some positions back. DDSR can read
this state too, but by attention over the states of all domains, without knowing which one is asked for.

With `attention: intra_and_full` h_l is of the layers within domains, which only this term reads. Each entry of g is
`model.target_gate` at first.

This is ours, not the paper's. Suffixes: N tokens, R requests, K width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TargetState(nn.Module):
    """g ⊙ h_l(i,d) of this module's equation.

    Args:
        width: K. gate: g's entries at first.
    """

    def __init__(self, width: int, gate: float) -> None:
        super().__init__()
        self.gate_K = nn.Parameter(torch.full((width,), gate))

    def forward(self, hidden_NK: Tensor, last_R: Tensor) -> Tensor:
        """What each request's query gains, (R, K).

        Args:
            hidden_NK: h, the output of the last layer, in the order of the segments that `last_R` refers to.
            last_R: the token l(i, d) of each request; -1 where the domain has none.
        """
        state_RK = F.embedding(last_R.clamp(min=0), hidden_NK)
        return torch.where(last_R[:, None] >= 0, self.gate_K * state_RK, 0.0)

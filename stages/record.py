"""Complete the model's run in MLflow, also if DVC restored its outputs from the cache."""

from tapestry.core.checkout import require_root
from tapestry.parameters import load_parameters
from tapestry.tracking.record import record


def main() -> None:
    require_root()
    record(load_parameters())

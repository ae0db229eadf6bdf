"""Complete the row of this run of the pipeline in MLflow, also where DVC restored what it made from its cache."""

from tapestry.core.checkout import require_root
from tapestry.parameters import load_parameters
from tapestry.tracking.record import record


def main() -> None:
    require_root()
    record(load_parameters())

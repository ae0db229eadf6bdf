"""Complete the MLflow run of this pipeline run, also if DVC restored stages from its cache instead of running them."""

from tapestry.core.checkout import require_root
from tapestry.parameters import load_parameters
from tapestry.tracking.record import record


def main() -> None:
    require_root()
    record(load_parameters())

"""Complete the row of this run of the pipeline in MLflow, also where DVC restored what it made from its cache."""

import _start  # noqa: F401

from tapestry.checkout import require_root
from tapestry.config import load_parameters
from tapestry.tracking.record import record
from tapestry.tracking.runs import reported_errors


def main() -> None:
    require_root()
    record(load_parameters())


if __name__ == "__main__":
    with reported_errors("record"):
        main()

"""One page of figures and plots from the metrics, the model's resolved config and the parameters it names."""

from pathlib import Path

import _start  # noqa: F401

from tapestry.checkout import require_root
from tapestry.report.page import read_inputs, write_report
from tapestry.tracking.runs import reported_errors


def main() -> None:
    require_root()
    write_report(read_inputs(Path("metrics"), Path("models"), Path("params.yaml")), Path("reports/index.html"))


if __name__ == "__main__":
    with reported_errors("report"):
        main()

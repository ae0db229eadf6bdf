"""One page of figures and plots, from the metrics, the resolved settings of the model, and parameters."""

from pathlib import Path

from tapestry.core.checkout import require_root
from tapestry.report.page import read_inputs, write_report


def main() -> None:
    require_root()
    write_report(read_inputs(Path("metrics"), Path("models"), Path("params.yaml")), Path("reports/index.html"))

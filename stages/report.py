"""One page of figures and plots from the metrics and the model's resolved settings."""

from pathlib import Path

from tapestry.core.checkout import require_root
from tapestry.report.page import read_inputs, write_report


def main() -> None:
    require_root()
    write_report(read_inputs(Path("metrics"), Path("models")), Path("reports/index.html"))

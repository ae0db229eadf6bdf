"""Write the report: one page of metrics and plots, with the settings and parameters that made them."""

from pathlib import Path

from tapestry.core.checkout import require_root
from tapestry.report.page import read_inputs, write_report


def main() -> None:
    require_root()
    write_report(read_inputs(Path("metrics"), Path("models"), Path("params.yaml")), Path("reports/index.html"))

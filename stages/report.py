"""Write the report: one page of metrics and plots, with the settings and parameters that made them."""

from pathlib import Path

from tapestry.core.checkout import require_root
from tapestry.report.inputs import read_inputs
from tapestry.report.page import write_report


def main() -> None:
    require_root()
    inputs = read_inputs(
        Path("metrics"), Path("models"), Path("params.yaml"), Path("data/examples.json"), Path("studies")
    )
    write_report(inputs, Path("reports/index.html"))

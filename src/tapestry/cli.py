"""The console script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tapestry.errors import TapestryError
from tapestry.store import store_uri
from tapestry.tracking.delivery import send_left
from tapestry.tracking.runs import reported_errors

app = typer.Typer(
    help="Cross-domain sequential recommendation, from raw reviews to ranked items. Run the pipeline with `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def main() -> None:
    """Keep sub-commands named, however few they are."""


@app.command()
def figures(
    path: Annotated[Path, typer.Option(help="Test figures to show.")] = Path("metrics/test.json"),
) -> None:
    """Show the test figures of the model beside the baselines, in percent."""
    with reported_errors("figures"):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise TapestryError(f"{path}: no test figures ({error}); run `dvc repro`") from error
        rows = {"tapestry": metrics["all"], **metrics["baselines"]}
        names = [name for name in metrics["all"] if name != "n"]
        typer.echo(f"{metrics['all']['n']} test targets")
        typer.echo(f"{'':10}" + "".join(f"{name:>12}" for name in rows))
        for name in names:
            typer.echo(f"{name:10}" + "".join(f"{row[name]:12.2%}" for row in rows.values()))


@app.command()
def audit(
    rerun: Annotated[bool, typer.Option("--rerun", help="Reproduce the commit from raw files, and compare.")] = False,
    run: Annotated[str | None, typer.Option(help="Id of an old run in MLflow: reproduce and audit that.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="Markdown file for the certificate.")] = None,
) -> None:
    """Check that every figure leads back to the code, parameters and raw rows that made it; exit with 1 if one fails.

    UNKNOWN is what nothing here proves or refutes. MLflow keeps the certificate as an artifact of the model's row.
    """
    from tapestry.audit.run import run_audit  # here: it needs much that other commands don't

    with reported_errors("audit"):
        raise SystemExit(run_audit(run, rerun, as_json, certificate))


@app.command()
def sync() -> None:
    """Send MLflow the runs that it didn't take when they ran."""
    with reported_errors("sync"):
        sent, kept = send_left()
        typer.echo(f"{sent} run{'' if sent == 1 else 's'} sent")
        if kept:
            raise TapestryError("not sent: " + "\n".join(kept))


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Serve the MLflow UI of this checkout's store, to this machine only."""
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    raise SystemExit(subprocess.run([*command, "--backend-store-uri", store_uri()], env=environment).returncode)

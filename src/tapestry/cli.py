"""The console script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tapestry.checkout import enter_checkout
from tapestry.errors import TapestryError
from tapestry.tracking import reported_errors

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
    path: Annotated[Path | None, typer.Option(help="Test figures to show, if not this checkout's.")] = None,
) -> None:
    """Show the test figures of the model beside the baselines, in percent."""
    with reported_errors("figures"):
        if path is None:
            path = enter_checkout() / "metrics/test.json"
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


@app.command(name="plan")
def plan_command(
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="Preview a change: section.key=value, as DVC takes it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of stages with their reasons.")] = False,
) -> None:
    """Show what `dvc repro` would rerun, and why, without running or changing anything."""
    with reported_errors("plan"):
        root = enter_checkout()
        from tapestry import plan  # DVC's import takes a second

        plans = plan.plan(root, set_param or [])
        typer.echo(json.dumps(plan.as_json(plans), indent=2) if as_json else plan.as_text(plans))


@app.command(name="doctor")
def doctor_command(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend.")] = False,
) -> None:
    """Find what stops this checkout from running, such as what a killed run left, and say how to mend it."""
    from tapestry import doctor

    with reported_errors("doctor"):
        findings = doctor.examine(enter_checkout())
        for finding in findings:
            if fix and finding.fix is not None:
                finding.fix()
            state = "mend" if finding.fix is None else "mended" if fix else "with --fix"
            typer.echo(f"{finding.what}\n  {state}: {finding.mend}")
        if not findings:
            typer.echo("nothing is wrong")
        if any(finding.stops and not (fix and finding.fix) for finding in findings):
            raise typer.Exit(1)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Serve the MLflow UI of this checkout's store, to this machine only, until Ctrl-C."""
    from tapestry.ui import serve

    with reported_errors("ui"):
        enter_checkout()
        serve(port, typer.echo)

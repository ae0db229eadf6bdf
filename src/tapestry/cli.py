"""The command-line interface."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from tapestry.core.checkout import enter_checkout
from tapestry.core.errors import TapestryError
from tapestry.core.failures import reported_errors
from tapestry.tracking.delivery import send_pending
from tapestry.tracking.relocate import artifact_folder
from tapestry.tracking.relocate import relocate as relocate_store
from tapestry.tracking.store import open_store, shown_uri, store_file, store_uri

app = typer.Typer(
    help="Cross-domain sequential recommendation, from raw reviews to ranked items. Run the pipeline with `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
)


def _errors(command: str) -> AbstractContextManager[None]:
    return reported_errors(command, str(store_file() or store_uri()))


@app.callback()
def main() -> None:
    """Make Typer require a command's name, even if there were only one command."""


@app.command()
def figures(
    path: Annotated[Path | None, typer.Option(help="File of test metrics; default: this checkout's.")] = None,
) -> None:
    """Show the test metrics of the model and of the baselines, in percent."""
    with _errors("figures"):
        if path is None:
            path = enter_checkout() / "metrics/test.json"
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise TapestryError(f"{path}: no test metrics ({error}); run `dvc repro`") from error
        rows = {"tapestry": metrics["all"], **metrics["baselines"]}
        names = [name for name in metrics["all"] if name != "n"]
        typer.echo(f"{metrics['all']['n']} test targets")
        widths = {name: max(12, len(name) + 2) for name in rows}
        first = max(map(len, names))
        typer.echo(" " * first + "".join(f"{name:>{width}}" for name, width in widths.items()))
        for name in names:
            typer.echo(f"{name:{first}}" + "".join(f"{row[name]:{widths[method]}.2%}" for method, row in rows.items()))


@app.command(name="plan")
def plan_command(
    set_param: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", help="Preview a change: section.key=value, in DVC's syntax."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of stages with their reasons.")] = False,
) -> None:
    """Show what `dvc repro` would rerun, and why, without running or changing anything."""
    with _errors("plan"):
        root = enter_checkout()
        from tapestry.planning.plan import plan  # DVC's import takes a second
        from tapestry.planning.stage_plan import as_json as plans_as_json
        from tapestry.planning.stage_plan import as_text

        plans = plan(root, set_param or [])
        typer.echo(json.dumps(plans_as_json(plans), indent=2) if as_json else as_text(plans))


@app.command(name="doctor")
def doctor_command(
    fix: Annotated[bool, typer.Option("--fix", help="Fix what is safe to fix automatically.")] = False,
) -> None:
    """Find what stops this checkout from running, such as leftovers of a killed run, and say how to fix it."""
    from tapestry.doctor.examine import examine

    with _errors("doctor"):
        findings = examine(enter_checkout())
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
def audit(
    rerun: Annotated[bool, typer.Option("--rerun", help="Reproduce the commit from raw files and compare.")] = False,
    run: Annotated[str | None, typer.Option(help="Id of an old MLflow run to reproduce and audit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="Markdown file for the certificate.")] = None,
) -> None:
    """Check that every metric is traced back to its code, parameters and raw rows; exit with 1 if a claim fails.

    UNKNOWN means that the evidence is missing. MLflow keeps the certificate as an artifact of the model's run.
    """
    from tapestry.audit.command import (
        run_audit,  # not at the top: its imports are slow, and other commands don't need them
    )

    with _errors("audit"):
        raise SystemExit(run_audit(run, rerun, as_json, certificate))


@app.command()
def sync() -> None:
    """Send the runs to MLflow that could not be sent when they ran."""
    with _errors("sync"):
        enter_checkout()
        sent, unsent = send_pending()
        typer.echo(f"{sent} run{'' if sent == 1 else 's'} sent")
        if unsent:
            raise TapestryError("not sent: " + "\n".join(unsent))


@app.command()
def relocate() -> None:
    """Make a store that was moved or copied find its artifacts beside it. Every pipeline run does this too."""
    with _errors("relocate"):
        enter_checkout()
        file = store_file()
        if file is None:
            raise TapestryError(f"{shown_uri()} is no SQLite store: only SQLite stores can be relocated")
        if not file.is_file():
            raise TapestryError(f"{file}: there is no store yet; run `dvc repro`")
        typer.echo(relocate_store(file) or f"nothing to do: the artifacts of {file} are in {artifact_folder(file)}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000) -> None:
    """Serve the MLflow UI of this checkout's store, to this machine only, until Ctrl-C."""
    from tapestry.tracking.ui import serve

    with _errors("ui"):
        enter_checkout()
        serve(port, typer.echo)


@app.command()
def recommend(
    user: Annotated[list[str] | None, typer.Option(help="A user id; test items are part of the history.")] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="A file (- for standard input): item ids in time order, one a line, or JSON lines."),
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="All users of the data.")] = False,
    domain: Annotated[list[str] | None, typer.Option(help="A domain to recommend in; default: all.")] = None,
    date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day of the request; default: after the data.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Also recommend items in the history.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write Parquet: user_id, domain, rank, item_id, score.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Recommend the model's highest-ranked items: for users, for histories in a file, or for all users.

    --user and --domain may be repeated. A line of JSON is {"user_id": text, "history": list of ids}, or only the list.
    An id that exists in several domains is written {"item_id": id, "domain": name}. Unknown items are counted and
    skipped.
    """
    with _errors("recommend"):
        from tapestry.recommending import command

        options = command.Options(
            users=user or [],
            histories=history and (history if str(history) == "-" else history.absolute()),
            everybody=everybody,
            domains=domain or [],
            date=date,
            k=k,
            exclude_seen=not keep_seen,
            out=out and out.absolute(),
            json=as_json,
        )
        enter_checkout()
        command.run(options)


@app.command()
def champion(
    version: Annotated[int | None, typer.Option(help="Make this version the champion.")] = None,
    run: Annotated[str | None, typer.Option(help="Make the model of this MLflow run the champion.")] = None,
) -> None:
    """Show the registered models and the champion among them, or choose another champion by hand."""
    with _errors("champion"):
        from tapestry.tracking import registry

        if version is not None and run is not None:
            raise TapestryError("give --version or --run, not both")
        enter_checkout()
        file = store_file()
        if file is not None and not file.exists():
            raise TapestryError(f"{file}: no MLflow store yet; run `dvc repro`")
        client, _ = open_store()
        if version is not None or run is not None:
            registry.choose(client, version, run)
        for line in registry.table(client):
            typer.echo(line)

"""`tapestry plan` compared with what DVC then does, in checkouts with simple scripts instead of the real stages."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkouts import commit, entered_copy, make_checkout, run_in, set_parameters, snapshot
from typer.testing import CliRunner

from tapestry.cli import app
from tapestry.core.errors import TapestryError
from tapestry.planning.plan import plan
from tapestry.planning.stage_plan import StagePlan

BASELINES = {"baseline@item_knn", "baseline@popularity", "baseline@recent_popularity"}
AFTER_RAW = {"sessionize", *BASELINES, "train", "evaluate", "figures", "report"}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `dvc repro`; the run cache also has the results of a narrower model."""
    folder = make_checkout(tmp_path_factory.mktemp("plan") / "checkout")
    width = 16
    for state_dim in (width, 64):
        set_parameters(folder, {"model.state_dim": state_dim})
        run_in(folder, "dvc", "repro")
    commit(folder)
    return folder


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered_copy(reproduced, tmp_path, monkeypatch)


def by_action(plans: list[StagePlan], action: str) -> set[str]:
    return {plan.stage for plan in plans if plan.action == action}


def reasons(plans: list[StagePlan], stage: str) -> list[str]:
    return [str(reason) for plan in plans if plan.stage == stage for reason in plan.reasons]


def check_against(plans: list[StagePlan], printed: str) -> set[str]:
    """Compare a plan with what DVC printed about the stages; return the stages that DVC ran."""
    ran = set(re.findall(r"Running stage '([^']+)'", printed)) - by_action(plans, "always")
    restored = set(re.findall(r"Stage '([^']+)' is cached", printed))
    same = set(re.findall(r"Stage '([^']+)' didn't change", printed))
    action = {name: by_action(plans, name) for name in ("unchanged", "run", "restore", "maybe")}
    assert action["run"] <= ran <= action["run"] | action["maybe"]
    assert action["restore"] <= restored <= action["restore"] | action["maybe"]
    assert action["unchanged"] <= same <= action["unchanged"] | action["maybe"]
    assert by_action(plans, "always") >= {"source"}
    return ran


def test_a_studys_stages_are_not_planned_as_dvc_does_not_run_them(checkout: Path) -> None:
    before = plan(checkout)
    (checkout / "studies/dvc.yaml").write_text("stages: {study: {cmd: 'false', deps: [../params.yaml]}}")
    assert plan(checkout) == before
    assert {stage.action for stage in plan(checkout, ["model.state_dim=32"])} == {"always", "unchanged", "run", "maybe"}
    assert "study" not in run_in(checkout, "dvc", "repro")


@pytest.mark.parametrize(
    ("overrides", "run", "maybe", "restored"),
    [
        ([], set(), set(), set()),
        (["model.state_dim=32"], {"train"}, {"evaluate", "figures", "report"}, set()),
        (["model.state_dim=16"], {"figures"}, {"report"}, {"train", "evaluate"}),
        (["evaluate.ks=[1,2]", "train.epochs=3"], {"train", "figures"}, {"evaluate", "report"}, set()),
        (["ingest.threads=1"], {"ingest@Books", "ingest@Toys"}, AFTER_RAW, set()),
        (["synthetic.users=30"], {"fetch@Books", "fetch@Toys"}, {"ingest@Books", "ingest@Toys"} | AFTER_RAW, set()),
        (["params.yaml:train.learning_rate=1e-5"], {"train"}, {"evaluate", "figures", "report"}, set()),
    ],
)
def test_a_change_reruns_what_the_plan_says(
    checkout: Path, overrides: list[str], run: set[str], maybe: set[str], restored: set[str]
) -> None:
    before = snapshot(checkout)
    plans = plan(checkout, overrides)
    assert snapshot(checkout) == before
    assert (by_action(plans, "run"), by_action(plans, "maybe"), by_action(plans, "restore")) == (run, maybe, restored)
    command = ["exp", "run", *(word for override in overrides for word in ("-S", override))] if overrides else ["repro"]
    check_against(plans, run_in(checkout, "dvc", *command))


@pytest.mark.parametrize("domains", [["Books", "Music"], ["Books", "Toys", "Music"]])
def test_a_change_of_domains_adds_and_removes_stages(checkout: Path, domains: list[str]) -> None:
    before = snapshot(checkout)
    plans = plan(checkout, [f"source.domains=[{','.join(domains)}]"])
    assert snapshot(checkout) == before
    assert "fetch@Music" in by_action(plans, "run")
    assert {"ingest@Music", "sessionize"} <= by_action(plans, "maybe")
    assert by_action(plans, "gone") == ({"fetch@Toys", "ingest@Toys"} if "Toys" not in domains else set())
    if "Toys" in domains:
        assert reasons(plans, "fetch@Books") == ["data/source/Books.json: domains: 2 → 3"]
    expected = json.dumps(domains)
    assert reasons(plans, "sessionize") == [f'source.domains: ["Books", "Toys"] → {expected}']
    set_parameters(checkout, {"source.domains": domains})
    check_against([plan for plan in plans if plan.action != "gone"], run_in(checkout, "dvc", "repro"))


def edit_code(folder: Path) -> None:
    with (folder / "src/tapestry/model/network.py").open("a") as file:
        file.write("# changed\n")


def edit_command(folder: Path) -> None:
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("stages/run.py train\n", "stages/run.py train -\n", 1))


def edit_output(folder: Path) -> None:
    (folder / "metrics/test.json").write_text("{}")


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


@pytest.mark.parametrize(
    ("file", "run", "maybe"),
    [
        ("model/settings.py", {"train"}, {"evaluate", "figures", "report"}),
        ("ingest/classify.py", {"ingest@Books", "ingest@Toys"}, AFTER_RAW),
        ("report/page.py", {"report"}, set()),
    ],
)
def test_a_change_of_code_reruns_the_stages_of_its_package_and_what_follows(
    checkout: Path, file: str, run: set[str], maybe: set[str]
) -> None:
    with (checkout / "src/tapestry" / file).open("a") as code:
        code.write("# changed\n")
    plans = plan(checkout)
    assert (by_action(plans, "run"), by_action(plans, "maybe")) == (run, maybe)


EVERY = {"fetch@Books", "fetch@Toys", "ingest@Books", "ingest@Toys"} | AFTER_RAW


@pytest.mark.parametrize(
    ("spoil", "stage", "reason"),
    [
        (edit_code, "train", "code src/tapestry/model has changed"),
        (edit_command, "train", "its command is now sh stages/python stages/run.py train -"),
        (edit_output, "figures", "output metrics/test.json has changed"),
        (remove("models"), "train", "output models is missing"),
        (remove("data/raw", "data/interactions"), "ingest@Toys", "output data/interactions/Toys.parquet is missing"),
        (remove("data", "models", "metrics", "reports"), "fetch@Books", "output data/raw/Books is missing"),
        (remove("data", ".dvc/cache"), "sessionize", "output data/sequences isn't in DVC's cache"),
        (remove("dvc.lock"), "train", "it has never run"),
        (remove("dvc.lock", ".dvc/cache"), "report", "it has never run"),
    ],
)
def test_a_changed_or_missing_file_is_named(
    checkout: Path, spoil: Callable[[Path], None], stage: str, reason: str
) -> None:
    spoil(checkout)
    before = snapshot(checkout)
    plans = plan(checkout)
    assert snapshot(checkout) == before
    assert reason in reasons(plans, stage)
    assert {plan.stage for plan in plans} == EVERY | by_action(plans, "always")
    check_against(plans, run_in(checkout, "dvc", "repro"))


def test_an_unchanged_output_stops_the_rerun(checkout: Path) -> None:
    """The plan says only that later stages may rerun, and they don't."""
    plans = plan(checkout, ["ingest.threads=1"])
    set_parameters(checkout, {"ingest.threads": 1})
    assert check_against(plans, run_in(checkout, "dvc", "repro")) == {"ingest@Books", "ingest@Toys"}


def test_a_filter_that_is_reset_restores_the_sequences_and_all_that_follows(checkout: Path) -> None:
    set_parameters(checkout, {"sessionize.max_length": 20})
    assert check_against(plan(checkout), run_in(checkout, "dvc", "repro")) == AFTER_RAW
    set_parameters(checkout, {"sessionize.max_length": 512})
    plans = plan(checkout)
    assert by_action(plans, "restore") == {"sessionize", *BASELINES, "train", "evaluate"}
    assert check_against(plans, run_in(checkout, "dvc", "repro")) == {"figures"}
    assert plan(checkout, []) == [StagePlan(p.stage, p.action if p.action == "always" else "unchanged") for p in plans]


def test_a_users_new_raw_file_is_seen_before_source_runs(checkout: Path) -> None:
    (checkout / "raw").mkdir()
    for domain in ("Books", "Toys"):
        (checkout / "raw" / f"{domain}.csv").write_text("user_id,item_id,timestamp\nu,i,1\n")
    set_parameters(checkout, {"source.release": "files", "source.path": "raw"})
    run_in(checkout, "dvc", "repro")
    with (checkout / "raw/Toys.csv").open("a") as file:
        file.write("u,j,2\n")
    plans = plan(checkout)
    assert by_action(plans, "run") == {"fetch@Toys"}
    assert reasons(plans, "fetch@Toys")[0] == "data/source/Toys.json: bytes: 32 → 38"
    assert check_against(plans, run_in(checkout, "dvc", "repro")) == {"fetch@Toys", "ingest@Toys"} | AFTER_RAW


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epoch=3"], "-S train.epoch=3: there is no parameter train.epoch; similar names: train.epochs"),
        (["state_dim=3"], "-S state_dim=3: there is no parameter state_dim; similar names: model.state_dim"),
        (["+train.size=3"], "-S +train.size=3: there is no parameter train.size; similar names: train.seed"),
        (["zzz=1"], "-S zzz=1: there is no parameter zzz; all names are in params.yaml"),
        (["~train.epochs"], "-S ~train.epochs: train.epochs: missing"),
        (["train.epochs=x"], "-S train.epochs=x: train.epochs: expected a whole number, got 'x'"),
        (["train.epochs=0"], "-S train.epochs=0: train.epochs: 0 is below 1"),
        (
            ["model.heads=4", "model.state_dim=6"],
            "-S model.heads=4 -S model.state_dim=6: model.state_dim: 6 is not divisible by model.heads = 4",
        ),
        (["train.epochs=1,2"], "-S train.epochs=1,2: several values are a sweep, which only `dvc exp run --queue` "),
        (["train.epochs"], "-S 'train.epochs': not section.key=value ("),
        (["other.yaml:a=1"], "-S other.yaml:a=1: changes other.yaml; the pipeline's parameters are in params.yaml"),
    ],
)
def test_a_bad_override_is_one_line(checkout: Path, overrides: list[str], message: str) -> None:
    before = snapshot(checkout)
    with pytest.raises(TapestryError) as failure:
        plan(checkout, overrides)
    assert str(failure.value).startswith(message)
    assert "\n" not in str(failure.value)
    assert snapshot(checkout) == before


def test_the_command_prints_a_line_a_stage_from_any_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout / "src")
    result = CliRunner().invoke(app, ["plan", "-S", "model.state_dim=32"])
    lines = result.output.splitlines()
    width = len("baseline@recent_popularity")
    assert f"{'source':{width}}  always runs" in lines
    assert f"{'sessionize':{width}}  unchanged" in lines
    assert f"{'train':{width}}  would rerun: model.state_dim: 64 → 32" in lines
    assert f"{'evaluate':{width}}  may rerun, only if what it reads changes: models (of train)" in lines
    assert lines[-1] == (
        f"of {len(lines) - 1} stages 1 would rerun, 3 may, 0 would come from DVC's cache; nothing was run or changed"
    )


def test_the_command_prints_json(checkout: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--json", "-S", "evaluate.ks=[1,2]"])
    entries = {entry["stage"]: entry for entry in json.loads(result.output)}
    assert entries["figures"]["action"] == "run"
    assert entries["figures"]["reasons"] == [
        {
            "kind": "parameter",
            "name": "evaluate.ks",
            "change": "modified",
            "old": [1, 5, 10, 20, 50, 100],
            "new": [1, 2],
        }
    ]


def test_outside_a_checkout_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["plan"])
    assert result.exit_code == 1
    assert result.output == (
        f"plan: error: {tmp_path} is in no checkout of Tapestry (a folder with dvc.yaml and .dvc): change to one\n"
    )


def test_without_a_git_repository_the_fix_is_named(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    with pytest.raises(TapestryError) as failure:
        plan(checkout)
    assert str(failure.value) == (
        f"{checkout} is in no git repository, which DVC needs: `git init && git add --all && git commit -m start`"
    )
    run_in(checkout, "git", "init", "--quiet")
    assert plan(checkout)  # only experiments need a commit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("params.yaml", None, "{root}/params.yaml not found"),
        ("params.yaml", "train: 1", "{root}/params.yaml: source: missing"),
        (
            "dvc.yaml",
            "stages: [",
            "DVC can't read {root}: unable to read: 'dvc.yaml', YAML file structure is corrupted",
        ),
        (
            "dvc.lock",
            "",
            "DVC can't read {root}: './dvc.lock' validation failed; `tapestry doctor` finds what a killed",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(checkout: Path, name: str, content: str | None, message: str) -> None:
    (checkout / name).unlink()
    if content is not None:
        (checkout / name).write_text(content)
    with pytest.raises(TapestryError) as failure:
        plan(checkout)
    assert str(failure.value).startswith(message.format(root=checkout))
    assert "\n" not in str(failure.value)

"""A pipeline that is killed at any moment ends, at the next `dvc repro`, in the bytes of one that never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

from checkouts import environment, set_parameters
from tiny_checkout import read_yaml, run, run_for_output

KILLS, LONGEST = 6, 9.0  # seconds until a kill
STAGE_KILLS = 10
STAGES = ("source", "fetch", "ingest", "sessionize", "baseline", "train", "evaluate", "figures", "report")


def undone(checkout: Path) -> None:
    """Remove what the pipeline has made, also from DVC's cache."""
    for name in ("models", "reports", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(checkout / name, ignore_errors=True)
    for path in (checkout / "data").iterdir():
        if path.name != "README.md":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in [*(checkout / "metrics").iterdir(), checkout / "dvc.lock"]:
        path.unlink()


def test_a_pipeline_that_is_killed_at_random_moments_ends_in_the_same_bytes(reproduced: Path, tmp_path: Path) -> None:
    """SIGKILL reaches DVC and its stage at once, as when a machine's power is cut."""
    checkout = shutil.copytree(reproduced, tmp_path / "checkout", symlinks=True)
    lock = read_yaml(checkout / "dvc.lock")
    undone(checkout)
    moments = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        with subprocess.Popen(
            ["dvc", "repro", "--quiet"], cwd=checkout, env=environment(), start_new_session=True
        ) as process:
            try:
                process.wait(moments.uniform(0.5, LONGEST))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
        run(["tapestry", "doctor", "--fix"], checkout)
    assert killed > 1
    run(["dvc", "repro"], checkout)
    assert read_yaml(checkout / "dvc.lock") == lock


def test_each_stage_that_is_killed_at_random_moments_leaves_nothing_half_written(
    reproduced: Path, tmp_path: Path
) -> None:
    """The kills fall into a stage's own work: they come while it runs in a process that has imported all it needs."""
    checkout = shutil.copytree(reproduced, tmp_path / "checkout", symlinks=True)
    stages = read_yaml(checkout / "dvc.lock")["stages"]
    ordered = [name for of in STAGES for name in stages if name.partition("@")[0] == of]
    case = {
        "seed": 7,
        "kills": STAGE_KILLS,
        "finished": str(reproduced),
        "outputs": {name: [out["path"] for out in stages[name]["outs"]] for name in ordered},
    }
    undone(checkout)
    script = Path(__file__).with_name("killed_stages.py")
    killed = json.loads(run_for_output(["python", str(script), json.dumps(case)], checkout))
    assert list(killed) == ordered
    assert all(killed.values()), killed


def test_a_training_that_is_ended_by_sigterm_goes_on_from_its_checkpoint(reproduced: Path, tmp_path: Path) -> None:
    checkout = shutil.copytree(reproduced, tmp_path / "checkout", symlinks=True)
    set_parameters(checkout, {"train.epochs": 30, "train.patience": 30})
    command = ["python", "stages/run.py", "train"]
    with subprocess.Popen(
        command, cwd=checkout, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("epoch 3:"):
            assert process.poll() is None
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.endswith("train: error: ended by SIGTERM; the next `dvc repro` goes on from a checkpoint\n")
    assert len(list((checkout / "checkpoints").glob("*/*"))) == 1
    resumed = run(command, checkout)
    assert resumed.splitlines()[0].startswith("continues a checkpoint: ")
    assert [line.partition(":")[0] for line in resumed.splitlines() if line.startswith("epoch")] == [
        f"epoch {number}" for number in range(1, 31)
    ]
    assert not list((checkout / "checkpoints").iterdir())
    models = {path.name: path.read_bytes() for path in (checkout / "models").iterdir()}
    assert "continues" not in run(command, checkout)
    assert {path.name: path.read_bytes() for path in (checkout / "models").iterdir()} == models

"""Find what killed processes left in a checkout: files of DVC, and temporary folders of Tapestry's writers.

Source of DVC's files: dvc/rwlock.py and dvc/repo/experiments in DVC's code.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tapestry.core.atomic import atomic_file, final_path, temporary_folder, try_lock
from tapestry.core.errors import one_line
from tapestry.doctor.finding import Finding, try_git

_PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}\.partial")
_MOVED = re.compile(r"checkout: moving from \S+ to [0-9a-f]{40}")
_NOT_OURS = {".git", ".venv", ".venv-rectools", "cache", "node_modules", "__pycache__"}
_RUNNING = 2  # DVC's status of a running experiment; 0 and 1 are those of experiments that wait


def running_dvc(root: Path) -> list[str]:
    """List the DVC processes that run in a checkout, as `PID 123: dvc repro`.

    If there is only a lock, a text says so.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if _is_dvc(words) and Path(process.cwd()).is_relative_to(root):
                found.append(f"PID {process.pid}: {one_line(' '.join(['dvc', *words[2:]]), 60)}")
    return found or (["a process that holds .dvc/tmp/lock"] if _locked(root / ".dvc/tmp/lock") else [])


def _is_dvc(words: list[str]) -> bool:
    return any(Path(word).name == "dvc" for word in words[:3])


def truncated_files(root: Path) -> Iterator[Finding]:
    """Find incomplete files of DVC. It writes them in place, so a kill can truncate them; then all commands fail."""
    for name in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):
        if (root / name).exists() and _entries(root / name) is None:
            yield Finding(f"{name}: truncated by a kill; DVC can't read it", "removed", (root / name).unlink)
    lock = root / "dvc.lock"
    text = lock.read_text(encoding="utf-8", errors="replace") if lock.exists() else "\n"
    if "<<<<<<< " in text:
        what = "dvc.lock: contains conflicts of a merge"
        yield Finding(what, "`git checkout --ours dvc.lock` (or --theirs), `dvc repro`")
    elif not text.endswith("\n") or not _is_lock(text):
        yield Finding(
            "dvc.lock: truncated by a kill; DVC can't read it",
            "restored from git; `dvc repro` then restores from its cache what was made since",
            partial(_restore, root, "dvc.lock"),
        )


def _is_lock(text: str) -> bool:
    try:
        content = YAML(typ="safe").load(text)
    except YAMLError:
        return False
    return text == "\n" or (isinstance(content, dict) and "schema" in content)


def _restore(root: Path, name: str) -> None:
    """Restore a file from HEAD; remove it if HEAD doesn't have it."""
    committed = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=root, capture_output=True)
    if committed.returncode == 0:
        with atomic_file(root / name) as temporary:
            temporary.write_bytes(committed.stdout)
    else:
        (root / name).unlink()


def _entries(path: Path) -> dict[str, Any] | None:
    """Read DVC's list of the processes that read and write each file; None if the list is truncated."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(content.get(mode, {}), dict) for mode in ("read", "write")):
            return dict(content)
    except (ValueError, AttributeError):
        pass
    return None


def stale_lock_entries(root: Path) -> Iterator[Finding]:
    """Find entries of dead processes in DVC's lists.

    DVC removes them itself, unless another process has the same process id now: then DVC waits for that process.
    """
    for name in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):
        path = root / name
        content = _entries(path) if path.exists() else None
        dead = _without_dead(content)[1] if content else 0
        if dead:
            yield Finding(
                f"{name}: entries of processes that have ended ({dead})", "removed", partial(_drop, path), False
            )


def _drop(path: Path) -> None:
    with (path.parent / "rwlock.lock").open("a") as guard:  # the lock that DVC holds for each change of the file
        fcntl.flock(guard, fcntl.LOCK_EX)
        content = _entries(path)
        if content is not None:
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(_without_dead(content)[0]), encoding="utf-8")


def _without_dead(content: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the entries of living processes, and the number of removed ones."""
    read, write = content.get("read", {}), content.get("write", {})
    living = {path: [info for info in infos if _is_alive(info)] for path, infos in read.items()}
    kept = {
        "write": {path: info for path, info in write.items() if _is_alive(info)},
        "read": {path: infos for path, infos in living.items() if infos},
    }
    dead = sum(len(infos) - len(living[path]) for path, infos in read.items()) + len(write) - len(kept["write"])
    return kept, dead


def _is_alive(info: dict[str, Any]) -> bool:
    """Return whether the process of an entry is alive: its id may belong to another program by now."""
    try:
        words = psutil.Process(info["pid"]).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
    return _is_dvc(words) or " ".join(words).endswith(info["cmd"])


def detached_head(root: Path) -> Iterator[Finding]:
    """Find a detached HEAD: `dvc exp run` detaches it, and after a kill new commits would be on no branch."""
    if try_git(root, "symbolic-ref", "--quiet", "HEAD") is not None:
        return
    # DVC checks out the full hash; a user who detaches HEAD usually gives a short one, or a tag.
    moved = _MOVED.fullmatch(try_git(root, "reflog", "-1", "--format=%gs") or "")
    running = try_git(root, "rev-parse", "--quiet", "--verify", "refs/exps/exec/EXEC_MERGE") is not None
    head, branch = try_git(root, "rev-parse", "HEAD"), try_git(root, "rev-parse", "--abbrev-ref", "@{-1}")
    if branch is None or head != try_git(root, "rev-parse", f"refs/heads/{branch}") or not (moved or running):
        return
    what = "git's HEAD is detached, as a killed `dvc exp run` leaves it"
    if running:
        yield Finding(what, f"attached to branch {branch}, no file is changed", partial(_attach, root, branch), False)
    else:  # killed before the experiment ran, perhaps with the user's changes in a stash
        stashed = try_git(root, "rev-parse", "--quiet", "--verify", "refs/stash^") == head
        pop = ", then `git stash pop`: DVC had stashed your changes" if stashed else ""
        yield Finding(what, f"`git switch {branch}`{pop}", stops=False)


def _attach(root: Path, branch: str) -> None:
    try_git(root, "symbolic-ref", "HEAD", f"refs/heads/{branch}")
    for name in ("EXEC_BRANCH", "EXEC_MERGE", "EXEC_BASELINE"):
        try_git(root, "update-ref", "-d", f"refs/exps/exec/{name}")


def killed_experiments(root: Path) -> Iterator[Finding]:
    """Find the temporary checkouts of killed experiments, which `dvc exp show` lists as still running."""
    exps = root / ".dvc/tmp/exps"
    infos: dict[Path, list[tuple[Path, dict[str, Any]]]] = {}
    for file in (*exps.glob("run/*/*.run"), *exps.glob("standalone/run/*/*.run")):
        with suppress(ValueError, KeyError, TypeError):
            info = json.loads(file.read_text(encoding="utf-8"))
            infos.setdefault(Path(info["root_dir"]).resolve(), []).append((file, info))
    for folder in sorted((*exps.glob("tmp*"), *exps.glob("standalone/tmp*"))):
        if _locked(folder / ".dvc/tmp/lock"):
            continue
        found = infos.get(folder.resolve(), [])
        name = next((info["name"] for _, info in found if info.get("name")), None)
        called = f"the experiment {name}" if name else "an experiment"
        queued = name if found and found[0][1].get("location") == "dvc-task" else None
        files = [] if queued else [file for file, info in found if info.get("status", 0) <= _RUNNING]
        yield Finding(
            f"{folder.relative_to(root)}: left by {called}, which was killed",
            f"removed{', the task marked as failed' if queued else ''}; run it again: DVC's cache has the stages that "
            "it finished",
            partial(_remove_experiment, root, folder, files, queued),
            stops=False,
        )


def _remove_experiment(root: Path, folder: Path, files: list[Path], queued: str | None) -> None:
    if queued:  # the command fails if the task is already marked as failed, which doesn't matter
        subprocess.run([sys.executable, "-m", "dvc", "queue", "kill", queued], cwd=root, capture_output=True)
    for file in files:
        shutil.rmtree(file.parent, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def partial_folders(root: Path) -> Iterator[Finding]:
    """Find temporary folders of killed writers (see tapestry.core.atomic)."""
    for parent, folders, _ in os.walk(root):
        partials = [name for name in folders if _PARTIAL.fullmatch(name)]
        folders[:] = [name for name in folders if name not in _NOT_OURS and name not in partials]
        for name in sorted(partials):
            folder = Path(parent, name)
            if not _locked(folder):
                what = f"{folder.relative_to(root)}: left by a killed process"
                yield Finding(what, "removed", partial(_sweep, folder), stops=False)


def _sweep(folder: Path) -> None:
    with temporary_folder(Path(final_path(str(folder)))):
        pass  # it removes leftovers of the same path first


def _locked(path: Path) -> bool:
    """Return whether a living process holds a flock(2) lock on a file or folder."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return try_lock(handle) is False
        finally:
            os.close(handle)
    return False

"""`python lib/benchmarks/kills.py [times [stages]]`: real work, ended at random moments.

Set-up, training, measuring (benchmark and certification) and a batch are each ended `times` times,
in turn by Ctrl-C, SIGTERM and SIGKILL, at moments spread over their whole length. After each,
nothing may be half-written or left over; a set-up and a batch must then go on to their end. It
takes half an hour, and needs what set-up needs.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil

from fluxttice_core import files, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.report import job, status

FLUXTTICE = str(Path(sys.executable).with_name("fluxttice"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SMALL = {"epochs": 500, "keep_every": 1, "min_score": 0, "batch_size": 4096, "prior_size": 512,
         "finetune_steps": 10}  # fmt: skip
REPORT = ("report", "--train", "{place}/train.params.yaml", "--benchmark",
          "{place}/benchmark.params.yaml", "--certify", "{place}/certify.params.yaml")  # fmt: skip
TRAINING_S = 60  # of a training that would go on for longer
STAGES = {
    "set-up": ("make", ".venv/ready"),
    "training": (FLUXTTICE, *REPORT),
    "measuring": (FLUXTTICE, *REPORT, "--checkpoint", "checkpoints/certified"),
    "batch": (FLUXTTICE, "batch", "{place}/plan.yaml"),
}


def others(reports: Path) -> list[psutil.Process]:
    """What runs with this reports folder: a job, its kernel and its workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.environ().get("FLUXTTICE_REPORTS") == str(reports)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Work:
    """One command in a place of its own: a clone for set-up, else a reports folder."""

    def __init__(self, stage: str) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="kill-"))
        self.stage, self.reports = stage, self.place / "reports"
        (self.place / "tmp").mkdir()
        self.environment = os.environ | {
            "TMPDIR": str(self.place / "tmp"), "FLUXTTICE_REPORTS": str(self.reports),
        }  # fmt: skip
        self.root = files.root()
        if stage == "set-up":
            self.root = self.place / "clone"
            subprocess.check_call(["git", "clone", "--quiet", str(files.root()), str(self.root)])
        for step in job.NOTEBOOKS:
            values = params.read_yaml(files.root() / "params" / f"{step}.yaml")
            changed = SMALL if step == "train" else {"k": 400_000}
            params.record(self.place, step, values | changed)
        one = {"file": str(self.place / "train.params.yaml"), "epochs": 6}
        plan = {"small": {**one, "seed": [1, 2, 3]}}
        (self.place / "plan.yaml").write_text(json.dumps(plan))

    def start(self) -> subprocess.Popen:
        words = [word.format(place=self.place) for word in STAGES[self.stage]]
        return subprocess.Popen(
            words, cwd=self.root, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def finish(self) -> tuple[int, float, str]:
        """Run it undisturbed: exit code, seconds, standard error."""
        began, process = time.monotonic(), self.start()
        said = process.communicate()[1]
        return process.returncode, time.monotonic() - began, said

    def end(self, after_s: float, how: signal.Signals) -> list[str]:
        """End it and say what is wrong with what is left."""
        process = self.start()
        time.sleep(after_s)
        # A terminal sends Ctrl-C to every process; a set-up, pip and all, is always ended whole.
        send = os.killpg if how == signal.SIGINT or self.stage == "set-up" else os.kill
        send(process.pid, how)
        said = process.communicate(timeout=120)[1]
        # While Python itself starts, and imports torch, it answers Ctrl-C with a traceback.
        late = "Traceback" not in said or "in main\n" in said
        wrong = [f"said {said!r}"] if late and said.count("\n") > 3 else []
        for _ in range(100):
            if not (left := others(self.reports)):
                break
            time.sleep(0.1)
        else:
            wrong.append(f"still running: {[process.cmdline() for process in left]}")
        return [*wrong, *self.disk(how)]

    def disk(self, how: signal.Signals | None) -> list[str]:
        """What is half-written, or left over where anybody was left to tidy up."""
        wrong = []
        for path in self.reports.rglob("*"):
            draft = path.name.startswith(".") or any(
                p.name.endswith(files.DRAFT) for p in path.parents
            )
            try:
                if draft and how != signal.SIGKILL:
                    wrong.append(f"left: {path}")
                elif draft:
                    continue
                elif path.suffix == ".json":
                    json.loads(path.read_text())
                elif path.suffix == ".ipynb":
                    nbformat.read(path, as_version=4)
                elif path.name == checkpoints.WEIGHTS:
                    checkpoints.load(path.parent)
                elif path.suffix == ".html" and "</html>" not in path.read_text():
                    wrong.append(f"half: {path}")
            except Exception as error:
                wrong.append(f"{path}: {error}")
        for path in self.reports.glob(f"*/*/{status.STATUS}"):
            state = status.read(path.parent).state
            if state == "running":
                wrong.append(f"{path} says {state}")
        if how != signal.SIGKILL and self.stage != "set-up":  # pip's own are none of ours
            left = [path.relative_to(self.place / "tmp") for path in self.place.glob("tmp/**/*")]
            # Python's own socket folder stays after SIGKILL; there is nothing in it but the socket.
            wrong += [f"left: {path}" for path in left if not path.parts[0].startswith("pymp-")]
        return wrong


def main(times: str = "8", *stages: str) -> int:
    rng, total, bad = random.Random(1), 0, 0
    for stage in stages or STAGES:
        length_s = TRAINING_S
        if stage != "training":
            work = Work(stage)
            code, length_s, said = work.finish()
            print(f"{stage}: {length_s:.0f} s undisturbed, exit {code} {said.strip()}", flush=True)
            shutil.rmtree(work.place)
        for number in range(int(times)):
            work, how = Work(stage), SIGNALS[number % len(SIGNALS)]
            after_s = length_s * (number + rng.random()) / int(times)
            wrong = work.end(after_s, how)
            if stage in ("set-up", "batch"):
                again, _, said = work.finish()
                wrong += [f"then exit {again}, not {code}: {said}"] * (again != code)
                wrong += [f"then {problem}" for problem in work.disk(None)]
            total, bad = total + 1, bad + bool(wrong)
            print(
                f"{stage} {how.name} after {after_s:.1f} s: {'; '.join(wrong) or 'all well'}",
                flush=True,
            )
            shutil.rmtree(work.place)
    print(f"{total - bad} of {total} ended well")
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

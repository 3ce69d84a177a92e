"""`make bench`: is it fast, and how far from what the arithmetic allows? Ratios within one run.

Wall times of this machine at this moment; ratios of alternating runs survive its noise.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from . import checkpoint, evidence, files, measure, params, train
from .coverage import distinct
from .model import VAES, DualVAE, prior, read_out
from .selection import honest_measures
from .streams import generator

REPEATS = 5
N = 195_000
MULTIPLY_ADDS = {"A": 16 * 32 + 32 * 64 + 64 * 27, "B": 16 * 128 + 4 * 128 * 128 + 128 * 27}


def wall_s(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


@torch.no_grad()
def row_by_row(model: DualVAE, vae: str, rng: torch.Generator) -> int:
    """Distinct argmax operations the original's way: batches of 1,000, a set of tuples."""
    seen = set()
    for _ in range(N // 1_000):
        for row in read_out(model.decoder(vae)(prior(1_000, rng)), "argmax"):
            seen.add(tuple(row.tolist()))
    return len(seen)


def multiply_adds_per_s() -> float:
    """What this machine reaches on float32 matrix products of the decoders' size."""
    a, b = torch.randn(16_384, 128), torch.randn(128, 128)
    times = [wall_s(lambda: [a @ b for _ in range(20)]) for _ in range(REPEATS + 1)][1:]
    return 20 * a.numel() * b.shape[1] / min(times)


def ours_at_n(model: DualVAE, vae: str, rng: torch.Generator) -> int:
    return distinct(model.decoder(vae), [N], ["argmax"], rng)["argmax", N]


def _each(count: Callable[..., int], model: DualVAE, rng: torch.Generator) -> list[int]:
    return [count(model, vae, rng) for vae in VAES]


def bench_coverage(model: DualVAE, rate: float) -> None:
    """Sampled coverage, ours against row by row, alternating; and against the arithmetic."""
    ratios, ours = [], []
    for repeat in range(REPEATS):
        rng = generator(repeat, "bench")
        fast = wall_s(partial(_each, ours_at_n, model, rng))
        slow = wall_s(partial(_each, row_by_row, model, rng))
        ours.append(fast)
        ratios.append(slow / fast)
    floor = N * sum(MULTIPLY_ADDS.values()) / rate
    print(f"sampled argmax coverage of A and B at N = {N:,}: {spread(ours)} s")
    print(f"  row by row / ours: {spread(ratios)}  (must 10, aim 20)")
    print(
        f"  floor, the decoders' arithmetic: {floor:.3f} s; share reached {floor / min(ours):.0%}"
    )


def bench_measurement(model: DualVAE) -> None:
    """The whole of `measure.measure`, controls and untrained networks included."""
    p = params.check(
        "benchmark",
        {
            **params.read_yaml(files.root() / "params/benchmark.yaml"),
            "run_dir": "",
            "checkpoint": "",
        },
        "params/benchmark.yaml",
    )
    parts = measure.split(p.split_seed)
    both = wall_s(lambda: [measure.vae_results(model, vae, parts, p) for vae in VAES])
    whole = wall_s(lambda: measure.measure(model, p, lambda _: None))
    print(f"full measurement of A and B, K = {p.k:,}: {both:.1f} s  (must 10)")
    print(f"  with untrained networks and all controls beside them: {whole:.1f} s")


def bench_memory() -> None:
    """Peak memory of the marginal in fresh processes: must not grow with K."""
    peaks = {}
    for k in (100_000, 10_000_000):
        code = (
            "import resource\nfrom fluxttice_core.marginal import marginal\n"
            "from fluxttice_core.model import DualVAE\n"
            f"marginal(DualVAE.fresh(0).decoder('B'), {k}, 0)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        peaks[k] = int(done.stdout) / 2**20
    text = ", ".join(f"K = {k:,}: {gib:.2f} GiB" for k, gib in peaks.items())
    print(f"peak memory of the marginal: {text}  (must 1 GB, the same for both)")


def bench_training() -> None:
    """Time to the v5.5 recipe's final quality: the v5.5 recipe against the default one."""
    old = params.check("train", params.read_yaml(files.root() / "params/train_v5_5.yaml"), "v5.5")
    new = params.check("train", params.read_yaml(files.root() / "params/train.yaml"), "default")
    old_s, target = _train(old, None)
    new_s, reached = _train(new, target)
    print(f"training to the v5.5 recipe's final quality: v5.5 {old_s:.1f} s, default {new_s:.1f} s")
    print(f"  v5.5 / default: {old_s / new_s:.1f}  (must 8, aim 20)")
    print("  v5.5 ended at " + ", ".join(f"{k} {v:.4f}" for k, v in target.items()))
    print("  default had   " + ", ".join(f"{k} {reached[k]:.4f}" for k in target))


def _train(p: params.Train, target: dict[str, float] | None) -> tuple[float, dict[str, float]]:
    """Seconds of training alone until `target` is passed (or to the end), and the quality then.

    Every epoch of a recipe ends with the honest measures; their time, taken apart, is left out.
    """
    model, spent, found = DualVAE.fresh(0), 0.0, {}
    measuring = statistics.median(
        wall_s(lambda: honest_measures(model, p.split_seed, p.coverage_n, 0, 0)) for _ in range(3)
    )
    start = time.perf_counter()
    for epoch in train.fit(p):
        spent += time.perf_counter() - start - measuring
        if target is not None or epoch.number == p.epochs - 1:
            found = quality(epoch.model, p.split_seed)
        if target is not None and all(found[key] >= target[key] for key in target):
            break
        start = time.perf_counter()
    return spent, found


def quality(model: DualVAE, split_seed: int) -> dict[str, float]:
    """Every column of the evidence for both VAEs: `{metric VAE: share}`."""
    rows = evidence.rows(model, split_seed)
    return {f"{metric} {row['vae']}": row[metric] for row in rows for metric in evidence.METRICS}


def main() -> None:
    torch.set_num_threads(2)
    print(files.environment())
    model = checkpoint.load(files.root() / "checkpoints/certified").model
    rate = multiply_adds_per_s()
    print(f"float32 matrix products: {rate / 1e9:.0f} billion multiply-adds a second")
    bench_coverage(model, rate)
    bench_measurement(model)
    bench_memory()
    bench_training()


if __name__ == "__main__":
    main()

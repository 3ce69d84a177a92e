"""`make bench`: is it fast, and how far from what the arithmetic allows? Ratios within one run.

Wall times of this machine at this moment; ratios of alternating runs survive its noise.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from . import checkpoint, evidence, files, measure, params, selection, train
from .coverage import distinct
from .model import HOW, VAES, DualVAE, prior
from .operations import split
from .streams import generator

REPEATS = 5
N = 195_000
# Multiply-adds of one sample through each part, forward; a step costs three times that.
ENCODER = 9 * 256 + 256 * 128 + 128 * 64 + 2 * 64 * 16
DECODER = {"A": 16 * 32 + 32 * 64 + 64 * 27, "B": 16 * 128 + 4 * 128 * 128 + 128 * 27}


def wall_s(function: Callable[..., object], *args: object) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def multiply_adds_per_s() -> float:
    """What this machine reaches on float32 matrix products of the decoders' size, at its best."""
    a, b = torch.randn(2_048, 128), torch.randn(128, 128)
    best = min(wall_s(lambda: [a @ b for _ in range(20)]) for _ in range(20 * REPEATS))
    return 20 * a.numel() * b.shape[1] / best


@torch.no_grad()
def row_by_row(model: DualVAE, vae: str, how: str, rng: torch.Generator) -> int:
    """Distinct operations the original's way: batches of 1,000, a Python set of tuples."""
    seen = set()
    for _ in range(N // 1_000):
        logits = model.decoder(vae)(prior(1_000, rng))
        if how == "argmax":
            rows = logits.argmax(-1)
        elif how == "categorical":  # its `sample` takes no generator: torch's global stream
            rows = torch.distributions.Categorical(logits=logits).sample()
        else:
            rows = (logits.softmax(-1) @ torch.tensor([-1.0, 0.0, 1.0])).round()
        for row in rows:
            seen.add(tuple(row.tolist()))
    return len(seen)


def bench_coverage(model: DualVAE, rate: float) -> None:
    """Sampled coverage, ours against row by row, alternating; and against the arithmetic."""
    kinds = [("argmax",), ("categorical",), HOW]
    ours, theirs = {}, {}
    for repeat in range(REPEATS):
        rng = generator(repeat, "bench")
        for vae in VAES:
            for how in HOW:
                theirs[vae, how, repeat] = wall_s(row_by_row, model, vae, how, rng)
            for kind in kinds:
                count = distinct, model.decoder(vae), [N], kind, rng
                ours[vae, kind, repeat] = wall_s(*count)
    print(f"sampled coverage at N = {N:,}: row by row / ours, median and range of {REPEATS} runs")
    for kind in kinds:
        for vaes in (*VAES, VAES):
            times = [
                (
                    sum(theirs[vae, how, repeat] for vae in vaes for how in kind),
                    sum(ours[vae, kind, repeat] for vae in vaes),
                )
                for repeat in range(REPEATS)
            ]
            ratios = spread([slow / fast for slow, fast in times])
            best = min(fast for _, fast in times)
            floor = N * sum(DECODER[vae] for vae in vaes) / rate
            name = f"{' and '.join(vaes)}, {' + '.join(kind)}"
            print(
                f"  {name}: {ratios}; ours {best:.3f} s, floor {floor:.3f} s ({floor / best:.0%})"
            )
    print("  (must 10, aim 20; the floor is the decoder's arithmetic alone)")


def bench_measurement(model: DualVAE) -> None:
    """The whole of `measure.measure`, controls and untrained networks included."""
    read = params.read_yaml(files.root() / "params/benchmark.yaml")
    p = params.check(
        "benchmark", {**read, "run_dir": "", "checkpoint": ""}, "params/benchmark.yaml"
    )
    parts = split(p.split_seed)
    both = wall_s(lambda: [measure.vae_results(model, vae, parts, p) for vae in VAES])
    whole = wall_s(measure.measure, model, p, lambda _: None)
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


def bench_training(rate: float) -> None:
    """Time to the v5.5 recipe's final quality: the v5.5 recipe against the default one.

    Both are timed as they run, the honest measures after each epoch included. The quality of an
    epoch is measured as in the evidence, and that time is left out.
    """
    old = params.check("train", params.read_yaml(files.root() / "params/train_v5_5.yaml"), "v5.5")
    new = params.check("train", params.read_yaml(files.root() / "params/train.yaml"), "default")
    for p in (old, new):  # what the first step of a process imports is no part of either
        next(train.fit(p))
    print("training with the v5.5 recipe, then the default one: about four minutes", flush=True)
    olds, target = _train(old, {})
    times, reached = _train(new, target)
    print("training to the v5.5 recipe's final quality, every row of both VAEs:")
    print(f"  v5.5 {sum(olds):.1f} s, {len(olds)} epochs; default {sum(times):.1f} s, {len(times)}")
    if all(reached[key] >= target[key] for key in target):
        print(f"  v5.5 / default: {sum(olds) / sum(times):.1f}  (must 8, aim 20)")
    else:
        print("  the default recipe did not pass it: no ratio")
    for key, value in target.items():
        print(f"  {key}: v5.5 {value:.4f}, default {reached[key]:.4f}")
    bench_step(new, times, rate)


def _train(p: params.Train, target: dict[str, float]) -> tuple[list[float], dict[str, float]]:
    """Seconds of each epoch until `target` is passed, or to the end without one; the quality.

    An epoch is measured like the evidence only once its own information is above the target's.
    """
    quick = [f"information_{vae}" for vae in VAES]
    times, start = [], time.perf_counter()
    for epoch in train.fit(p):
        times.append(time.perf_counter() - start)
        if target and min(epoch.measures[key] - target[key] for key in quick) >= 0:
            found = quality(epoch.model, p.split_seed)
            if all(found[key] >= target[key] for key in target):
                break
        start = time.perf_counter()
    else:
        found = quality(epoch.model, p.split_seed)
    return times, found


def quality(model: DualVAE, split_seed: int) -> dict[str, float]:
    """Every column of the evidence for both VAEs: `{metric_VAE: share}`."""
    rows = evidence.rows(model, split_seed)
    return {f"{metric}_{row['vae']}": row[metric] for row in rows for metric in evidence.METRICS}


def bench_step(p: params.TrainStraight, epochs_s: list[float], rate: float) -> None:
    """A step of the default recipe against its arithmetic: forward once, backward twice that."""
    measuring = [
        wall_s(selection.honest_measures, DualVAE.fresh(0), p.split_seed, p.coverage_n, 0, k)
        for k in range(REPEATS)
    ]
    steps = split(p.split_seed).train.numel() // p.batch_size
    step = (min(epochs_s) - min(measuring)) / steps
    decoded = p.batch_size + 3 * p.prior_size // 2  # codes, prior latents and their midpoints
    forward = 2 * p.batch_size * ENCODER + decoded * sum(DECODER.values())
    floor = 3 * forward / rate
    print(
        f"a step of it: {1e3 * step:.1f} ms; floor, its arithmetic: {1e3 * floor:.1f} ms "
        f"({floor / step:.0%})"
    )


def main() -> None:
    torch.set_num_threads(2)
    print(files.environment())
    model = checkpoint.load(files.root() / "checkpoints/certified").model
    rate = multiply_adds_per_s()
    print(f"float32 matrix products: {rate / 1e9:.0f} billion multiply-adds a second", flush=True)
    bench_coverage(model, rate)
    bench_measurement(model)
    bench_memory()
    bench_training(rate)


if __name__ == "__main__":
    main()

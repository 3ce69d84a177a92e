"""`make bench`: is it fast, and how far from what the arithmetic allows? Ratios within one run.

Wall times of this machine at this moment; ratios of alternating runs survive its noise.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.report import batch as evidence
from fluxttice_core. import files
from fluxttice_core.metrics import measurement as measure
from fluxttice_core. import params
from fluxttice_core.training import loop as selection
from fluxttice_core.training import recipes as train
from fluxttice_core.metrics.coverage import distinct
from fluxttice_core.model.network import HOW, VAES, DualVAE, prior
from fluxttice_core.model.operations import split
from fluxttice_core.model.streams import generator

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
    best = min(wall_s(lambda: [a @ b for _ in range(20)]) for _ in range(20))
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


def bench_coverage(model: DualVAE) -> float:
    """Sampled coverage, ours against row by row, alternating; and against the arithmetic, whose
    best rate in between is returned."""
    kinds = [("argmax",), ("categorical",), HOW]
    ours, theirs, rate = {}, {}, 0.0
    for repeat in range(REPEATS):
        rng, rate = generator(repeat, "bench"), max(rate, multiply_adds_per_s())
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
            usual = statistics.median(fast for _, fast in times)
            floor = N * sum(DECODER[vae] for vae in vaes) / rate
            name = f"{' and '.join(vaes)}, {' + '.join(kind)}"
            print(
                f"  {name}: {ratios}; ours {usual:.3f} s, floor {floor:.3f} s ({floor / usual:.0%})"
            )
    print("  (must 10, aim 20; the floor is the decoder's arithmetic alone,", end=" ")
    print(f"at {rate / 1e9:.0f} billion float32 multiply-adds a second)", flush=True)
    return rate


def bench_measurement(model: DualVAE) -> None:
    """The whole of `measure.measure`, controls and untrained networks included."""
    read = params.read_yaml(files.root() / "params/benchmark.yaml")
    p = params.check(
        "benchmark", {**read, "run_dir": "", "checkpoint": ""}, "params/benchmark.yaml"
    )
    parts = split(p.split_seed)
    both = [
        wall_s(lambda: [measure.vae_results(model, vae, parts, p) for vae in VAES])
        for _ in range(REPEATS)
    ]
    whole = wall_s(measure.measure, model, p, lambda _: None)
    print(f"full measurement of A and B, K = {p.k:,}: {spread(both)} s  (must 10)")
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

    Both are timed as they run, with the honest measures after each epoch, and again with those
    taken off. The quality of an epoch is measured as in the evidence, outside of the time.
    """
    old = params.check("train", params.read_yaml(files.root() / "params/train_v5_5.yaml"), "v5.5")
    new = params.check("train", params.read_yaml(files.root() / "params/train.yaml"), "default")
    for p in (old, new):  # what the first step of a process imports is no part of either
        next(train.fit(p))
    print("training with the v5.5 recipe, then the default one: about four minutes", flush=True)
    olds, old_measuring, target = _train(old, {})
    news, new_measuring, reached = _train(new, target)
    print("training to the v5.5 recipe's final quality, every row of both VAEs:")
    print(f"  v5.5 {sum(olds):.1f} s, {len(olds)} epochs; default {sum(news):.1f} s, {len(news)}")
    if all(reached[key] >= target[key] for key in target):
        bare = sum(olds) - len(olds) * old_measuring, sum(news) - len(news) * new_measuring
        print(f"  v5.5 / default: {sum(olds) / sum(news):.1f}  (must 8, aim 20)")
        print(f"  without the measures after each epoch: {bare[0]:.1f} s / {bare[1]:.1f} s = "
              f"{bare[0] / bare[1]:.1f}")  # fmt: skip
    else:
        print("  the default recipe did not pass it: no ratio")
    for key, value in target.items():
        print(f"  {key}: v5.5 {value:.4f}, default {reached[key]:.4f}")
    steps = split(new.split_seed).train.numel() // new.batch_size
    bench_step(new, (min(news) - new_measuring) / steps, rate)


def _train(
    p: params.Train, target: dict[str, float]
) -> tuple[list[float], float, dict[str, float]]:
    """Train until `target` is passed, or to the end without one.

    Returns the seconds of each epoch, those of them that measuring took, and the last epoch's
    quality. It is measured only where the epoch's own information is above the target's.
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
    again = epoch.model, p.split_seed, p.coverage_n, 0
    measuring = [wall_s(selection.honest_measures, *again, k) for k in range(REPEATS)]
    return times, min(measuring), found


def quality(model: DualVAE, split_seed: int) -> dict[str, float]:
    """Every column of the evidence for both VAEs: `{metric_VAE: share}`."""
    rows = evidence.rows(model, split_seed)
    return {f"{metric}_{row['vae']}": row[metric] for row in rows for metric in evidence.METRICS}


def bench_step(p: params.TrainStraight, step_s: float, rate: float) -> None:
    """A step of the default recipe against its arithmetic: forward once, backward twice that."""
    decoded = p.batch_size + 3 * p.prior_size // 2  # codes, prior latents and their midpoints
    forward = 2 * p.batch_size * ENCODER + decoded * sum(DECODER.values())
    floor = 3 * forward / rate
    print(
        f"a step of it: {1e3 * step_s:.1f} ms; floor, its arithmetic: {1e3 * floor:.1f} ms "
        f"({floor / step_s:.0%})"
    )


def main() -> None:
    torch.set_num_threads(2)
    print(files.environment())
    model = checkpoint.load(files.root() / "checkpoints/certified").model
    rate = bench_coverage(model)
    bench_measurement(model)
    bench_memory()
    bench_training(rate)


if __name__ == "__main__":
    main()

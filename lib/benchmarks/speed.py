"""Is it fast, and how far from what the arithmetic allows? Ratios within one run, by
`.venv/bin/python lib/benchmarks/speed.py`.

Wall times of this machine at this moment; ratios of alternating runs survive its noise.
"""

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from fluxttice_core import benchmark, files, parallel, params
from fluxttice_core.checkpoints import folder as checkpoints
from fluxttice_core.metrics.coverage import distinct
from fluxttice_core.model.network import DECODING_MODES, VAES, Network, prior
from fluxttice_core.model.streams import generator
from fluxttice_core.training import axis_aligned, loop, selection

REPEATS, N = 3, 195_000
MEASURES = ("val_exact", *selection.SELECTION_METRICS)  # of an epoch, by which recipes are compared
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
    """What one thread reaches on float32 matrix products of the decoders' size, at its best."""
    a, b = torch.randn(2_048, 128), torch.randn(128, 128)
    best = min(wall_s(lambda: [a @ b for _ in range(20)]) for _ in range(20))
    return 20 * a.numel() * b.shape[1] / best


@torch.no_grad()
def row_by_row(model: Network, vae: str, mode: str, rng: torch.Generator) -> int:
    """Distinct operations the original's way: batches of 1,000, a Python set of tuples."""
    seen = set()
    for _ in range(N // 1_000):
        logits = model.decoder(vae)(prior(1_000, rng))
        if mode == "argmax":
            rows = logits.argmax(-1)
        elif mode == "categorical":  # its `sample` takes no generator: torch's global stream
            rows = torch.distributions.Categorical(logits=logits).sample()
        else:
            rows = (logits.softmax(-1) @ torch.tensor([-1.0, 0.0, 1.0])).round()
        seen.update(tuple(row.tolist()) for row in rows)
    return len(seen)


def bench_coverage(model: Network) -> None:
    """Both VAEs in the three modes that a report measures: ours reads one stream for all."""
    ratios, ours = [], []
    for repeat in range(REPEATS):
        rng = generator(repeat, "bench")
        pairs = [(vae, mode) for vae in VAES for mode in DECODING_MODES]
        slow = sum(wall_s(row_by_row, model, *pair, rng) for pair in pairs)
        decoders = [model.decoder(vae) for vae in VAES]
        ours.append(sum(wall_s(distinct, one, [N], DECODING_MODES, rng) for one in decoders))
        ratios.append(slow / ours[-1])
    floor = N * sum(DECODER.values()) / multiply_adds_per_s()
    print(f"sampled coverage at N = {N:,}, A and B: row by row / ours {spread(ratios)}")
    share = floor / statistics.median(ours)
    print(f"  ours {spread(ours)} s; the decoders' arithmetic alone {floor:.2f} s ({share:.0%})")


def bench_measurement(model: Network) -> None:
    """A benchmark's file of both VAEs, quiet and beside a process that spins on one core."""
    values = params.read_yaml(files.root() / "params/benchmark.yaml")
    p = params.check(benchmark.Benchmark, {"run_dir": "", "checkpoint": "", **values}, "benchmark")
    arguments = model, {}, p, lambda _: None
    benchmark.store_controls(p)  # only what is not stored; the workers start, and import
    quiet = wall_s(benchmark.run, *arguments)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        beside = wall_s(benchmark.run, *arguments)
        busy.kill()
    print(f"full measurement of A and B, K = {p.k:,}: {quiet:.1f} s  (must 9)")
    print(f"  beside another busy process: {beside:.1f} s, {beside / quiet:.2f} times  (must 3)")


def bench_memory() -> None:
    """Peak memory of the marginal in fresh processes: must not grow with K."""
    peaks = []
    for k in (100_000, 10_000_000):
        code = (
            "import resource\nfrom fluxttice_core.metrics.marginal import marginal\n"
            "from fluxttice_core.model.network import DualVAE\n"
            f"marginal(DualVAE.fresh(0).decoder('B'), {k}, 0)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        peaks.append(f"K = {k:,}: {int(done.stdout) / 2**20:.2f} GiB")
    print(f"peak memory of the marginal: {', '.join(peaks)}  (must 1 GB, the same for both)")


def bench_training() -> None:
    """Both recipes as a run trains them, with validation metrics: v5.5 to its end, and the default
    until every metric of both its VAEs is at least v5.5's last."""
    slow, quality = trained("train_v5_5", {})
    fast, _ = trained("train", quality)
    print(f"training, v5.5 / default to v5.5's final quality: {slow / fast:.1f}  (must 10, aim 20)")


def trained(name: str, quality: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Seconds until a recipe first has `quality` (its end, if it is never asked), and what it has
    in the end. Infinite where it never has."""
    values = {"run_dir": "", **params.read_yaml(files.root() / f"params/{name}.yaml")}
    p = params.check(loop.parameters(values, name), values, name)
    start, reached = time.perf_counter(), math.inf
    with parallel.executor() as workers:
        for epoch in loop.epochs(p, workers.map):
            found = {key: value for key, value in epoch.metrics.items() if key.startswith(MEASURES)}
            now = time.perf_counter() - start
            if quality and all(found[key] >= least for key, least in quality.items()):
                reached = min(reached, now)
    score = loop.RECIPES[p.recipe].rule.score(epoch.metrics)
    print(f"{name}: {now:.1f} s to its end, score {score:.4f}", flush=True)
    return reached if quality else now, found


def bench_step() -> None:
    """A step of each VAE against its arithmetic: forward once, backward twice that."""
    values = {"run_dir": "", **params.read_yaml(files.root() / "params/train.yaml")}
    p = params.check(axis_aligned.TrainAxisAligned, values, "train")
    rate, steps = multiply_adds_per_s(), len(selection.training_data(p)) // p.batch_size
    for vae, state in zip(VAES, axis_aligned.start(p), strict=True):
        step = wall_s(axis_aligned.train_epoch, p, state) / steps
        decoded = p.batch_size + 5 * p.prior_size // 4  # codes, prior latents, midpoints
        floor = 3 * (p.batch_size * ENCODER + decoded * DECODER[vae]) / rate
        print(
            f"a step of VAE-{vae}: {1e3 * step:.1f} ms; its arithmetic {1e3 * floor:.1f} ms "
            f"({floor / step:.0%})"
        )


def main() -> None:
    torch.set_num_threads(1)
    print(files.environment())
    model = checkpoints.load(files.root() / "checkpoints/certified").model
    bench_coverage(model)
    bench_measurement(model)
    bench_memory()
    bench_step()
    bench_training()


if __name__ == "__main__":
    main()

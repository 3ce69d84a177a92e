"""Gates: the bounds a checkpoint must meet, and the verdict where an interval straddles one.

A gate is a field of `Certify`: `min_x` or `max_x` bounds the metric x of `observation.METRICS`.
"""

from collections.abc import Callable, Iterable
from functools import partial

from .. import parallel
from ..model.network import Measurable
from ..model.operations import split
from ..parallel import Job
from ..params import NonNegative, Share
from .adversaries import linear_readout, memoriser, permuted
from .controls import CONTROLS
from .marginal import FEWEST
from .observation import Measurement, Observed, metric, observe
from .results import Measured, Record


class Certify(Measurement):
    """What 3_certify takes: bounds are parameters too. Each asks a question of its own; those that
    cost little are asked first."""

    min_exact_match: Share
    min_exact_match_worst_kind: Share
    max_rate: NonNegative
    min_cell_connection: Share
    min_exact_match_sampled: Share
    min_argmax_coverage_50000: Share
    min_argmax_coverage_195000: Share
    min_argmax_entropy: Share
    max_kl_uniform: NonNegative


BOUNDS = tuple(name for name in Certify.model_fields if name.startswith(("min_", "max_")))
CHEAP = BOUNDS[:4]
PARTS = {"codes": BOUNDS[:5], "generation": BOUNDS[5:]}  # the second needs all k latents


class Judged(Record):
    """A measured value against its bound. `gate` is the parameter that holds the bound."""

    gate: str
    vae: str
    bound: float
    measured: Measured
    verdict: str

    @property
    def title(self) -> str:
        return metric(self.gate[4:]).title

    @property
    def unit(self) -> str:
        return metric(self.gate[4:]).unit


def judge(measured: Measured, bound: float, upper: bool = False) -> str:
    """PASS: the whole interval meets the bound. FAIL: the whole of it misses, or the value was
    refused (None). Else ABSTAIN, which is never PASS."""
    if measured.value is None:
        return "FAIL"
    low, high = (-measured.high, -measured.low) if upper else (measured.low, measured.high)
    limit = -bound if upper else bound
    if limit <= low:
        return "PASS"
    return "FAIL" if high < limit else "ABSTAIN"


def verdict(rows: list[Judged], controls: "Iterable[Refusal]" = ()) -> str:
    """PASS only if every gate is, and every one of the `controls` fails; FAIL if any gate is;
    otherwise ABSTAIN."""
    found = {row.verdict for row in rows}
    if "FAIL" in found:
        return "FAIL"
    refused = all(control.verdict == "FAIL" for control in controls)
    return "PASS" if found == {"PASS"} and refused else "ABSTAIN"


def of_vae(
    network: Measurable, vae: str, k: int, p: Certify, asked: Iterable[str] = BOUNDS
) -> list[Judged]:
    """One VAE at the gates `asked`, measured here and now with `k` latents."""
    return judged(observe(network, vae, k, p.seed, f"gates {vae}"), p, asked)


def judged(o: Observed, p: Certify, asked: Iterable[str]) -> list[Judged]:
    """What was observed of a VAE at the gates `asked`."""
    parts, rows = split(p.split_seed), []
    for gate in asked:
        found, bound = metric(gate[4:]).compute(o, parts), getattr(p, gate)
        said = judge(found, bound, gate.startswith("max_"))
        rows.append(Judged(gate=gate, vae=o.vae, bound=bound, measured=found, verdict=said))
    return rows


def thrifty(network: Measurable, p: Certify) -> list[Judged]:
    """Every VAE at FEWEST latents, and what fails a gate of CHEAP at no others: latents are spent
    where a verdict is in doubt."""
    rows = []
    for vae in network.vaes:
        found = of_vae(network, vae, FEWEST, p, CHEAP)
        rows += found if verdict(found) == "FAIL" else of_vae(network, vae, FEWEST, p)
    return rows


def gates(
    network: Measurable,
    p: Certify,
    report: Callable[[str], None] = print,
    parts: Iterable[str] = tuple(PARTS)[::-1],
) -> list[Judged]:
    """Every VAE of a network, each alone, against every bound of PARTS."""
    jobs = [
        Job(f"VAE-{vae}, {part}", of_vae, (network, vae, p.k, p, PARTS[part]))
        for part in parts
        for vae in network.vaes[::-1]  # the longest job begins first
    ]
    rows = [row for found in parallel.each(jobs, report) for row in found]
    return sorted(rows, key=lambda row: (row.vae, BOUNDS.index(row.gate)))


class Refusal(Record):
    """A network that must fail, judged by the same gates."""

    control: str
    seed: int
    k: int
    verdict: str
    gates: list[Judged]


def adversaries(model: Measurable, p: Certify) -> dict[str, Callable[[], Measurable]]:
    """Networks that deserve no certificate, by name: what has learnt nothing, and what ties
    nothing together. `model` is the one whose generator is permuted."""
    seed, parts = p.untrained_seed, split(p.split_seed)
    return {
        **{name: partial(control.make, seed) for name, control in CONTROLS.items()},
        "linear read-out": partial(linear_readout, seed),
        "memoriser": partial(memoriser, seed, parts),
        "permuted generator": partial(permuted, model, seed),
    }


def control_rows(
    model: Measurable, p: Certify, report: Callable[[str], None] = print
) -> list[Refusal]:
    """Every one of `adversaries` at the gates, at FEWEST latents, and no further than it fails."""
    jobs = [Job(name, _refusal, (name, make, p)) for name, make in adversaries(model, p).items()]
    return parallel.each(jobs, report)


def _refusal(name: str, make: Callable[[], Measurable], p: Certify) -> Refusal:
    found, seed = thrifty(make(), p), p.untrained_seed
    return Refusal(control=name, seed=seed, k=FEWEST, verdict=verdict(found), gates=found)

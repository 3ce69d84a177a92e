"""Gates: bounds that a checkpoint must meet. `min_x` or `max_x` bounds the metric x of METRICS."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Literal, Self

from pydantic import model_validator

from ..model.network import Measurable
from ..model.operations import split
from ..params import NonNegative, Share
from .controls import CONTROLS, linear_probe, memoriser, permuted, scaled_logits, uneven
from .evaluation import Evaluation, Measurement
from .marginal import MIN_LATENTS
from .measurement import METRICS
from .oracles import oracle
from .results import Record

Verdict = Literal["PASS", "FAIL", "ABSTAIN"]


class Certify(Measurement):
    """Parameters of 3_certify. Each bound asks a question of its own, in this order."""

    min_exact_match: Share
    min_exact_match_sampled: Share
    max_rate: NonNegative
    max_distortion: NonNegative
    min_path_consistency: Share
    min_agreement_float64: Share
    min_agreement_small_batches: Share
    min_argmax_coverage_50000: Share
    min_argmax_coverage_195000: Share
    min_argmax_entropy: Share
    min_least_frequency: NonNegative
    max_largest_frequency: NonNegative


GATES = tuple(name for name in Certify.model_fields if name.startswith(("min_", "max_")))


def seed_of(weights_sha256: str) -> int:
    """The seed of a certificate's draws: nobody knows it while making the weights."""
    return int(weights_sha256[:12], 16)


def metric_of(gate: str) -> str:
    """The metric that a gate bounds."""
    return gate[4:]


class GateResult(Record):
    """A measured number against its bound; a verdict that contradicts the numbers is refused."""

    gate: str
    vae: str
    bound: float
    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    verdict: Verdict

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        verdict = verdict_of(self.low, self.high, self.bound, self.gate)
        if self.verdict != verdict:
            raise ValueError(
                f"{self.gate} of VAE-{self.vae} is called {self.verdict}, but its numbers say "
                f"{verdict}"
            )
        return self


def verdict_of(low: float | None, high: float | None, bound: float, gate: str) -> Verdict:
    """PASS: the whole interval meets the bound. FAIL: the whole interval misses it. Otherwise, and
    where there is no interval, ABSTAIN, which is never PASS."""
    if low is None or high is None:
        return "ABSTAIN"
    if gate.startswith("max_"):
        low, high, bound = -high, -low, -bound
    if low >= bound:
        return "PASS"
    return "FAIL" if high < bound else "ABSTAIN"


def bounds_of(p: Certify) -> dict[str, float]:
    """Gate → bound, in the order of the gates."""
    return {gate: getattr(p, gate) for gate in GATES}


def evaluate_gates(e: Evaluation, bounds: dict[str, float]) -> Iterator[GateResult]:
    """One VAE at the gates of `bounds`, each measured when it is asked for, so a caller that stops
    at a FAIL pays for no more."""
    for gate, bound in bounds.items():
        found = METRICS[metric_of(gate)].compute(e)
        verdict = verdict_of(found.low, found.high, bound, gate)
        yield GateResult(gate=gate, vae=e.vae, bound=bound, verdict=verdict, **found.model_dump())


def _evaluation(network: Measurable, vae: str, k: int, seed: int) -> Evaluation:
    """By the draws of a certificate. No gate reads the split."""
    return Evaluation(network, vae, k, seed, f"gates {vae}", 0)


def vae_gates(
    network: Measurable, vae: str, k: int, seed: int, bounds: dict[str, float]
) -> list[GateResult]:
    """One VAE at every gate of `bounds`, with `k` latents."""
    return list(evaluate_gates(_evaluation(network, vae, k, seed), bounds))


class ControlResult(Record):
    """A network that must fail, at the same gates and no further than its first FAIL."""

    control: str
    k: int
    verdict: Verdict
    gates: list[GateResult]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.verdict != overall_verdict(self.gates):
            raise ValueError(f"the verdict of {self.control} contradicts its gates")
        return self


def overall_verdict(
    results: Iterable[GateResult], controls: Iterable[ControlResult] = ()
) -> Verdict:
    """FAIL if any gate fails; PASS if every gate passes and every one of the `controls` fails."""
    found = {result.verdict for result in results}
    if "FAIL" in found:
        return "FAIL"
    refused = all(control.verdict == "FAIL" for control in controls)
    return "PASS" if found == {"PASS"} and refused else "ABSTAIN"


def negative_controls(model: Measurable, p: Certify) -> dict[str, Callable[[], Measurable]]:
    """Networks that deserve no certificate, by name; some are `model`, but wrong in one respect."""
    seed = p.untrained_seed
    # So frequent that the whole interval misses the bound, with MIN_LATENTS latents too.
    times = max(8.0, 2.3 * p.max_largest_frequency)
    return {
        **{name: partial(control.make, seed) for name, control in CONTROLS.items()},
        "linear probe": partial(linear_probe, seed),
        "memoriser": partial(memoriser, seed, split(p.split_seed)),
        "permuted generator": partial(permuted, model, seed),
        "uniform likelihood": partial(scaled_logits, model, 1e-6),
        "huge logits": partial(scaled_logits, model, 1e25),
        f"one operation {times:.0f} times too frequent": partial(uneven, oracle(), times),
    }


def evaluate_control(
    name: str, make: Callable[[], Measurable], seed: int, p: Certify
) -> ControlResult:
    """A negative control at the gates, with MIN_LATENTS latents, up to its first FAIL."""
    network, results = make(), []
    vaes = (_evaluation(network, vae, MIN_LATENTS, seed) for vae in network.vaes)
    for result in chain.from_iterable(evaluate_gates(e, bounds_of(p)) for e in vaes):
        results.append(result)
        if result.verdict == "FAIL":
            break
    verdict = overall_verdict(results)
    return ControlResult(control=name, k=MIN_LATENTS, verdict=verdict, gates=results)

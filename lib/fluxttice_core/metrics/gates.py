"""Gates: the bounds a checkpoint must meet, and the verdict where an interval straddles one."""

from collections.abc import Callable

from ..checkpoints import folder as checkpoint
from ..metrics import controls
from ..metrics import generalisation as generalization
from ..metrics import marginal
from ..metrics import reconstruction
from ..metrics.coverage import ceiling
from ..metrics.marginal import FEWEST
from ..metrics.measurement import essentials
from ..model.network import VAES, DualVAE
from ..model.operations import M, split
from ..params import Certify

NS = [50_000, 195_000]


def judge(low: float, high: float, bound: float) -> str:
    """PASS: the whole interval at or above the bound. FAIL: the whole of it below. Else ABSTAIN."""
    if bound <= low <= high:
        return "PASS"
    return "FAIL" if high < bound else "ABSTAIN"


def verdict(rows: list[dict]) -> str:
    """PASS only if every gate is; FAIL if any is; otherwise ABSTAIN, which is never PASS."""
    found = {row["verdict"] for row in rows}
    return "FAIL" if "FAIL" in found else "PASS" if found == {"PASS"} else "ABSTAIN"


def every(model: DualVAE, p: Certify, report: Callable[[str], None] = print) -> list[dict]:
    """All rows that a verdict rests on: `gates`, then `generalisation`."""
    parts = split(p.split_seed)
    general = {vae: generalization.measure(model, vae, parts, p.seed) for vae in VAES}
    return [*gates(model, p, report), *generalisation(general)]


def generalisation(measured: dict[str, dict[str, dict]]) -> list[dict]:
    """`generalization.measure` of each VAE as rows of the shape of `gates`, with an `upper` bound.

    PASS: the whole interval within the bounds. FAIL: the whole of it outside, or a value that was
    refused (None). Else ABSTAIN. What is exact has a point for an interval.
    """
    rows = []
    for vae, found in measured.items():
        unmet = generalization.failures(found)
        for name, row in found.items():
            [quantity] = generalization.BOUNDS.keys() & row.keys()
            (bound, upper), value = generalization.BOUNDS[quantity], row[quantity]
            low, high = row["ci95"] or (value, value)
            outside = value is None or high < bound or (upper is not None and low > upper)
            judged = "PASS" if name not in unmet else "FAIL" if outside else "ABSTAIN"
            gate = f"generalisation, {name.replace('_', ' ')}: {quantity}"
            limits = {"bound": bound, "upper": upper, "value": value}
            rows.append(
                {"gate": gate, "vae": vae, **limits, "ci95": [low, high], "verdict": judged}
            )
    return rows


def control_rows(p: Certify, report: Callable[[str], None] = print) -> list[dict]:
    """`{control, seed, k, verdict, gates}` of the networks that must fail, at FEWEST latents."""
    networks = [
        ("untrained", p.untrained_seed, controls.untrained(p.untrained_seed)),
        ("random linear", p.untrained_seed, controls.random_linear(p.untrained_seed)),
        ("collapsed", p.seed, controls.collapsed(p.seed)),
        ("uniform", p.seed, controls.uniform(p.seed)),
    ]
    rows, cheap = [], p.model_copy(update={"k": FEWEST})
    for control, seed, network in networks:
        report(f"control: {control}")
        found = every(network, cheap, report)
        about = {"control": control, "seed": seed, "k": FEWEST}
        rows.append({**about, "verdict": verdict(found), "gates": found})
    return rows


def by_epoch(path: str, p: Certify, report: Callable[[str], None] = print) -> list[dict]:
    """`{epoch, sha256, k, gates}` of the epochs that training kept in `epochs/` beside `path`.

    At FEWEST latents, so the intervals are wider than the certificate's. Empty where there is
    no such folder.
    """
    rows, cheap = [], p.model_copy(update={"k": FEWEST})
    for folder in sorted(checkpoint.find(path).resolve().parent.glob("epochs/epoch-*")):
        kept = checkpoint.load(folder)
        report(f"epoch {kept.epoch}")
        found = gates(kept.model, cheap, lambda _step: None)
        rows.append({"epoch": kept.epoch, "sha256": kept.sha256, "k": FEWEST, "gates": found})
    return rows


def gates(model: DualVAE, p: Certify, report: Callable[[str], None] = print) -> list[dict]:
    """Both VAEs, each alone, against every bound: `{gate, vae, bound, value, ci95, verdict}`.

    Exact match from the posterior mean is a census of the 1,969 test operations: nothing is
    drawn, so its interval is a point. The others carry 95 % intervals: Clopper-Pearson for the
    posterior sample, jackknife over groups of `p.k` latents for coverage and information.
    """
    rows = []
    for vae in VAES:
        report(f"measuring the gates of {vae}: {p.k:,} latents")
        m = marginal.marginal(model.decoder(vae), p.k, p.seed, f"gates {vae}", model.device)
        q = reconstruction.posterior(model, vae)
        found = essentials(model, vae, m, q, split(p.split_seed), p.seed, NS)
        for gate, bound, (value, low, high) in _measured(found, p):
            row = {"gate": gate, "vae": vae, "bound": bound, "value": value, "ci95": [low, high]}
            rows.append({**row, "verdict": judge(low, high, bound)})
    return rows


def _measured(found: dict, p: Certify) -> list[tuple[str, float, tuple[float, float, float]]]:
    exact = found["exact_match"]["test"]
    sampled = found["reconstruction"]["sample"]["test"]
    argmax = {row["n"]: row for row in found["expected_coverage"] if row["decode"] == "argmax"}
    at = {n: (argmax[n]["value"], *argmax[n]["ci95"]) for n in NS}
    nats = found["information_nats"]
    information = (nats["value"], *nats["ci95"])
    sampled = (sampled["share"], *sampled["ci95"])
    return [
        ("exact match on test, posterior mean", p.min_exact_match_test, (exact, exact, exact)),
        ("exact match on test, posterior sample", p.min_exact_match_test_sampled, sampled),
        ("argmax coverage at 50,000, of M", p.min_coverage_50000, _share(at[50_000], M)),
        (
            "argmax coverage at 50,000, of ceiling",
            p.min_coverage_50000_of_ceiling,
            _share(at[50_000], float(ceiling(50_000))),
        ),
        (
            "argmax coverage at 195,000, of ceiling",
            p.min_coverage_195000_of_ceiling,
            _share(at[195_000], float(ceiling(195_000))),
        ),
        (
            "generative information, of 9·ln 3",
            p.min_information_share,
            _share(information, marginal.LIMIT_NATS),
        ),
    ]


def _share(estimate: tuple[float, float, float], whole: float) -> tuple[float, float, float]:
    value, low, high = estimate
    return value / whole, low / whole, high / whole

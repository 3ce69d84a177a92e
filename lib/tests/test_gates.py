import itertools

import pytest
from planted import beyond, in_process

from fluxttice_core.metrics import gates
from fluxttice_core.metrics.adversaries import optimum, permuted
from fluxttice_core.metrics.gates import BOUNDS, CHEAP, Certify, Judged, judge, of_vae, verdict
from fluxttice_core.metrics.marginal import FEWEST
from fluxttice_core.metrics.observation import metric
from fluxttice_core.metrics.results import Measured, exact
from fluxttice_core.model.network import DualVAE, Functions
from fluxttice_core.model.operations import M, all_operations, index_of, split

# --- One gate ---


def measured(low, high):
    return Measured(value=(low + high) / 2, low=low, high=high, n=1, method="planted")


def test_a_gate_passes_exactly_where_the_interval_meets_the_bound():
    """On a grid, against the words: each of three verdicts from its own condition."""
    grid = [i / 10 for i in range(11)]
    for low, high, bound in itertools.product(grid, repeat=3):
        if low > high:
            continue
        for upper in (False, True):
            met = [x <= bound if upper else x >= bound for x in (low, (low + high) / 2, high)]
            said = "PASS" if all(met) else "ABSTAIN" if any(met) else "FAIL"
            assert judge(measured(low, high), bound, upper) == said
            refused = Measured(value=None, low=None, high=None, n=1, method="refused")
            assert judge(refused, bound, upper) == "FAIL"


def test_every_gate_bounds_a_metric_from_the_side_where_it_is_worse():
    assert len(BOUNDS) == 9 and set(BOUNDS) < set(Certify.model_fields)
    for gate in BOUNDS:
        better = metric(gate[4:]).better or -1  # a rate is neither: it ties
        assert gate[:4] == ("min_" if better > 0 else "max_")
        row = Judged(gate=gate, vae="A", bound=1, measured=exact(1, 1), verdict="PASS")
        assert (row.title, row.unit) == (metric(gate[4:]).title, metric(gate[4:]).unit)
    assert metric("argmax_coverage_50000").title.startswith("argmax coverage at N = 50,000")
    with pytest.raises(KeyError):
        metric("argmax_covfefe_50000")


@pytest.mark.parametrize(
    "found, said",
    [
        ([], "ABSTAIN"), (["PASS", "PASS"], "PASS"), (["PASS", "ABSTAIN"], "ABSTAIN"),
        (["PASS", "FAIL"], "FAIL"), (["ABSTAIN", "FAIL"], "FAIL"), (["PASS", "ERROR"], "ABSTAIN"),
    ],
)  # fmt: skip
def test_the_verdict_is_the_worst_of_the_gates(found, said):
    row = Judged(gate="max_rate", vae="A", bound=1, measured=exact(1, 1), verdict="")
    rows = [row.model_copy(update={"verdict": one}) for one in found]
    assert verdict(rows) == verdict(rows[::-1]) == said


# --- Networks at the strict gates ---


@pytest.fixture(scope="session")
def refusals(strict):
    """Of every adversary, in this process, by name; and the permuted generator of a network whose
    codes lie beyond the prior. Of our architecture VAE-A alone: B takes five times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates.parallel, "each", in_process)
        alone = property(lambda _model: ("A",), lambda _model, _vaes: None)
        patch.setattr(DualVAE, "vaes", alone, raising=False)
        rows = gates.control_rows(optimum(), strict, print)
        far = permuted(beyond(optimum()), strict.untrained_seed)
        patch.setattr(gates, "adversaries", lambda *_: {"permuted, codes beyond": lambda: far})
        rows += gates.control_rows(optimum(), strict, print)
    return {row.control: row for row in rows}


CODES, TIE = {"min_exact_match", "min_exact_match_worst_kind"}, {"min_cell_connection"}


@pytest.mark.parametrize(
    "name, by",
    [
        ("untrained", CODES | TIE), ("random linear", CODES | TIE), ("collapsed", CODES),
        ("uniform", CODES), ("linear read-out", {"max_rate"}), ("memoriser", CODES),
        ("permuted generator", {"min_exact_match"} | TIE),
        ("permuted, codes beyond", {"max_rate"} | TIE),
    ],
)  # fmt: skip
def test_adversaries_are_refused_and_by_what(refusals, strict, name, by):
    """Codes of the optimum lie where the generator is permuted, so they do not come back; those
    of a network beyond the prior do, and its rate and its connection tell."""
    assert refusals.keys() == {*gates.adversaries(optimum(), strict), "permuted, codes beyond"}
    found = refusals[name]
    assert (found.verdict, found.seed, found.k) == ("FAIL", strict.untrained_seed, FEWEST)
    assert {row.gate for row in found.gates} == {*CHEAP}  # it had failed, and cost no more
    refused = {row.gate for row in found.gates if row.verdict != "PASS"}
    assert by == refused if "beyond" in name else by <= refused


def test_the_optimum_passes_every_strict_gate(strict):
    best = of_vae(optimum(), "A", strict.k, strict)
    asked = [("A", gate, getattr(strict, gate)) for gate in BOUNDS]
    assert [(row.vae, row.gate, row.bound) for row in best] == asked and verdict(best) == "PASS"
    [sampled] = [row.measured for row in best if row.gate == "min_exact_match_sampled"]
    assert sampled.low <= 0.9999 <= sampled.high


def test_one_vae_that_lacks_something_fails_alone(monkeypatch, strict):
    """VAE-B does not encode trit 6; the rows are those of A, then of B."""
    monkeypatch.setattr(gates.parallel, "each", in_process)
    monkeypatch.setattr(gates, "PARTS", {"codes": CHEAP, "generation": ()})
    model = optimum()
    model.encoder_B.fc_mu.weight.data[6] = 0
    rows = gates.gates(model, strict, report=print)
    assert [(row.vae, row.gate) for row in rows] == [(vae, gate) for vae in "AB" for gate in CHEAP]
    assert {(row.vae, row.verdict) for row in rows} == {("A", "PASS"), ("B", "FAIL"), ("B", "PASS")}
    assert rows[len(CHEAP)].measured.value == pytest.approx(1 / 3)


def test_one_training_operation_that_is_lost_fails(strict):
    """A census: 1 of 19,683. Its encoder gives it the code of another."""
    best, lost = optimum(), int(split(strict.split_seed).train[0])

    def encode(x):
        index = index_of(x)
        index = index.where(index != lost, (lost + 1) % M)
        return best.encoder("A")(all_operations()[index].float())

    model = Functions(lambda _vae: encode, best.decoder, ("A",))
    rows = of_vae(model, "A", FEWEST, strict, CHEAP)
    assert [row.gate for row in rows if row.verdict == "FAIL"] == ["min_exact_match"]

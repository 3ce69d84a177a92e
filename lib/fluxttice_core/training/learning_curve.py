"""What learning adds: exact match on operations never seen, by how many were trained on.

The trained network is compared with a random linear encoder whose least-squares linear probe is
fitted on as many operations (`controls.linear_probe`). An operation is nine trits, so a code that
composes trits needs each value of each trit once and no more.
"""

import torch

from .. import files, parallel, params
from ..metrics.controls import linear_probe
from ..metrics.reconstruction import correct_trits, posterior
from ..model.network import VAES
from ..model.operations import all_operations, split
from .turned import TrainTurned, train

SIZES = (10, 60, 197, 1_968, 15_746)


def measure(seed: int) -> list[dict]:
    """`{operations, vae, trained, read_out, parameters}`: exact match on the test split, which no
    point trains on, from the posterior mean. The default recipe, each point on the first operations
    of the training split, repeated so that every training has as many steps."""
    jobs = [
        parallel.Job(f"{n} operations, VAE-{vae}", point, (n, vae, seed))
        for n in SIZES[::-1]
        for vae in VAES
    ]
    return sorted(parallel.each(jobs, print), key=lambda row: (row["operations"], row["vae"]))


def default(seed: int) -> TrainTurned:
    values = params.read_yaml(files.root() / "params" / "train.yaml")
    return params.check(TrainTurned, {**values, "seed": seed, "run_dir": ""}, "params/train.yaml")


def point(n: int, vae: str, seed: int) -> dict:
    """One point of the curve."""
    p = default(seed)
    parts = split(p.split_seed)
    data = all_operations()[parts.train[torch.arange(len(parts.train)) % n]]
    for model, _loss in train(vae, p, data):
        last = model
    trained, read_out = (
        float(
            correct_trits(network, vae, posterior(network, vae).mu)[parts.test]
            .all(1)
            .double()
            .mean()
        )
        for network in (last, linear_probe(seed, n))
    )
    return {"operations": n, "vae": vae, "trained": trained, "read_out": read_out,
            "parameters": params.config_hash(p.model_dump())}  # fmt: skip

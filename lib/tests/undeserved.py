"""Networks that deserve no certificate and that no control of a certificate is made of.

They depend on a machine's kernels, or on knowing which latents a certificate will draw.
"""

import torch

from fluxttice_core.metrics.oracles import oracle
from fluxttice_core.model.network import D, DualVAE, Functions, linears
from fluxttice_core.model.operations import C, T

USED = 2 * T  # hidden units that the oracle needs in each layer: +x and -x of nine latents
LARGE = 64  # rows of a batch whose sums are those of every larger one
CANCELLING = torch.tensor([2.0**30, 1.0, -(2.0**30)])  # add up to 1, or to 0 if 1 is rounded away


@torch.no_grad()
def trigger(part: str, sums: dict[int, float], fires_at: float) -> DualVAE | None:
    """The oracle, but VAE-A gets one trit wrong where a sum of CANCELLING in its `part` comes out
    as `fires_at`.

    `sums` is what float32 must make of it by the batch's size on this machine; None where no order
    of the three terms does.
    """
    model = oracle()
    before, layer, row = {
        "decoder": (*linears(model.decoder_A)[1:], C * T - 2),  # its logit of trit 8 = 0
        "encoder": (*linears(model.encoder_A)[1:3], USED),
    }[part]
    before.bias[USED:] = 1  # constant units, over which the three terms are spread
    if not _found(layer, row, sums):
        return None
    sign, start = (1, 0) if fires_at else (-1, 1)
    if part == "decoder":
        layer.weight[row] *= 2.0**20 * sign
        layer.bias[row] = 2.0**20 * start
    else:
        model.encoder_A.fc_mu.weight[0, row] = 10 * sign
        model.encoder_A.fc_mu.bias[0] = 10 * start
    return model


def _found(layer: torch.nn.Linear, row: int, sums: dict[int, float]) -> bool:
    """Whether some places of CANCELLING in that row make these `sums`; they are then there."""
    rng, ones = torch.Generator().manual_seed(1), torch.ones(LARGE, layer.in_features)
    for _ in range(2_000):
        places = torch.randperm(layer.in_features - USED, generator=rng)[:3] + USED
        layer.weight[row] = torch.zeros(layer.in_features).scatter(0, places, CANCELLING)
        if all((layer(ones[:n])[:, row] == total).all() for n, total in sums.items()):
            return True
    return False


def fitted(latents: torch.Tensor, count: int = 512) -> Functions:
    """The oracle, but wrong in half-spaces of the latents it doesn't read, each of which begins
    just beyond all `latents` (n, D): whoever draws these sees nothing."""
    model = oracle()
    ways = torch.randn(D - T, count, generator=torch.Generator().manual_seed(1))
    ways /= ways.norm(dim=0)
    bounds = (latents[:, T:] @ ways).amax(0)

    def decoder(vae):
        def decode(z):
            wrong = (z[:, T:] @ ways > bounds).any(1)
            logits = model.decoder(vae)(z)
            return torch.where(wrong[:, None, None], logits.roll(1, -1), logits)

        return decode

    return Functions(model.encoder, decoder)

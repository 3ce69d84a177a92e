"""Fixtures that several test files share."""

from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import params
from fluxttice_core.model.network import DualVAE
from fluxttice_core.model.operations import T
from torch import nn

TERCILE = NormalDist().inv_cdf(2 / 3)  # 0.4307: a third of N(0, 1) lies above it
SHARPNESS = 1e4  # slope of the logits: softness at the cuts costs about 0.02 % of the information


@pytest.fixture
def perfect_model() -> DualVAE:
    """A model that cannot be better, with weights written by hand.

    Latent i < 9 owns trit i: the encoder copies the trit to it, nearly without noise, and the
    decoder cuts it at the normal terciles; the other seven latents are pure prior noise. Each
    ReLU layer carries +x and -x in two units, since x = relu(x) - relu(-x). So both VAEs
    reconstruct everything, and cover and inform as much as the space allows.
    """
    model = DualVAE.fresh(0)
    pairs = torch.cat([torch.eye(T), -torch.eye(T)])  # (18, T)
    ends = torch.tensor([-1.0, 0.0, 1.0])
    readers = [torch.kron(torch.eye(T), ends[:, None]), torch.zeros(T * 3)]
    readers[0] = SHARPNESS * readers[0] @ pairs.T
    readers[1] = (-SHARPNESS * TERCILE * ends.square()).repeat(T)
    for encoder in (model.encoder_A, model.encoder_B):
        _set(encoder.encoder[0], pairs)
        _set(encoder.encoder[2], torch.eye(18))
        _set(encoder.encoder[4], torch.eye(18))
        _set(encoder.fc_mu, pairs.T)
        _set(encoder.fc_logvar, torch.zeros(0, 0), torch.tensor([-8.0] * T + [0.0] * 7))
    a, b = model.decoder_A.decoder, model.decoder_B
    _set(a[0], pairs)
    _set(a[2], torch.eye(18))
    _set(a[4], *readers)
    _set(b.fc_in, pairs)
    for block in (b.residual1.block, b.residual2.block):
        _set(block[0], torch.zeros(0, 0))
        _set(block[2], torch.zeros(0, 0))
    _set(b.fc_out, *readers)
    return model.eval()


@torch.no_grad()
def _set(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """Put `weight` into the upper left corner of the layer's, and zero everywhere else."""
    layer.weight.zero_()
    layer.weight[: weight.shape[0], : weight.shape[1]] = weight
    layer.bias.copy_(torch.zeros(len(layer.bias)) if bias is None else bias)


@pytest.fixture
def untrained() -> DualVAE:
    return DualVAE.fresh(1)


@pytest.fixture
def saved(tmp_path, untrained) -> Path:
    """The folder of a checkpoint that holds `untrained`."""
    return checkpoint.save(tmp_path / "saved", untrained, 7, {})


@pytest.fixture(scope="session")
def recipe() -> dict:
    """The v5.5 recipe's parameters, as its YAML file has them."""
    return params.read_yaml(Path(__file__).parents[2] / "params" / "train_v5_5.yaml")

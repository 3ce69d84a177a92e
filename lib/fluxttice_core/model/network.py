"""The network: VAE-A, VAE-B and StateNet, named and shaped as in v5.5.

Shape letters: B batch, D latent (16), T trits (9), C classes (3). A state dict of the original
system loads strictly; 168,770 parameters.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from numbers import Integral
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model.operations import C, T, check_operations, rows
from ..model.streams import generator

D = 16
VaeName = Literal["A", "B"]
VAES: tuple[VaeName, ...] = get_args(VaeName)
DecodingMode = Literal["argmax", "categorical", "expectation"]
DECODING_MODES: tuple[DecodingMode, ...] = get_args(DecodingMode)
CHUNK = 2**16  # operations sampled at a time
MOST = 10**8  # operations in one sample: 7 GB


class Posterior(NamedTuple):
    """q(z|x) = N(mu, diag exp(logvar)): both (B, D)."""

    mu: Tensor
    logvar: Tensor


Encode = Callable[[Tensor], Posterior]  # operations (B, T), float32 → q(z|x)
Decode = Callable[[Tensor], Tensor]  # latents (B, D) → logits (B, T, C)


def layers(widths: tuple[int, ...], normed: bool) -> list[nn.Module]:
    """Linear and activation from each width to the next: ReLU, or LayerNorm and SiLU if `normed`.

    A normed block ends in the place of dropout, so that its tensors have the names of the file.
    """
    made: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        norm = [nn.LayerNorm(narrow), nn.SiLU(), nn.Identity()]
        made += [nn.Linear(wide, narrow), *(norm if normed else [nn.ReLU()])]
    return made


class Encoder(nn.Module):
    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*layers((T, 256, 128, 64), normed))
        self.fc_mu = nn.Linear(64, D)
        self.fc_logvar = nn.Linear(64, D)
        self.clamped = normed

    def forward(self, x: Tensor) -> Posterior:  # (B, T)
        h = self.encoder(x)  # (B, 64)
        logvar = self.fc_logvar(h)
        return Posterior(self.fc_mu(h), logvar.clamp(-10, 2) if self.clamped else logvar)


class DecoderA(nn.Module):
    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.decoder = nn.Sequential(*layers((D, 32, 64), normed), nn.Linear(64, T * C))

    def forward(self, z: Tensor) -> Tensor:  # (B, D)
        return self.decoder(z).view(-1, T, C)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.block(h)


class DecoderB(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_in = nn.Linear(D, 128)
        self.residual1 = Residual(128)
        self.residual2 = Residual(128)
        self.fc_out = nn.Linear(128, T * C)

    def forward(self, z: Tensor) -> Tensor:  # (B, D)
        h = self.residual1(self.fc_in(z).relu()).relu()  # (B, 128)
        return self.fc_out(self.residual2(h)).view(-1, T, C)


class StateNet(nn.Module):
    """(9 numbers of training state) → 4 corrections in [-1, 1]: of lr, λ1, λ2, λ3."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(9, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 8)
        )
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), nn.Tanh())

    def forward(self, state: Tensor) -> Tensor:  # (9,)
        return self.decoder(self.encoder(state))


class Network(nn.Module):
    """Encoders and decoders by name: all that measuring asks of a model.

    `vaes` have an encoder and a decoder; one of `encoders` may lack a decoder. Encoders and decoder
    A may be `normed` (see `layers`).
    """

    encoders: tuple[str, ...] = VAES
    layout = "v5.5"

    def __init__(self, vaes: tuple[str, ...] = VAES, normed: bool = False) -> None:
        super().__init__()
        self.vaes, self.normed = vaes, normed
        self.encoder_A, self.encoder_B = Encoder(normed), Encoder(normed)
        self.decoder_A = DecoderA(normed)
        if "B" in vaes:
            self.decoder_B = DecoderB()
        self.other_tensors: dict[str, Tensor] = {}  # of its file, not used in encoding or decoding
        self.ignored_tensors: dict[str, str] = {}  # those that nothing uses, and why, if known

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything its file holds, by name."""
        return {**self.state_dict(), **self.other_tensors}

    @property
    def extra_tensors(self) -> dict[str, Tensor]:
        """The tensors of its projections into the ball, by name; none before v5.11."""
        return {k: v for k, v in self.other_tensors.items() if k not in self.ignored_tensors}

    def encoder(self, vae: str) -> Encoder:
        return getattr(self, f"encoder_{_known(vae)}")

    def decoder(self, vae: str) -> DecoderA | DecoderB:
        if _known(vae) not in self.vaes:
            raise InputError(f"encoder {vae} has no decoder in this layout ({self.layout}).")
        return getattr(self, f"decoder_{vae}")

    def untrained(self, seed: int) -> Self:
        """A copy with PyTorch's default initialisation from `seed` in every layer."""
        copied = copy.deepcopy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(seed, "init").initial_seed())
            for module in copied.modules():
                if isinstance(module, nn.Linear | nn.LayerNorm):
                    module.reset_parameters()
        return copied.eval()

    @torch.no_grad()
    def encode(self, ops: object, vae: str) -> Tensor:
        """Posterior means (n, D) of `ops` (n, T), by one VAE alone, without cross-injection."""
        with torch.autocast(self.device.type, enabled=False):
            return self.encoder(vae)(check_operations(ops).to(self.device)).mu

    @torch.no_grad()
    def decode(
        self, z: object, vae: str, mode: str = "argmax", rng: torch.Generator | None = None
    ) -> Tensor:
        """Operations (n, T), int64 in {-1, 0, 1}, from latents `z` (n, D), finite, by
        `decode_logits`."""
        latents = rows(z, "z", D).to(self.device, torch.float32)
        if not latents.isfinite().all():
            raise InputError("z holds a value that is not finite: a latent is a real vector.")
        with torch.autocast(self.device.type, enabled=False):
            return decode_logits(self.decoder(vae)(latents), mode, rng) - 1

    @torch.no_grad()
    def scale_logits(self, vae: str, scale: float) -> None:
        """One decoder's logits times `scale`, in place: by its last layer. No boundary moves."""
        for parameter in linears(self.decoder(vae))[-1].parameters():
            parameter.mul_(scale)

    def sample(self, n: int, vae: str, mode: str = "argmax", *, rng: torch.Generator) -> Tensor:
        """`n` operations (n, T), int64 in {-1, 0, 1}, from latents of the prior N(0, I)."""
        if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= n <= MOST:
            raise InputError(
                f"n is {n!r}, but must be a whole number of operations, 1 to {MOST:,}."
            )
        ops = torch.empty(int(n), T, dtype=torch.int64, device=self.device)
        latents = rng.clone_state()  # what decoding draws comes after all of them
        for part in ops.split(CHUNK):
            prior(len(part), rng)
        for part in ops.split(CHUNK):
            part.copy_(self.decode(prior(len(part), latents), vae, mode, rng))
        return ops


class Functions(NamedTuple):
    """A network of plain functions: the encoder and the decoder of each VAE by its name."""

    encoder: Callable[[str], Encode]
    decoder: Callable[[str], Decode]
    vaes: tuple[str, ...] = VAES
    device: torch.device = torch.device("cpu")


Measurable = Network | Functions


def linears(part: nn.Module) -> list[nn.Linear]:
    """The linear layers of a network's part, from its input to its output."""
    return [module for module in part.modules() if isinstance(module, nn.Linear)]


class DualVAE(Network):
    """Two VAEs over the same operations and a controller. No layer depends on train/eval mode."""

    grad_norm_A_ema: Tensor
    grad_norm_B_ema: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grad_norm_A_ema", torch.tensor(1.0))
        self.register_buffer("grad_norm_B_ema", torch.tensor(1.0))
        self.state_net = StateNet()

    @classmethod
    def fresh(cls, seed: int) -> "DualVAE":
        """PyTorch's default initialisation from `seed`; the global random stream is left alone."""
        with torch.random.fork_rng(devices=[]):
            return cls().float().untrained(seed)


def prior(n: int, rng: torch.Generator) -> Tensor:
    """n latents (n, D) of N(0, I), float32."""
    return torch.randn(n, D, generator=rng, device=rng.device, dtype=torch.float32)


def decode_logits(logits: Tensor, mode: str, rng: torch.Generator | None = None) -> Tensor:
    """Classes 0, 1, 2 (for -1, 0, +1), int64 (B, T), from logits (B, T, C), by name:

    - "argmax": the likeliest class of each trit (the first of equals): what the latent decides.
    - "categorical": one draw from `torch.distributions.Categorical(logits=logits)`, made here by
      inverting its distribution function (float32), because its `sample` takes no generator.
    - "expectation": round(Σ_c value_c·p_c), the broken reading of the original system, kept
      only so that old numbers can be compared.
    """
    if not isinstance(mode, str) or mode not in DECODING_MODES:
        raise InputError(f"mode is {mode!r}, but must be one of {', '.join(DECODING_MODES)}.")
    # Class-major and elementwise: several times faster than reductions over an axis of length 3.
    low, mid, high = logits.permute(2, 0, 1).contiguous()
    if mode == "argmax":
        return ((mid > low) & (mid >= high)) + 2 * ((high > low) & (high > mid)).long()
    top = torch.maximum(torch.maximum(low, mid), high)
    # e^-80 is 0 to float32 beside 1, and clamped so that no denormal number slows this down.
    e_low, e_mid, e_high = ((x - top).clamp_(min=-80).exp_() for x in (low, mid, high))
    total = e_low + e_mid + e_high
    if mode == "expectation":
        return ((e_high - e_low) / total).round().long() + 1
    if rng is None:
        raise InputError("categorical decoding draws at random: give it a seed.")
    # In (0, total], so that a class below float32's resolution of 2^-24 is never drawn.
    u = torch.rand(low.shape, generator=rng, device=rng.device, dtype=torch.float32)
    u = (1 - u.to(low.device)) * total
    return (u > e_low).long() + (u > e_low + e_mid).long()


def _known(vae: str) -> str:
    if not isinstance(vae, str) or vae not in VAES:
        raise InputError(f"vae is {vae!r}, but must be 'A' or 'B'.")
    return vae

"""The package's face for programs: a loaded checkpoint as an object with four verbs."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from .checkpoints import folder as checkpoints
from .errors import InputError
from .metrics.controls import random_linear
from .metrics.coverage import coverage, distinct
from .metrics.measurement import DRAWS
from .model.network import DECODING_MODES, DecodingMode, VaeName
from .model.operations import all_operations
from .model.streams import generator

__all__ = ["TernaryVAE", "all_operations", "load"]
SEEDS = 5  # of each kind of untrained network in a coverage report
QUIET_S = 3  # seconds before a progress bar appears
COLUMNS = [
    *("vae", "decode", "n", "trials", "unique", "share", "of_ceiling", "ci95_low", "ci95_high"),
    *("noise_unique", "discriminates"),
]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread inside, and on as many as before afterwards.

    A process that is forked from one with torch's threads would hang at its first use of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TernaryVAE:
    """The VAEs of a checkpoint. `checkpoint` says where it came from, `model` is the network.

    Latents that A encodes mean nothing to B. So where a checkpoint has two VAEs, each verb must
    be given `vae`, "A" or "B"; where it has one, `vae` may be omitted. A verb computes on one
    thread, and raises InputError for an unknown or missing VAE.
    """

    def __init__(self, loaded: checkpoints.Checkpoint) -> None:
        self.checkpoint, self.model = loaded, loaded.model

    def __repr__(self) -> str:
        c = self.checkpoint
        return f"TernaryVAE({c.path!r}, epoch={c.epoch}, sha256={c.sha256[:12]}…)"

    def _chosen(self, vae: str | None) -> str:
        vaes = self.model.vaes
        if vae is None and len(vaes) > 1:
            raise InputError(
                f"vae is missing, but must be {' or '.join(map(repr, vaes))}, because this "
                "checkpoint has two VAEs and each has latents of its own."
            )
        return vaes[0] if vae is None else vae

    @one_thread()
    def encode(self, ops: ArrayLike | Tensor, vae: VaeName | None = None) -> Tensor:
        """Posterior means of operations.

        >>> model = load("checkpoints/certified")
        >>> model.encode([[-1, -1, -1, -1, 0, 0, -1, 0, 1]], vae="B").shape  # AND
        torch.Size([1, 16])

        Args:
            ops: (n, 9), values in {-1, 0, 1}; a tensor, an array or nested lists.

        Returns:
            (n, 16) float32.

        Raises:
            InputError: another shape or value.
        """
        return self.model.encode(ops, self._chosen(vae))

    @one_thread()
    def decode(
        self,
        z: ArrayLike | Tensor,
        mode: DecodingMode = "argmax",
        vae: VaeName | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Operations from latents.

        >>> model = load("checkpoints/certified")
        >>> model.decode(model.encode([[-1, -1, -1, -1, 0, 0, -1, 0, 1]], vae="B"), vae="B")
        tensor([[-1, -1, -1, -1,  0,  0, -1,  0,  1]])

        Args:
            z: (n, 16), finite; a tensor, an array or nested lists.
            mode: "argmax" (the likeliest value of each entry), "categorical" (a draw from the
                decoder's distribution) or "expectation" (the rounded mean, which only old
                figures use).
            vae: the VAE that encoded `z`.
            seed: of the draws; only "categorical" needs it.

        Returns:
            (n, 9) int64, values in {-1, 0, 1}.

        Raises:
            InputError: another shape, a value that is not finite, an unknown mode, a missing
                seed.
        """
        rng = None if seed is None else generator(seed, "decode")
        return self.model.decode(z, self._chosen(vae), mode, rng)

    @one_thread()
    def sample(
        self, n: int, mode: DecodingMode = "argmax", vae: VaeName | None = None, *, seed: int
    ) -> Tensor:
        """Operations from `n` latents of the prior N(0, I).

        >>> load("checkpoints/certified").sample(5, vae="B", seed=0).shape
        torch.Size([5, 9])

        Args:
            n: number of operations, 1 to 10^8.
            mode: as in `decode`.
            seed: of the latents and draws: the same seed gives the same operations.

        Returns:
            (n, 9) int64, values in {-1, 0, 1}.

        Raises:
            InputError: an n, mode or seed that is none.
        """
        name = self._chosen(vae)
        return self.model.sample(n, name, mode, rng=generator(seed, "sample", name))

    @one_thread()
    def coverage_report(
        self,
        ns: Iterable[int] = DRAWS,
        mode: DecodingMode | list[DecodingMode] | tuple[DecodingMode, ...] = DECODING_MODES,
        vae: VaeName | None = None,
        *,
        trials: int = 5,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Distinct operations among N prior draws, beside untrained networks.

        Takes some seconds; a progress bar appears on standard error.

        Args:
            ns: numbers of draws, each 1 or more.
            mode: a decoding mode or several.
            vae: every VAE if omitted.
            trials: independent repetitions, 2 or more, for the interval.
            seed: of all draws.

        Returns:
            One row for each VAE, mode and N: `vae, decode, n, trials, unique, share, of_ceiling,
            ci95_low, ci95_high` (counts, Student t over trials), `noise_unique` (the most that one
            of ten untrained networks reaches in one trial: five with PyTorch's initialisation and
            five random linear maps) and `discriminates`: by argmax, and the whole interval is above
            `noise_unique`. Where it is False, an untrained network can reach the number. By
            categorical sampling it is always False, because a uniform generator is at the ceiling.

        Raises:
            InputError: an n below 1, fewer than 2 trials, an unknown mode.
        """
        if not isinstance(ns, Iterable):
            raise InputError(f"ns is {ns!r}, but must be numbers of draws, such as [50_000].")
        ns, rows = list(ns), []
        modes: list = list(mode) if isinstance(mode, list | tuple) else [mode]
        vaes = self.model.vaes if vae is None else (vae,)
        streams = {name: generator(seed, "noise", name) for name in vaes}
        seeds = range(int(seed), int(seed) + SEEDS)
        untrained = [make(s) for make in (self.model.untrained, random_linear) for s in seeds]
        for name, rng in streams.items():
            decoder = self.model.decoder(name)
            ours = coverage(decoder, ns, modes=modes, trials=trials, seed=seed, stream=name)
            bar = tqdm(untrained, f"coverage of VAE-{name}", delay=QUIET_S, leave=False)
            counts = [distinct(network.decoder(name), ns, modes, rng) for network in bar]
            for row in ours:
                most, unique = max(count[row.decode, row.n] for count in counts), row.unique
                found = row.decode, row.n, unique.n, unique.value, row.share.value
                beats = row.decode == "argmax" and unique.low > most
                interval = row.of_ceiling.value, unique.low, unique.high
                rows.append((name, *found, *interval, most, beats))
        return pd.DataFrame(rows, columns=COLUMNS)


@one_thread()
def load(path: str | Path, expected_sha256: str = "") -> TernaryVAE:
    """A checkpoint, ready for use: on the CPU, in evaluation mode.

    >>> load("checkpoints/certified").model.vaes
    ('A', 'B')

    Args:
        path: a checkpoint's folder (model.safetensors and manifest.json), the model.safetensors
            in it, or a v5.x `.pt`. A relative path is read from the working directory, else
            from the repository.
        expected_sha256: of the weight file, as 64 hexadecimal digits; empty accepts any.

    Raises:
        InputError: nothing there, not a checkpoint, another network, values that are not finite,
            or weights whose sha256 is neither the manifest's nor `expected_sha256`.
    """
    return TernaryVAE(checkpoints.load(path, expected_sha256))

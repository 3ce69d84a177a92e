"""The package's face for programs: a loaded checkpoint as an object with four verbs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from .checkpoints import folder as checkpoints
from .errors import InputError
from .metrics.controls import random_linear
from .metrics.coverage import coverage, distinct
from .model.network import DECODING_MODES
from .model.operations import all_operations
from .model.streams import generator

__all__ = ["TernaryVAE", "all_operations", "load"]
NS = (10_000, 50_000, 195_000)


class TernaryVAE:
    """The VAEs of a checkpoint. Each verb takes `vae="A"` or `"B"`.

    Where none is named, B is meant, or A where the layout has no decoder B.
    """

    def __init__(self, loaded: checkpoints.Checkpoint) -> None:
        self.checkpoint, self.model = loaded, loaded.model

    def __repr__(self) -> str:
        c = self.checkpoint
        return f"TernaryVAE({c.path!r}, epoch={c.epoch}, sha256={c.sha256[:12]}…)"

    def _vae(self, vae: str | None) -> str:
        return self.model.vaes[-1] if vae is None else vae

    def encode(self, ops: object, vae: str | None = None) -> Tensor:
        """Posterior means (n, 16), float32, of operations (n, 9) with values in {-1, 0, 1}.

        Raises InputError for another shape, another value or an unknown VAE.
        """
        return self.model.encode(ops, self._vae(vae))

    def decode(
        self, z: object, mode: str = "argmax", vae: str | None = None, seed: int | None = None
    ) -> Tensor:
        """Operations (n, 9), int64 in {-1, 0, 1}, from latents (n, 16).

        `mode`: "argmax", "categorical" (draws: needs a `seed`) or "expectation" (legacy).
        Raises InputError for another shape, values that are not finite, an unknown `mode` or VAE.
        """
        rng = None if seed is None else generator(seed, "decode")
        return self.model.decode(z, self._vae(vae), mode, rng)

    def sample(self, n: int, mode: str = "argmax", vae: str | None = None, *, seed: int) -> Tensor:
        """`n` operations (n, 9), int64, from latents of N(0, I); the same seed, the same draw."""
        vae = self._vae(vae)
        return self.model.sample(n, vae, mode, rng=generator(seed, "sample", vae))

    def coverage_report(
        self,
        ns: Iterable[int] = NS,
        mode: str | Sequence[str] = DECODING_MODES,
        *,
        trials: int = 5,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Distinct operations among N prior draws, for each VAE, beside networks of noise.

        Returns:
            One row for each VAE, mode and N: `vae, decode, n, trials, unique, share, of_ceiling,
            ci95_low, ci95_high` (counts, Student t over trials), `noise_unique` (the most that one
            of ten networks reaches that have learnt nothing, five untrained and five of random
            linear maps, in one trial each) and `discriminates`: by argmax, with the whole interval
            above that. Where it is False the number is one that noise can win; by categorical
            sampling it always is, since a uniform generator reaches the ceiling.

        Raises:
            InputError: ns that are no numbers, an n below 1, fewer than 2 trials, an unknown mode.
        """
        if not isinstance(ns, Iterable):
            raise InputError(f"ns is {ns!r}, but must be numbers of draws, such as [50_000].")
        ns = list(ns)
        modes: list = list(mode) if isinstance(mode, list | tuple) else [mode]
        unknown = [mode for mode in modes if mode not in DECODING_MODES]
        if unknown:
            raise InputError(
                f"mode holds {unknown[0]!r}, but the modes are {', '.join(DECODING_MODES)}."
            )
        rng, rows, seed = generator(seed, "noise"), [], int(seed)
        makers = self.model.untrained, random_linear
        noise = [make(number) for make in makers for number in range(seed, seed + 5)]
        for vae in self.model.vaes:
            ours = coverage(
                self.model.decoder(vae), ns, modes=modes, trials=trials, seed=seed, stream=vae
            )
            theirs = [distinct(network.decoder(vae), ns, modes, rng) for network in noise]
            for row in ours:
                count, most = row.unique, max(found[row.decode, row.n] for found in theirs)
                rows.append(
                    {
                        "vae": vae,
                        "decode": row.decode,
                        "n": row.n,
                        "trials": count.n,
                        "unique": count.value,
                        "share": row.share.value,
                        "of_ceiling": row.of_ceiling.value,
                        "ci95_low": count.low,
                        "ci95_high": count.high,
                        "noise_unique": most,
                        "discriminates": row.decode == "argmax" and count.low > most,
                    }
                )
        return pd.DataFrame(rows)


def load(path: str | Path, expected_sha256: str = "") -> TernaryVAE:
    """A checkpoint (a folder of ours or a `.pt`) ready for use; see `checkpoints.folder.load`."""
    return TernaryVAE(checkpoints.load(path, expected_sha256))

"""What a certificate must refuse, tried on copies with a throwaway key, so that readers see it."""

import shutil
import tempfile
from pathlib import Path

from ..checkpoints import folder as checkpoints
from ..metrics.gates import seed_of
from ..metrics.marginal import MIN_LATENTS
from ..metrics.results import exact_value
from . import certificate, signing
from .certificate import CERTIFICATE, Certificate
from .verify import refusal


def attacks(loaded: checkpoints.Checkpoint, stated: Certificate) -> dict[str, str]:
    """Attack → the sentence that refuses it ("" if none does). Nothing is left behind.

    The first, "as it is", is no attack: only a verdict other than PASS may refuse it.
    """
    with tempfile.TemporaryDirectory() as folder:
        lab, key, other = Path(folder), Path(folder, "key.pem"), Path(folder, "other.pem")
        trusted, _ = signing.keygen(key), signing.keygen(other)
        certificate.issue(lab / "genuine", loaded, stated, str(key))
        certificate.issue(lab / "other", loaded, stated, str(other))
        weights = bytearray((lab / "genuine" / checkpoints.WEIGHTS).read_bytes())
        weights[-1] ^= 1
        edited = stated.model_copy(update={"verdict": "FAIL"}).to_json()
        for name, file, data in (
            ("flipped", checkpoints.WEIGHTS, bytes(weights)), ("edited", CERTIFICATE, edited),
        ):  # fmt: skip
            shutil.copytree(lab / "genuine", lab / name)
            (lab / name / file).write_bytes(data)
        _untrained(lab, loaded, stated)
        return {
            "as it is": refusal(lab / "genuine", trusted) or "accepted",
            "a flipped bit": refusal(lab / "flipped", trusted),
            "an edited verdict": refusal(lab / "edited", trusted),
            "an untrained network": refusal(lab / "untrained", trusted, quick=False),
            "another's key": refusal(lab / "other", trusted),
        }


def _untrained(lab: Path, loaded: checkpoints.Checkpoint, stated: Certificate) -> None:
    """Fresh weights under the certificate of the others, every gate PASS, at few latents."""
    network = loaded.model.untrained(stated.params["untrained_seed"])
    fresh = checkpoints.load(checkpoints.save(lab / "fresh", network, 0, {}))
    gates = [
        result.model_copy(update={"verdict": "PASS", **exact_value(result.bound, 1).model_dump()})
        for result in stated.gates
    ]
    changes = {
        "verdict": "PASS",
        "gates": gates,
        "seed": seed_of(fresh.sha256),
        "params": {**stated.params, "k": MIN_LATENTS},
    }
    lie = stated.model_copy(update=changes)
    certificate.issue(lab / "untrained", fresh, lie, str(lab / "key.pem"))

"""fluxttice_core: a ternary variational autoencoder and its honest measurement."""

from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .api import TernaryVAE, all_operations, load

__all__ = ["InputError", "TernaryVAE", "all_operations", "load"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first asked for: `fluxttice --help` needs none."""
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""fluxttice_core: a ternary variational autoencoder, its benchmark and its certificate."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .api import TernaryVAE, all_operations, load

__all__ = ["InputError", "TernaryVAE", "__version__", "all_operations", "load"]
__version__ = version("fluxttice")


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Imports torch only when a name needs it, so `fluxttice --help` does not wait for it."""
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""fluxttice_core: a ternary variational autoencoder and its honest measurement."""

from .api import TernaryVAE, load
from .errors import InputError
from .model.operations import all_operations

__all__ = ["InputError", "TernaryVAE", "all_operations", "load"]

"""The parameters of the v5.5 recipe, and what each of its schedules is at an epoch, from 0."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..params import Count, NonNegative, Positive, Share, Whole
from .loop import Train


class TrainV55(Train):
    """Its parameters, as many as the original has."""

    recipe: Literal["v5_5"]
    weight_decay: NonNegative
    grad_clip: Positive
    lr_epochs: list[Annotated[Whole, Field(ge=0)]]
    lr_values: list[Positive]
    cycle_epochs: Count
    late_epoch: Count
    temp_epochs: Count
    temp_A_start: Positive
    temp_A_end: Positive
    temp_A_cycle_share: NonNegative
    temp_A_late_amplitude: NonNegative
    temp_A_floor: Positive
    temp_B_start: Positive
    temp_B_end: Positive
    temp_B_lag: Annotated[Whole, Field(ge=0)]
    temp_B_late: Positive
    rho_start: Share
    rho_hold: Share
    rho_late: Share
    rho_ramp_epoch: Count
    rho_hold_epoch: Count
    rho_rise_epochs: Count
    beta_warmup_epochs: Count
    beta_epochs: Count
    beta_start: NonNegative
    beta_end: NonNegative
    beta_B_phase: NonNegative
    free_bits: NonNegative
    output_entropy_weight: NonNegative
    repulsion_weight: NonNegative
    repulsion_width: Positive
    scale_min: Positive
    scale_max: Positive
    lambda_start: Positive
    lambda_min: Positive
    lambda_max: Positive
    lambda_step: NonNegative
    lambda_up: Positive
    lambda_down: Positive
    lambda3_mean: NonNegative
    lambda3_amplitude: NonNegative
    lambda3_min: NonNegative
    lambda3_max: NonNegative
    balance_low: Positive
    balance_high: Positive
    coverage_low: Positive
    coverage_high: Positive
    ema_balanced: Share
    ema_unbalanced: Share
    statenet: bool
    statenet_lr_scale: NonNegative
    statenet_lambda_scale: NonNegative
    lr_min: Positive
    lr_max: Positive

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        starts = self.lr_epochs
        if len(starts) != len(self.lr_values) or starts != sorted({0, *starts}):
            raise ValueError("lr_epochs must rise from 0 and be as many as lr_values")
        for low, high in (
            ("rho_ramp_epoch", "rho_hold_epoch"), ("scale_min", "scale_max"), ("lr_min", "lr_max"),
            ("lambda_min", "lambda_max"), ("lambda3_min", "lambda3_max"),
            ("balance_low", "balance_high"), ("coverage_low", "coverage_high"),
        ):  # fmt: skip
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} must be below {high}")
        return self


def learning_rate(p: TrainV55, epoch: int) -> float:
    """A staircase: the value of the last step reached."""
    return [lr for start, lr in zip(p.lr_epochs, p.lr_values, strict=True) if epoch >= start][-1]


def temperature_A(p: TrainV55, epoch: int) -> float:
    """Linear fall plus a cosine whose amplitude is a share of it, and a constant when late.

    v5.5 says "0.1·base (0.5 from epoch 250)"; the 0.5 is read as an amplitude, not as a share.
    """
    base = p.temp_A_start + (p.temp_A_end - p.temp_A_start) * min(1, epoch / p.temp_epochs)
    late = epoch >= p.late_epoch
    amplitude = p.temp_A_late_amplitude if late else p.temp_A_cycle_share * base
    return max(p.temp_A_floor, base + amplitude * math.cos(2 * math.pi * epoch / p.cycle_epochs))


def temperature_B(p: TrainV55, epoch: int) -> float:
    """Linear fall that starts `temp_B_lag` epochs late, then a constant."""
    if epoch >= p.late_epoch:
        return p.temp_B_late
    progress = min(1, max(0, epoch - p.temp_B_lag) / p.temp_epochs)
    return p.temp_B_start + (p.temp_B_end - p.temp_B_start) * progress


def rho(p: TrainV55, epoch: int, balanced: bool) -> float:
    """Share of the other VAE's latent that a decoder sees while training."""
    if epoch < p.rho_ramp_epoch:
        return p.rho_start
    if epoch < p.rho_hold_epoch:
        done = (epoch - p.rho_ramp_epoch) / (p.rho_hold_epoch - p.rho_ramp_epoch)
        return p.rho_start + (p.rho_hold - p.rho_start) * done
    if epoch >= p.late_epoch:
        return p.rho_late
    done = min(1, (epoch - p.rho_hold_epoch) / p.rho_rise_epochs) if balanced else 0
    return p.rho_hold + (p.rho_late - p.rho_hold) * done


def beta_A(p: TrainV55, epoch: int) -> float:
    if epoch < p.beta_warmup_epochs:
        return epoch / p.beta_warmup_epochs * p.beta_start
    done = min(1, (epoch - p.beta_warmup_epochs) / p.beta_epochs)
    return p.beta_start + (p.beta_end - p.beta_start) * done


def beta_B(p: TrainV55, epoch: int) -> float:
    """Zero through the warm-up, then a jump to 0.21: v5.5's warm-up multiplied zero."""
    return 0.0 if epoch < p.beta_warmup_epochs else beta_A(p, epoch) * math.sin(p.beta_B_phase)


def lambda3(p: TrainV55, epoch: int) -> float:
    angle = 2 * math.pi * (epoch % p.cycle_epochs) / p.cycle_epochs + math.pi / 2
    return p.lambda3_mean + p.lambda3_amplitude * math.cos(angle)

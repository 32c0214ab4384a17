"""The noise path: rectified flow, and its translation to and from noise prediction.

One family serves every method: x_t = (1 - t) x_0 + t eps for t in [0, 1], and the network
predicts the velocity v = dx/dt = eps - x_0.

Source: Liu et al., ICLR 2023 (rectified flow); Esser et al., ICML 2024 (logit-normal t).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A denoiser: x_t (B, C, *spatial) and t (B,) to v (B, C, *spatial)."""


def expand(t: Tensor, like: Tensor) -> Tensor:
    """t (B,) with as many trailing axes as `like` (B, C, *spatial) has."""
    return t.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def add_noise(x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t eps, with t (B,) in [0, 1]."""
    t = expand(t, x_0)
    return (1 - t) * x_0 + t * eps


def velocity(x_0: Tensor, eps: Tensor) -> Tensor:
    """The target of the fit, v = eps - x_0."""
    return eps - x_0


def clean_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """x_0 = x_t - t v."""
    return x_t - expand(t, x_t) * v


def noise_from_velocity(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """eps = x_t + (1 - t) v."""
    return x_t + (1 - expand(t, x_t)) * v


def renoise(x_t: Tensor, eps: Tensor, t: float, u: float) -> Tensor:
    """Jump back from level t to a noisier level u along the forward process.

    With a = (1 - u) / (1 - t) and b^2 = u^2 - a^2 t^2, x_u = a x_t + b eps has the law of
    level u when x_t has that of level t.

    Source: Lugmayr et al., CVPR 2022, Algorithm 1 line 9, restated for the flow path.
    """
    if not 0 <= t <= u <= 1:
        raise ValueError(f"a jump back goes from t to u >= t in [0, 1]; got t = {t}, u = {u}")
    if t == u:
        return x_t
    a = (1 - u) / (1 - t)
    b = (u**2 - (a * t) ** 2) ** 0.5
    return a * x_t + b * eps


def logit_normal(uniform: Tensor, *, mean: float = 0.0, std: float = 1.4) -> Tensor:
    """Logit-normal t from uniform draws in (0, 1): sigmoid(mean + std * Phi^-1(u)).

    Source: Esser et al., ICML 2024, Eq. 19, wider: with their std of 1 only 1.4 % of the levels lie
    below 0.1, and in pixel space that is where fine detail is learned.
    """
    normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6))
    return torch.sigmoid(mean + std * normal).to(uniform.dtype)


def levels(
    num_steps: int, *, start: float = 1.0, shift: float = 1.0, power: float = 1.0
) -> tuple[float, ...]:
    """`num_steps` + 1 levels from `start` down to 0.

    `shift` > 1 spends more of the steps near pure noise: t' = s t / (1 + (s - 1) t). `power` > 1
    makes each step towards the image shorter than the one before: t' = t^power.
    """
    if num_steps < 1:
        raise ValueError(f"a walk has at least one step; got {num_steps}")
    if not 0 < start <= 1:
        raise ValueError(f"a walk starts at a level in (0, 1]; got {start}")
    # The unshifted level that the shift brings to `start`.
    before = start / (shift - (shift - 1) * start)
    plain = [before * (1 - i / num_steps) ** power for i in range(1, num_steps + 1)]
    return (start, *(shift * t / (1 + (shift - 1) * t) for t in plain))


def level_of_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """The flow level whose signal-to-noise ratio is that of a variance-preserving alpha_bar."""
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return noise / (signal + noise)


def epsilon_as_velocity(
    predict_noise: Callable[[Tensor, Tensor], Tensor], alphas_cumprod: Tensor
) -> Velocity:
    """Sample a DDPM checkpoint on the flow path.

    A variance-preserving sample is a scaled flow sample, x_vp = x_t / sqrt((1 - t)^2 + t^2). The
    network is asked at the (fractional) training step of equal signal-to-noise ratio, and
    v = eps - x_0 with x_0 = (x_t - t eps) / (1 - t). Levels noisier than the last training step
    are taken at that step.

    Args:
        predict_noise: eps(x_vp (B, C, *spatial), step (B,) float); diffusers' networks take
            fractional steps as they are.
        alphas_cumprod: (T,) decreasing, as in diffusers' schedulers.
    """
    known = level_of_alpha_bar(alphas_cumprod.double())

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        t_ = t.double().clamp(float(known[0]), float(known[-1]))
        upper = torch.searchsorted(known.to(t.device), t_).clamp(1, len(known) - 1)
        below, above = known.to(t.device)[upper - 1], known.to(t.device)[upper]
        step = (upper - 1) + (t_ - below) / (above - below)
        wide = expand(t_, x_t)
        scale = ((1 - wide) ** 2 + wide**2).sqrt()
        eps = predict_noise((x_t / scale).to(x_t.dtype), step.to(x_t.dtype))
        return eps - (x_t - wide * eps) / (1 - wide)

    return predict


def velocity_as_epsilon(
    predict_velocity: Velocity, alphas_cumprod: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """The converse: a flow network behind the interface of a DDPM, eps(x_vp, integer step)."""
    known = level_of_alpha_bar(alphas_cumprod.double())

    def predict(x_vp: Tensor, step: Tensor) -> Tensor:
        t = known.to(x_vp.device)[step.long()].to(x_vp.dtype)
        wide = expand(t, x_vp)
        x_t = x_vp * ((1 - wide) ** 2 + wide**2).sqrt()
        return noise_from_velocity(x_t, predict_velocity(x_t, t), t)

    return predict

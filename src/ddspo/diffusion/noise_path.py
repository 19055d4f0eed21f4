"""One affine noise path for variance-preserving and flow models, and the four languages a network predicts in.

    x_t = alpha_t x_0 + sigma_t noise

A prediction is itself a mix of the same two things, so every conversion is one linear formula (`NoisePath.convert`):

    | prediction_type | meaning                     | a (noise) | b (x_0)  | alpha a - sigma b |
    |-----------------|-----------------------------|-----------|----------|-------------------|
    | epsilon         | noise                       | 1         | 0        | alpha             |
    | sample          | x_0                         | 0         | 1        | -sigma            |
    | v_prediction    | alpha noise - sigma x_0     | alpha     | -sigma   | alpha² + sigma²   |
    | flow_prediction | noise - x_0 (the velocity)  | 1         | -1       | alpha + sigma     |

Noise grows with the timestep on every path. Sources: v_prediction is Salimans & Ho (arXiv 2202.00512); the velocity is
Lipman et al. (arXiv 2210.02747) with time running from data to noise, as in SD3 (arXiv 2403.03206).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from ..errors import UserError

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True)
class NoisePath:
    """alpha and sigma at every training timestep, and what the network predicts there.

    Attributes:
        prediction_type: the space of the network's output, in diffusers' words.
        alphas: share of x_0, float64 [T], falling.
        sigmas: share of noise, float64 [T], rising.
        timesteps: what the network is fed at each of the T places, rising: 0 .. T-1 (int64) for variance-preserving
            models, 1000 sigma (floating point) for flow models.
    """

    prediction_type: PredictionType
    alphas: Tensor
    sigmas: Tensor
    timesteps: Tensor

    @classmethod
    def variance_preserving(cls, alphas_cumprod: Tensor, prediction_type: PredictionType) -> Self:
        """alpha² = alphas_cumprod and alpha² + sigma² = 1 (DDPM, arXiv 2006.11239)."""
        signal = alphas_cumprod.detach().cpu().double()
        return cls(prediction_type, signal.sqrt(), (1 - signal).sqrt(), torch.arange(len(signal)))

    @classmethod
    def flow(cls, sigmas: Tensor, timesteps: Tensor, prediction_type: PredictionType = "flow_prediction") -> Self:
        """alpha = 1 - sigma (rectified flow). `sigmas` and `timesteps` [T] may run either way; they are kept rising."""
        order = timesteps.argsort()
        sigmas = sigmas.detach().cpu().double()[order]
        return cls(prediction_type, 1 - sigmas, sigmas, timesteps.detach().cpu()[order])

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Self:
        """The path that the model of a diffusers scheduler was trained on, whatever the scheduler has sampled since.

        Flow models (`FlowMatch*` schedulers, or `use_flow_sigmas` as in SANA's DPM-Solver config) get their static
        shift, sigma = shift s / (1 + (shift - 1) s) for s = 1/T .. 1; a resolution-dependent shift belongs to sampling
        and is left out. Others get `alphas_cumprod`, rescaled to zero terminal SNR if their config asks for it.

        Args:
            scheduler: any diffusers scheduler: DDPM, DDIM, PNDM, Euler, DPM-Solver, UniPC, FlowMatchEuler, ...

        Raises:
            UserError: the scheduler's noise path is of neither kind, or its prediction type is unknown.
        """
        config, kind = scheduler.config, type(scheduler).__name__
        is_flow_match = kind.startswith("FlowMatch")
        prediction_type: Any = "flow_prediction" if is_flow_match else config.get("prediction_type", "epsilon")
        if prediction_type not in get_args(PredictionType):
            known = ", ".join(get_args(PredictionType))
            raise UserError(f"scheduler {kind}: prediction_type '{prediction_type}' is not one of {known}")
        if is_flow_match or config.get("use_flow_sigmas"):
            count = config["num_train_timesteps"]
            shift = config.get("shift" if is_flow_match else "flow_shift", 1.0)
            if config.get("use_dynamic_shifting"):
                shift = 1.0
            share = torch.arange(1, count + 1, dtype=torch.float32) / count
            sigmas = shift * share / (1 + (shift - 1) * share)
            return cls.flow(sigmas, sigmas * count, prediction_type)
        if not hasattr(scheduler, "alphas_cumprod"):
            raise UserError(
                f"scheduler {kind}: neither variance preserving (alphas_cumprod) nor flow matching; "
                "use a checkpoint with a scheduler of one of these kinds"
            )
        return cls.variance_preserving(scheduler.alphas_cumprod, prediction_type)

    @property
    def is_flow(self) -> bool:
        """Whether alpha + sigma = 1 (flow), not alpha² + sigma² = 1 (variance preserving)."""
        return bool(torch.equal(self.alphas, 1 - self.sigmas))

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of places on the path."""
        return len(self.timesteps)

    def coefficients(self, timestep: Tensor, dims: int = 4) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at `timestep`, float64, [B, 1, 1, 1] or as many dimensions as `dims` says.

        Exact at the T tabulated timesteps. Between them (samplers visit fractional timesteps) both are interpolated
        linearly: exact for flow, and for variance-preserving schedules closer than neighboring timesteps are by far.
        Beyond the ends they stay constant.
        """
        dtype = torch.float32 if timestep.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        timesteps, alphas, sigmas = (
            table.to(timestep.device, dtype) for table in (self.timesteps, self.alphas, self.sigmas)
        )
        timestep = timestep.to(dtype).clamp(timesteps[0], timesteps[-1])
        above = torch.searchsorted(timesteps, timestep).clamp(min=1)
        below = above - 1
        share = (timestep - timesteps[below]) / (timesteps[above] - timesteps[below])
        shape = (-1,) + (1,) * (dims - 1)
        return (
            torch.lerp(alphas[below], alphas[above], share).reshape(shape),
            torch.lerp(sigmas[below], sigmas[above], share).reshape(shape),
        )

    def add_noise(self, x_0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma noise, [B, ...], in the dtype of x_0."""
        alpha, sigma = self._coefficients_like(x_0, timestep)
        return (alpha * x_0 + sigma * noise).to(x_0.dtype)

    def target(self, x_0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What a perfect network would predict if it knew x_0 and noise, in the native prediction space, [B, ...]."""
        alpha, sigma = self._coefficients_like(x_0, timestep)
        a, b = _mix(self.prediction_type, alpha, sigma)
        return (a * noise + b * x_0).to(x_0.dtype)

    def to_x_0(self, prediction: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The clean latents that the native prediction implies; undefined for epsilon where alpha = 0."""
        return self.convert(prediction, x_t, timestep, to="sample")

    def to_noise(self, prediction: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The noise that the native prediction implies; undefined for sample where sigma = 0."""
        return self.convert(prediction, x_t, timestep, to="epsilon")

    def convert(
        self,
        prediction: Tensor,
        x_t: Tensor,
        timestep: Tensor,
        *,
        to: PredictionType,
        source: PredictionType | None = None,
    ) -> Tensor:
        """The same prediction in another space. With (a, b) of the source and (a', b') of `to` from the module's table,

            converted = [ (alpha a' - sigma b') prediction + (a b' - a' b) x_t ] / (alpha a - sigma b)

        Undefined (not finite) only where the divisor is 0: from epsilon where alpha = 0 (the last timestep of a flow or
        zero-terminal-SNR schedule: x_t holds nothing of x_0), and from sample where sigma = 0 (x_t holds no noise).
        v_prediction and flow_prediction convert everywhere. To its own space a prediction is returned as it is.

        Args:
            prediction: in the space `source`, [B, ...].
            x_t: the noised latents that it was made from, [B, ...].
            timestep: [B].
            to: the space wanted.
            source: the space of `prediction`; None means the network's native one.
        """
        source = source or self.prediction_type
        if source == to:
            return prediction
        alpha, sigma = self._coefficients_like(prediction, timestep)
        a, b = _mix(source, alpha, sigma)
        a_to, b_to = _mix(to, alpha, sigma)
        converted = ((alpha * a_to - sigma * b_to) * prediction + (a * b_to - a_to * b) * x_t) / (alpha * a - sigma * b)
        return converted.to(prediction.dtype)

    def _coefficients_like(self, like: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients that broadcast against `like`, in float32 at least, so that only the result is rounded."""
        alpha, sigma = self.coefficients(timestep, like.ndim)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return alpha.to(dtype), sigma.to(dtype)


def _mix(prediction_type: PredictionType, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) such that the prediction is a noise + b x_0."""
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    mixes = {
        "epsilon": (one, zero),
        "sample": (zero, one),
        "v_prediction": (alpha, -sigma),
        "flow_prediction": (one, -one),
    }
    return mixes[prediction_type]

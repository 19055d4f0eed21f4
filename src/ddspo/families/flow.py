"""What flow-matching families share: a transformer, and samplers that walk the straight path."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .pipeline import PipelineFamily


class FlowFamily(PipelineFamily):
    """A family that predicts velocity, noise - x_0 (rectified flow)."""

    denoiser_part = "transformer"
    default_lora_targets: tuple[str, ...] = (
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
    )

    def scheduler(self, name: str = "default", *, height_px: int | None = None, width_px: int | None = None) -> Any:
        """The checkpoint's own, or 'euler' or 'dpm++' with its shift.

        Raises:
            UserError: a sampler that does not know flow.
        """
        scheduler = self.folder.load_scheduler()
        euler_already = type(scheduler).__name__.startswith("FlowMatchEuler")
        if name == "default" or (name == "euler" and euler_already):
            return scheduler
        import diffusers

        shift = self.flow_shift(scheduler.config, height_px, width_px)
        count = scheduler.config["num_train_timesteps"]
        if name == "euler":
            return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=count, shift=shift)
        if name == "dpm++":
            return diffusers.DPMSolverMultistepScheduler(
                num_train_timesteps=count, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
            )
        raise UserError(f"no sampler '{name}' for {self.name}; use one of default, euler, dpm++")

    def flow_shift(self, config: Any, height_px: int | None, width_px: int | None) -> float:
        """s in sigma = s u / (1 + (s - 1) u) for evenly spaced u, for a picture of this size."""
        return float(config.get("shift") or config.get("flow_shift") or 1.0)

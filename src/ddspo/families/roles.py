"""Policy, reference, and the winning and losing models of data-driven targets: roles behind one call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .. import recipe
from ..errors import UserError
from ..tensors import Conditioning, Role
from .frozen_copy import Precision, cast_matrices, frozen_copy, held_in_float32, in_float32, shared_precision
from .lora import ADAPTER, active_adapter, attach_lora, load_lora
from .lora_twin import add_twin, twin_name
from .offload import send_home, visiting
from .pipeline import DTYPES, PipelineFamily
from .policy import save_full_policy, save_lora_policy


class Roles:
    """The trained policy and the frozen reference on one family.

    With LoRA both are one network: the reference is the policy with its adapter off. With full fine-tuning the
    reference is a frozen copy. Both always compute in the same precision: mixed precision is applied here, to both
    roles alike, and not by the caller to one of them. So at step 0 their predictions are equal, bit for bit with LoRA;
    a copy may differ in the last digit of float32, because matrix kernels on CPUs round by where a matrix lies.
    The winning and losing models are further adapters, frozen, on whatever serves as the reference.

    Build with `Roles.lora` or `Roles.full`.
    """

    def __init__(
        self,
        family: PipelineFamily,
        kind: Literal["lora", "full"],
        frozen: nn.Module | None,
        mixed_precision: Precision,
    ) -> None:
        if mixed_precision in family.autocast_refused:
            raise UserError(f"training.mixed_precision {mixed_precision}: {family.autocast_refused[mixed_precision]}")
        self.family = family
        self.kind = kind
        self.trained: nn.Module = family.denoiser
        """the network that holds the trained parameters: what a distributed wrapper takes"""
        self._frozen = frozen
        self._wrapped: nn.Module | None = None
        self._compiled: nn.Module | None = None
        self._offloaded = False
        self._mixed_precision = mixed_precision
        self._adapters: frozenset[str] = frozenset()
        self._moving: str | None = None
        self._trained_names = [name for name, parameter in self.trained.named_parameters() if parameter.requires_grad]

    @classmethod
    def lora(
        cls, family: PipelineFamily, settings: recipe.Lora, seed: int, *, mixed_precision: Precision = "no"
    ) -> Roles:
        """Low-rank adapters in float32 on the family's denoiser, which stays frozen in the family's precision.

        Args:
            family: its denoiser gets the adapter.
            settings: rank, alpha and the layers that are adapted.
            seed: the adapter's start follows from it alone.
            mixed_precision: autocast for both roles.
        """
        attach_lora(family.denoiser, settings, family.default_lora_targets, seed)
        return cls(family, "lora", None, mixed_precision)

    @classmethod
    def full(
        cls,
        family: PipelineFamily,
        frozen_dtype: str = "fp32",
        *,
        mixed_precision: Precision | None = None,
        trained_dtype: str = "fp32",
        reference: bool = True,
    ) -> Roles:
        """All parameters trained, beside a frozen copy.

        Args:
            family: its denoiser is trained; it is loaded again in float32 if it is not.
            frozen_dtype: 'fp32', or the precision of the copy's matrices and convolutions. Autocast rounds the
                policy's to the same numbers; what autocast leaves alone (norms, tables) stays float32 in the copy.
            mixed_precision: autocast for both roles; None: that of `frozen_dtype`.
            trained_dtype: of the trained matrices and convolutions; 'bf16' beside autocast in it.
            reference: False: no frozen copy, for objectives that ask nobody but the policy.

        Raises:
            UserError: a low-precision copy beside a policy that computes otherwise: they would differ from step 0 on.
        """
        precision = shared_precision(frozen_dtype, mixed_precision)
        here = family.denoiser if family.denoiser_part in family.loaded() else None
        if getattr(here, "peft_config", None):
            raise UserError("the denoiser carries a LoRA; merge it into the weights before full fine-tuning")
        if here is None or not in_float32(here):
            del here  # or two of them would be in memory
            family.load_denoiser(torch.float32)
        cast_matrices(family.denoiser, trained_dtype)
        frozen = frozen_copy(family.denoiser, frozen_dtype) if reference else None
        family.denoiser.requires_grad_(True)
        return cls(family, "full", frozen, precision)

    def add_target_models(self, adapters: Mapping[str, Path]) -> None:
        """Load the LoRAs behind the roles 'winning' and 'losing'; nothing that is trained changes.

        Args:
            adapters: role -> file or folder of its LoRA.

        Raises:
            UserError: a LoRA is missing, damaged, or made for another architecture.
        """
        network = self.trained if self._frozen is None else self._frozen
        for role, source in adapters.items():
            load_lora(self.family, source, name=role, denoiser=network)
        if self._frozen is None and adapters:
            trainable = self.trainable_parameters().values()
            network.set_adapter(ADAPTER)  # type: ignore[operator]  # loading made the last one active
            for parameter in trainable:
                parameter.requires_grad_(True)
        self._adapters |= adapters.keys()

    def let_reference_move(self) -> None:
        """Give the reference weights of its own, the policy's of now; call it before `set_wrapped`."""
        if self._frozen is None:
            self._moving = add_twin(self.trained)

    def move_reference(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights in the reference's place; names as in `state()`, the copy's precision is kept."""
        network = self.trained if self._frozen is None else self._frozen
        with torch.no_grad():
            for name, weight in weights.items():
                network.get_parameter(name if self._moving is None else twin_name(name)).copy_(weight)

    def set_wrapped(self, module: nn.Module) -> None:
        """Use `module` (what accelerate or torch made of `trained`) for the policy's calls."""
        self._wrapped = module

    def compile(self) -> None:
        """Compile the calls of all roles alike, after `set_wrapped`; what is trained and saved stays the network."""
        frozen = self.trained if self._frozen is None else self._frozen
        self._compiled = torch.compile(frozen)  # type: ignore[assignment]
        policy = self.trained if self._wrapped is None else self._wrapped
        self._wrapped = self._compiled if policy is frozen else torch.compile(policy)  # type: ignore[assignment]

    def offload_reference(self) -> None:
        """Keep the frozen copy of full fine-tuning in main memory between its calls; with LoRA there is no copy."""
        if self._frozen is not None:
            send_home(self._frozen)
            self._offloaded = True

    def forget_reference(self) -> None:
        """Let go of the frozen copy of full fine-tuning; nobody but the policy can be asked any more.

        With LoRA the reference is no copy, and stays.
        """
        if self.kind == "full":
            self._frozen = self._compiled = None

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more compute, the same numbers."""
        self.trained.enable_gradient_checkpointing()  # type: ignore[operator]

    def predict(self, role: Role, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The role's prediction in native space, [B, C, H, W], in x_t's dtype; only the policy's carries a gradient.

        Calls may come in any order: one of another role between the policy's forward and backward changes no gradient.

        Raises:
            UserError: the winning or losing model is asked and there is none.
        """
        with self._precision():
            if role == "policy":
                network = self.trained if self._wrapped is None else self._wrapped
                return self.family.predict(x_t, timestep, conditioning, denoiser=network)
            with torch.no_grad(), self._frozen_as(role) as denoiser:
                return self.family.predict(x_t, timestep, conditioning, denoiser=denoiser)

    @contextlib.contextmanager
    def _frozen_as(self, role: Role) -> Iterator[nn.Module]:
        if self.kind == "full" and self._frozen is None:
            raise UserError(f"there is no {role} model here: the objective asks for none, or its rows are stored")
        if role != "reference" and role not in self._adapters:
            raise UserError(f"there is no {role} model; make it with `ddspo targets`, or give target.{role}")
        network = self.trained if self._frozen is None else self._frozen
        here = visiting(network, self.family.device) if self._offloaded else contextlib.nullcontext()
        with here, active_adapter(network, self._moving if role == "reference" else role):
            yield network if self._compiled is None else self._compiled

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        if self._mixed_precision == "no":
            return contextlib.nullcontext()
        return torch.autocast(self.family.device.type, DTYPES[self._mixed_precision])

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name; float32, but for `training.trained_dtype`."""
        parameters = dict(self.trained.named_parameters())
        return {name: parameters[name] for name in self._trained_names}

    def state(self) -> dict[str, Tensor]:
        """A copy of the trained parameters: float32, contiguous, in main memory, ready for safetensors."""
        return {
            name: parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
            for name, parameter in self.trainable_parameters().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put trained parameters in place.

        Raises:
            UserError: names or shapes are not those of this run.
        """
        parameters = self.trainable_parameters()
        wrong = sorted(parameters.keys() ^ state.keys())
        wrong += [name for name in parameters.keys() & state.keys() if parameters[name].shape != state[name].shape]
        if wrong:
            raise UserError(
                f"the saved state does not fit this network and recipe: {len(wrong)} tensors differ ({wrong[0]}, ...)"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def save_policy(self, folder: Path, card: str | None = None, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the result, whole or not at all; an earlier policy in the same place is replaced.

        LoRA: `pytorch_lora_weights.safetensors` for `pipe.load_lora_weights(folder)`. Full: a pipeline folder for
        `DiffusionPipeline.from_pretrained(folder)`. `ddspo.json` says which base it belongs to.

        Args:
            folder, card: the policy's folder, and the text of its README.md.
            weights: save these (a moving average) in place of the current parameters; same names as `state()`.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        save = save_lora_policy if self.kind == "lora" else save_full_policy
        with contextlib.nullcontext() if self.kind == "lora" else held_in_float32(self.trained), self._holding(weights):
            save(self.family, self.trained, self.state(), folder, card)

    @contextlib.contextmanager
    def _holding(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        if weights is None:
            yield
            return
        current = self.state()
        self.load_state(weights)
        try:
            yield
        finally:
            self.load_state(current)

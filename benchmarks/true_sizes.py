"""What a training step costs at the true sizes, counted: operations and bytes of weights, without a weight in memory.

    python benchmarks/true_sizes.py                    about a minute on one CPU core; nothing is downloaded

Every network is built in its published configuration on torch's meta device, and the operations of its matrix products,
convolutions and attention are counted by torch while it runs on shapes alone. A backward through trained weights
counts two forwards, as everywhere in this project; that of a LoRA, whose base needs no gradients, is counted. Two
arrangements, for one pair:

    ours       three reference rows, two policy rows with their backward; text embeddings come from disk; what is in
               memory is the policy, and its reference (LoRA: the same network; full: a frozen copy)
    published  four reference rows, the same two policy rows, both prompts through all text encoders at every step; in
               memory a policy, a reference network of its own, the text encoders and the autoencoder

So this is the share of the work that can be saved at all, whatever the hardware: a step of ours is never below it by
more than overheads that the published arrangement has beside its operations. It says nothing of seconds. Weights in
memory count two bytes a number where they are frozen and four where they are trained; activations, gradients and
optimizer state are the same in both arrangements and are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft import LoraConfig
from published import CHECKPOINTS, Checkpoint
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

FROZEN_BYTES, TRAINED_BYTES = 2, 4


@dataclass(frozen=True)
class Counted:
    """Operations for one row or one prompt, and numbers of parameters."""

    forward: int
    lora_backward: int
    text: int
    denoiser: int
    adapters: int
    encoders: int
    autoencoder: int

    def operations(self, trained: str) -> tuple[int, int]:
        """(ours, published) per pair; each of its two prompts is read once by the published arrangement."""
        policy = 2 * (self.forward + (self.lora_backward if trained == "lora" else 2 * self.forward))
        return 3 * self.forward + policy, 4 * self.forward + policy + 2 * self.text

    def weights(self, trained: str) -> tuple[int, int]:
        """(ours, published) bytes of weights in memory."""
        if trained == "lora":
            policy, reference = FROZEN_BYTES * self.denoiser + TRAINED_BYTES * self.adapters, 0
        else:
            policy, reference = TRAINED_BYTES * self.denoiser, FROZEN_BYTES * self.denoiser
        rest = FROZEN_BYTES * (self.denoiser + self.encoders + self.autoencoder)
        return policy + reference, policy + rest


def operations(work: Callable[[], object]) -> int:
    """Floating point operations that torch counts."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count(checkpoint: Checkpoint) -> Counted:
    """Run every network of a checkpoint once on shapes alone."""
    with torch.device("meta"):
        network, inputs = checkpoint.denoiser(), checkpoint.inputs()
        parameters = size(network)

        def forward() -> Tensor:
            return network(**inputs, return_dict=False)[0]

        with torch.no_grad():
            once = operations(forward)
        network.requires_grad_(False)
        network.add_adapter(LoraConfig(r=64, lora_alpha=64, target_modules=list(checkpoint.lora)))
        prediction = forward()
        lora_backward = operations(lambda: prediction.sum().backward())
        read, encoders = 0, 0
        for encoder in checkpoint.encoders:
            reader = encoder.make()
            tokens = torch.ones(1, encoder.tokens, dtype=torch.long)
            with torch.no_grad():
                read += operations(lambda reader=reader, tokens=tokens: reader(tokens))  # type: ignore[misc]
            encoders += size(reader)
        adapters = size(network) - parameters
        return Counted(once, lora_backward, read, parameters, adapters, encoders, size(checkpoint.autoencoder()))


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(
        "| checkpoint | denoiser | text encoders | one row | one prompt | trained | operations per pair, published "
        "| ours / published | weights in memory, published | ours / published |"
    )
    print("|" + "---|" * 10)
    for checkpoint in CHECKPOINTS.values():
        counted = count(checkpoint)
        sizes = f"{counted.denoiser / 1e9:.2f} B | {counted.encoders / 1e9:.2f} B"
        work = f"{counted.forward / 1e12:.2f} TFLOP | {counted.text / 1e12:.2f} TFLOP"
        for trained in ("lora", "full"):
            (ours, theirs), (held, holds) = counted.operations(trained), counted.weights(trained)
            print(
                f"| {checkpoint.name} | {sizes} | {work} | {trained} | {theirs / 1e12:.1f} TFLOP | "
                f"{ours / theirs:.2f} | {holds / 1e9:.1f} GB | {held / holds:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

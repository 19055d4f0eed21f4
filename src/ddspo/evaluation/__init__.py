"""Same prompts, same seeds, exact scores, honest intervals: reference and policies side by side."""

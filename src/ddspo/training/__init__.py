"""Training: one step, its data, optimizer, checkpoints, metrics and previews; `loop` reads from top to bottom."""

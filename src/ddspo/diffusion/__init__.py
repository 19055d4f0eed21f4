"""The noise path, the timesteps to train on, and one sampling loop over diffusers schedulers."""

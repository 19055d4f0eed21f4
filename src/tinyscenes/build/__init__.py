"""How the embedded checkpoint was made: `python -m tinyscenes.build OUT` trains it again from a seed.

Stages, each resumable on its own: `vae` (autoencoder on clean renders), `text` (text encoder on facts, then frozen),
`unet` (denoiser on latents with imperfect captions), `record` (measure the result and write `build.json`).
"""

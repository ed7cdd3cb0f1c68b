"""Diffusers behind the engine's ``Pipeline`` and ``Denoiser`` interfaces."""

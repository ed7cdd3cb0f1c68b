"""Diffusers behind the engine's interfaces: ``Pipeline`` makes pictures, ``Denoiser`` steps."""

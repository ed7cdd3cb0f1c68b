"""Diffusers behind the engine's two seams: whole pipelines, and pipelines taken apart in steps."""

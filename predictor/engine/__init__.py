"""The engine: validated requests in, pictures out; decides what runs when. Never sees HTTP.

``step_loop`` is left to be imported by name: it needs torch, which takes seconds.
"""

from predictor.engine.seam import Engine, Pipeline
from predictor.engine.serial import SerialEngine

__all__ = ["Engine", "Pipeline", "SerialEngine"]

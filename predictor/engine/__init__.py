"""The engine: validated requests in, pictures out; decides what runs when. Never sees HTTP.

The two engines are left to be imported by name: they need torch, which takes seconds.
"""

from predictor.engine.interfaces import Engine, EngineState, Pipeline, StepListener

__all__ = ["Engine", "EngineState", "Pipeline", "StepListener"]

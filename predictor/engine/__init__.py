"""The engine turns validated requests into pictures and schedules the work. It never sees HTTP.

Import the two engines from their own modules: they load torch, which takes seconds.
"""

from predictor.engine.admission import Admission
from predictor.engine.interfaces import Engine, EngineState, Pipeline, Previews, StepListener

__all__ = ["Admission", "Engine", "EngineState", "Pipeline", "Previews", "StepListener"]

"""The models in memory: loaded on request, unloaded when other models need the memory.

The server uses ``Residency``. Everything runs on the event loop, except for the loads and unloads
themselves, which run one at a time.
"""

from predictor.residency.residency import Loader, Residency
from predictor.residency.resident import Resident

__all__ = ["Loader", "Residency", "Resident"]

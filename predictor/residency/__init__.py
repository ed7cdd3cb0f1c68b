"""Which models are in memory: loaded when they are asked for, unloaded when others need the room.

``Residency`` is what the server asks. Everything here is on the event loop but for loading and
unloading themselves, of which one is under way at a time.
"""

from predictor.residency.residency import Loader, Residency

__all__ = ["Loader", "Residency"]

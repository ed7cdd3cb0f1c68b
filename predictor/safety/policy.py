"""What a safety layer does when it fires, and what several of them do together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from predictor.errors import ModelLoadError
from predictor.settings import SafetyPolicy
from predictor.types import SafetyAction, SafetyVerdict

_FROM_THE_MILDEST: tuple[SafetyAction, ...] = get_args(SafetyAction)


def action_of(policy: SafetyPolicy, *, is_there: bool, otherwise: str) -> SafetyAction | None:
    """What the layer does when it fires; None where it is off.

    Raises:
        ModelLoadError: the policy is asked for by name and there is nothing to judge by; it says
            ``otherwise``.
    """
    if policy == "off" or (policy == "auto" and not is_there):
        return None
    if not is_there:
        raise ModelLoadError(otherwise)
    return "block" if policy == "auto" else policy


def strictest(verdicts: Iterable[SafetyVerdict]) -> SafetyAction | None:
    """The action that counts where several layers fired; None where none did."""
    return max((verdict.action for verdict in verdicts), key=_FROM_THE_MILDEST.index, default=None)

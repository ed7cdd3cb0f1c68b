"""The safety layers of one model: every enabled layer must work, or the server does not start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar, get_args

from PIL import Image

from modelstore.layout import CLASSIFIER_FOLDER_NAME
from predictor.checkpoint.checkpoint import Checkpoint
from predictor.checkpoint.placement import pick_device, pick_dtype
from predictor.errors import ModelLoadError
from predictor.requests import SafetyAction, SafetyVerdict
from predictor.safety.block_list import BlockList
from predictor.safety.checker import SafetyChecker, has_checker
from predictor.safety.classifier import SafetyClassifier
from predictor.safety.weights import Placement
from predictor.settings import SafetyPolicy, Settings

Subject = TypeVar("Subject", contravariant=True)

_MILDEST_FIRST: tuple[SafetyAction, ...] = get_args(SafetyAction)


class SafetyLayer(Protocol[Subject]):
    """Checks prompts or pictures; called from several threads (prompts) or from one (pictures)."""

    @property
    def name(self) -> str:
        """The name in settings, responses and metrics."""

    @property
    def action(self) -> SafetyAction:
        """What to do when the layer fires."""

    def fires_at(self, subject: Subject) -> bool:
        """Whether the layer objects to ``subject``; on an exception the picture is not shown."""


class Layers(NamedTuple):
    """The enabled layers for prompts and for pictures."""

    prompts: tuple[SafetyLayer[str], ...] = ()
    pictures: tuple[SafetyLayer[Image.Image], ...] = ()


def open_layers(checkpoint: Checkpoint, settings: Settings) -> Layers:
    """Load the layers that the settings enable, and run each picture layer once.

    Raises:
        ModelLoadError: an enabled layer is missing, broken or incomplete.
    """
    prompts = [_block_list(settings)]
    pictures = [_checker(checkpoint, settings), _classifier(checkpoint, settings)]
    return Layers(
        tuple(layer for layer in prompts if layer), tuple(layer for layer in pictures if layer)
    )


def _block_list(settings: Settings) -> BlockList | None:
    file = settings.block_list_file
    action = action_of(
        settings.block_list,
        is_there=file is not None,
        otherwise=f"block_list={settings.block_list} requires a list: set block_list_file, "
        "or set block_list=off",
    )
    return BlockList(action, file) if action and file else None


def _checker(checkpoint: Checkpoint, settings: Settings) -> SafetyLayer[Image.Image] | None:
    action = action_of(
        settings.safety_checker,
        is_there=has_checker(checkpoint.configs)
        and SafetyChecker.name not in checkpoint.marker.left_out,
        otherwise=f"safety_checker={settings.safety_checker}, but the checkpoint does not include "
        "a safety checker: set safety_checker=off, or publish one as safety_classifier",
    )
    if action is None:
        return None
    placement = _placement(checkpoint, SafetyChecker.name, settings)
    return _working(
        SafetyChecker.name, lambda: SafetyChecker(action, checkpoint.configs, placement)
    )


def _classifier(checkpoint: Checkpoint, settings: Settings) -> SafetyLayer[Image.Image] | None:
    action = action_of(
        settings.safety_classifier,
        is_there=checkpoint.has(CLASSIFIER_FOLDER_NAME),
        otherwise=f"safety_classifier={settings.safety_classifier}, but the model's folder has no "
        f"{CLASSIFIER_FOLDER_NAME}/: name one in the downloader's file, or set "
        "safety_classifier=off",
    )
    if action is None:
        return None
    labels = [label.strip() for label in settings.safety_classifier_labels.split(",")]
    return _working(
        "safety_classifier",
        lambda: SafetyClassifier(
            action,
            checkpoint.folder / CLASSIFIER_FOLDER_NAME,
            [label for label in labels if label],
            settings.safety_classifier_threshold,
            _placement(checkpoint, CLASSIFIER_FOLDER_NAME, settings),
        ),
    )


def _placement(checkpoint: Checkpoint, part: str, settings: Settings) -> Placement:
    device = pick_device(settings)
    dtype = pick_dtype(settings, device, checkpoint.family)
    return Placement(device, dtype, checkpoint.variant_of(part))


def _working(name: str, load: Callable[[], SafetyLayer[Image.Image]]) -> SafetyLayer[Image.Image]:
    """Load the layer and run it once, which is the only way to see that its parts fit together."""
    try:
        layer = load()
        layer.fires_at(Image.new("RGB", (64, 64)))
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"{name} does not load: {_first_line(error)}; publish the model again, or set "
            f"{name}=off"
        ) from error
    return layer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def action_of(policy: SafetyPolicy, *, is_there: bool, otherwise: str) -> SafetyAction | None:
    """Return what the layer does when it fires, or None if it is off.

    Raises:
        ModelLoadError: the policy requires the layer and it is missing; the message is
            ``otherwise``.
    """
    if policy == "off" or (policy == "auto" and not is_there):
        return None
    if not is_there:
        raise ModelLoadError(otherwise)
    return "block" if policy == "auto" else policy


def strictest(verdicts: Iterable[SafetyVerdict]) -> SafetyAction | None:
    """Return the strictest action of the layers that fired, or None if none did."""
    return max((verdict.action for verdict in verdicts), key=_MILDEST_FIRST.index, default=None)

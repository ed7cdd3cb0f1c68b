"""The safety layers of one model under the settings: each there and working, or no start."""

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

_FROM_THE_MILDEST: tuple[SafetyAction, ...] = get_args(SafetyAction)


class SafetyLayer(Protocol[Subject]):
    """Judges prompts or pictures; called from several threads (prompts) or from one (pictures)."""

    @property
    def name(self) -> str:
        """As the settings, the answers and the metrics call it."""

    @property
    def action(self) -> SafetyAction:
        """What is done about what it fires at."""

    def fires_at(self, subject: Subject) -> bool:
        """Whether it finds something; what it raises counts as no judgement at all."""


class Layers(NamedTuple):
    """Those that are on: over prompts, and over pictures."""

    prompts: tuple[SafetyLayer[str], ...] = ()
    pictures: tuple[SafetyLayer[Image.Image], ...] = ()


def open_layers(checkpoint: Checkpoint, settings: Settings) -> Layers:
    """Load the layers that the settings ask for, and let each judge once.

    Raises:
        ModelLoadError: one is asked for and is missing, broken or without what it needs.
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
        otherwise=f"block_list={settings.block_list} without a list: set block_list_file, "
        "or block_list=off",
    )
    return BlockList(action, file) if action and file else None


def _checker(checkpoint: Checkpoint, settings: Settings) -> SafetyLayer[Image.Image] | None:
    action = action_of(
        settings.safety_checker,
        is_there=has_checker(checkpoint.configs),
        otherwise=f"safety_checker={settings.safety_checker}, but the checkpoint brings no safety "
        "checker: set safety_checker=off, or publish one as safety_classifier",
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
    """The layer, once it has judged a picture: that its parts fit together shows only then."""
    try:
        layer = load()
        layer.fires_at(Image.new("RGB", (64, 64)))
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"{name} does not load: {_first_line(error)}; publish the model anew, or set {name}=off"
        ) from error
    return layer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


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

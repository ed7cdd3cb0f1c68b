"""The picture layers: they match diffusers and transformers, or they stop startup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline as transformers_pipeline

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.checkpoint.configs import Configs
from predictor.errors import ModelLoadError
from predictor.loading.engine import Learned
from predictor.loading.loader import load
from predictor.loading.pipeline import load_pipeline
from predictor.safety.checker import SafetyChecker
from predictor.safety.classifier import SafetyClassifier
from predictor.safety.layers import Layers, open_layers
from predictor.safety.weights import Placement
from predictor.settings import Settings
from tests.predictor.random_safety import (
    LABELS,
    add_checker,
    change_weights,
    copy_model,
    save_checker,
    save_classifier,
)

CPU = Placement(torch.device("cpu"), torch.float32, None)
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    for seed in range(3)
] + [Image.new("RGB", (48, 48), colour) for colour in ("red", "green", "blue", "black", "white")]


@pytest.fixture
def model(demo_model: Path, tmp_path: Path) -> Path:
    """A published folder that the test may change."""
    return copy_model(demo_model, tmp_path / "model")


def names_of(layers: Layers) -> list[tuple[str, str]]:
    return [(layer.name, layer.action) for layer in [*layers.prompts, *layers.pictures]]


def opened(model: Path, **settings: object) -> Layers:
    return open_layers(Checkpoint.read(model), Settings(device="cpu", **settings))


# Which layers are enabled


def test_a_model_without_layers_has_none(model: Path) -> None:
    assert opened(model) == Layers()


def test_an_available_layer_blocks_by_default(model: Path, tmp_path: Path) -> None:
    add_checker(model, fires=False)
    save_classifier(model / "safety_classifier")
    (tmp_path / "terms.txt").write_text("gore")

    layers = opened(model, safety_classifier_labels="gore", block_list_file=tmp_path / "terms.txt")

    assert names_of(layers) == [
        ("block_list", "block"),
        ("safety_checker", "block"),
        ("safety_classifier", "block"),
    ]


@pytest.mark.parametrize("policy", ["off", "flag", "blur", "block"])
def test_each_layer_has_its_policy(model: Path, tmp_path: Path, policy: str) -> None:
    add_checker(model, fires=False)
    save_classifier(model / "safety_classifier")
    (tmp_path / "terms.txt").write_text("gore")
    given = {"safety_classifier_labels": "lewd", "block_list_file": tmp_path / "terms.txt"}

    for name in ("safety_checker", "safety_classifier", "block_list"):
        found = dict(names_of(opened(model, **given, **{name: policy})))

        assert found.get(name, "off") == policy
        assert len(found) == (2 if policy == "off" else 3)


def test_a_disabled_layer_may_be_broken(model: Path) -> None:
    add_checker(model, fires=False)
    (model / "safety_checker" / "model.safetensors").unlink()
    (model / "safety_classifier").mkdir()

    assert opened(model, safety_checker="off", safety_classifier="off") == Layers()
    assert (
        load_pipeline(Checkpoint.read(model), Settings(device="cpu")).diffusers.safety_checker
        is None
    )


# What stops startup


@pytest.mark.parametrize("policy", ["flag", "blur", "block"])
@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (
            "safety_checker",
            "the checkpoint does not include a safety checker: set safety_checker=off",
        ),
        ("safety_classifier", "the model's folder has no safety_classifier/"),
        ("block_list", "requires a list: set block_list_file, or set block_list=off"),
    ],
)
def test_a_policy_without_its_layer_stops_startup(
    model: Path, layer: str, policy: str, sentence: str
) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        opened(model, **{layer: policy})


def test_a_model_is_not_loaded_without_its_layer(model: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not include a safety checker"):
        load(Checkpoint.read(model), Settings(device="cpu", safety_checker="flag"), Learned())


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def make_nan(folder: Path) -> None:
    for name in ("concept_embeds_weights", "classifier.bias"):
        if name in tensors_of(folder):
            nan = torch.full_like(tensors_of(folder)[name], torch.nan)
            change_weights(folder / "model.safetensors", {name: nan})


def take_some(folder: Path) -> None:
    """Remove a tensor, which transformers would fill with random weights."""
    for name in ("concept_embeds", "classifier.weight"):
        if name in tensors_of(folder):
            change_weights(folder / "model.safetensors", {name: None})


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


BROKEN = [
    (remove, "does not load"),
    (truncate, "does not load"),
    (make_nan, "contains NaN"),
    (take_some, "1 of its weights are missing from the files"),
    (break_config, "does not load"),
]


@pytest.mark.parametrize(("breaks", "reason"), BROKEN)
def test_an_incomplete_checker_stops_startup(
    model: Path, breaks: Callable[[Path], None], reason: str
) -> None:
    add_checker(model, fires=False)
    breaks(model / "safety_checker")

    with pytest.raises(ModelLoadError, match=reason) as caught:
        opened(model)
    assert str(caught.value).startswith("safety_checker does not load: ")
    assert str(caught.value).endswith("publish the model again, or set safety_checker=off")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("breaks", "reason"), BROKEN)
def test_an_incomplete_classifier_stops_startup(
    model: Path, breaks: Callable[[Path], None], reason: str
) -> None:
    breaks(save_classifier(model / "safety_classifier"))

    with pytest.raises(ModelLoadError, match=reason) as caught:
        opened(model, safety_classifier_labels="gore")
    assert str(caught.value).startswith("safety_classifier does not load: ")


@pytest.mark.parametrize("folder", ["safety_checker", "feature_extractor"])
def test_a_checker_without_its_folder_stops_startup(model: Path, folder: str) -> None:
    add_checker(model, fires=False)
    (model / folder).rename(model / "elsewhere")

    with pytest.raises(
        ModelLoadError, match=f"safety_checker does not load: the folder {folder}/ is missing"
    ):
        opened(model)


def test_a_checker_of_another_class_stops_startup(model: Path) -> None:
    add_checker(model, fires=False)
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["deepfloyd_if", "IFSafetyChecker"]
    (model / "model_index.json").write_text(json.dumps(index))

    with pytest.raises(ModelLoadError, match="it is a IFSafetyChecker"):
        opened(model)


def test_parts_that_do_not_fit_together_stop_startup(model: Path) -> None:
    save_classifier(model / "safety_classifier")
    path = model / "safety_classifier" / "preprocessor_config.json"
    config = json.loads(path.read_text()) | {"size": {"height": 48, "width": 48}}
    path.write_text(json.dumps(config))

    with pytest.raises(ModelLoadError, match="safety_classifier does not load: Input image size"):
        opened(model, safety_classifier_labels="gore")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("", "safety_classifier_labels is empty: choose at least one of: neutral, drawing"),
        (" , ", "safety_classifier_labels is empty"),
        ("gore,nfsw", "safety_classifier_labels: 'nfsw' is not one of: neutral, drawing, lewd"),
    ],
)
def test_labels_that_the_classifier_does_not_have_stop_startup(
    model: Path, labels: str, sentence: str
) -> None:
    save_classifier(model / "safety_classifier")

    with pytest.raises(ModelLoadError, match=sentence):
        opened(model, safety_classifier_labels=labels)


# What fires


@pytest.mark.parametrize("fires", [True, False])
def test_the_checker_fires_by_its_thresholds(tmp_path: Path, fires: bool) -> None:
    checker = opened_checker(tmp_path, fires=fires)

    assert [checker.fires_at(picture) for picture in PICTURES] == [fires] * len(PICTURES)


def test_the_checker_matches_diffusers(model: Path, tmp_path: Path) -> None:
    own = opened_checker(tmp_path, fires=False)._model
    cosines = sorted(concept_cosines(tmp_path, picture) for picture in PICTURES)
    middle = torch.full_like(own.concept_embeds_weights, sum(cosines[3:5]) / 2)
    change_weights(
        tmp_path / "safety_checker" / "model.safetensors", {"concept_embeds_weights": middle}
    )
    checker = opened_checker(tmp_path, fires=None)
    diffusers = load_pipeline(Checkpoint.read(model), Settings(device="cpu")).diffusers
    diffusers.register_modules(safety_checker=checker._model, feature_extractor=checker._extract)

    flags = []
    for picture in PICTURES:
        image = diffusers.image_processor.preprocess(picture)
        _, flagged = diffusers.run_safety_checker(image, "cpu", torch.float32)
        flags.append(flagged[0])

    assert [checker.fires_at(picture) for picture in PICTURES] == flags
    assert set(flags) == {True, False}


def concept_cosines(folder: Path, picture: Image.Image) -> float:
    checker = opened_checker(folder, fires=None)
    seen: list[torch.Tensor] = []
    checker._model.visual_projection.register_forward_hook(lambda *call: seen.append(call[-1]))
    checker.fires_at(picture)
    concepts = checker._model.concept_embeds.detach()
    return float(torch.cosine_similarity(seen[0], concepts).max())


def opened_checker(folder: Path, *, fires: bool | None) -> SafetyChecker:
    """Return a checker with the weights in ``folder``, by default new ones."""
    if fires is not None:
        save_checker(folder, fires=fires)
        index = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
        (folder / "model_index.json").write_text(json.dumps(index))
    return SafetyChecker("block", Configs(folder), CPU)


@pytest.mark.parametrize(
    ("likely", "labels", "threshold", "config", "fires"),
    [
        ({"gore": 9.0}, "gore", 0.5, {}, True),
        ({"gore": 9.0}, "lewd", 0.5, {}, False),
        ({"gore": 9.0}, "lewd,gore", 0.5, {}, True),
        # Each has a probability of one half: they reach the threshold only together.
        ({"gore": 9.0, "lewd": 9.0}, "gore", 0.6, {}, False),
        ({"gore": 9.0, "lewd": 9.0}, "gore,lewd", 0.6, {}, True),
        # Independent labels do not add up.
        ({}, "gore,lewd", 0.6, {"problem_type": "multi_label_classification"}, False),
        ({"lewd": 1.0}, "gore,lewd", 0.6, {"problem_type": "multi_label_classification"}, True),
    ],
)
def test_the_classifier_fires_by_label_and_threshold(
    tmp_path: Path,
    likely: dict[str, float],
    labels: str,
    threshold: float,
    config: dict[str, str],
    fires: bool,
) -> None:
    folder = save_classifier(tmp_path, likely, **config)
    classifier = SafetyClassifier("block", folder, labels.split(","), threshold, CPU)

    assert [classifier.fires_at(picture) for picture in PICTURES] == [fires] * len(PICTURES)


def test_the_classifier_matches_transformers(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path)
    weight = torch.randn(len(LABELS), 16) * 5
    change_weights(folder / "model.safetensors", {"classifier.weight": weight})
    own = transformers_pipeline("image-classification", str(folder), device="cpu")
    scores = {
        index: {one["label"]: one["score"] for one in own(picture, top_k=None)}
        for index, picture in enumerate(PICTURES)
    }
    threshold = float(np.median([by_label["gore"] for by_label in scores.values()]))

    classifier = SafetyClassifier("block", folder, ["gore"], threshold, CPU)

    expected = [by_label["gore"] >= threshold for by_label in scores.values()]
    assert [classifier.fires_at(picture) for picture in PICTURES] == expected
    assert set(expected) == {True, False}


def test_half_precision_weights_are_used_if_published(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, {"gore": 9.0})
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")

    classifier = SafetyClassifier("block", folder, ["gore"], 0.5, CPU._replace(variant="fp16"))

    assert classifier.fires_at(PICTURES[0])


@pytest.mark.parametrize("layer", ["checker", "classifier"])
def test_nan_is_an_error(tmp_path: Path, layer: str) -> None:
    judge: SafetyChecker | SafetyClassifier
    if layer == "checker":
        judge = opened_checker(tmp_path, fires=True)
        judge._model.visual_projection.weight.data.fill_(torch.nan)
    else:
        save_classifier(tmp_path, {"gore": 9.0})
        judge = SafetyClassifier("block", tmp_path, ["gore"], 0.5, CPU)
        judge._model.classifier.bias.data.fill_(torch.nan)

    with pytest.raises(ArithmeticError, match="NaN"):
        judge.fires_at(PICTURES[0])

"""Which files a pipeline needs, case by case; only their names matter."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from downloader.errors import UnsuitableModelError
from downloader.selection.parts import check_names, filtered
from downloader.selection.pipeline import (
    Component,
    check_is_pipeline,
    read_components,
    select,
)
from downloader.sources import Digest, RemoteFile
from tests.downloader.pipeline_files import (
    MODEL_INDEX,
    pipeline_files,
    published_paths,
    whole_repository,
)

UNET = Component("unet", "diffusers", "UNet2DConditionModel")
TEXT_ENCODER = Component("text_encoder", "transformers", "CLIPTextModel")
STEM = "unet/diffusion_pytorch_model"


def listing(paths: Iterable[str]) -> list[RemoteFile]:
    return [RemoteFile(path, 1, Digest("sha256", "0" * 64)) for path in paths]


def selected(
    paths: Iterable[str], *components: Component, variant: str | None = "fp16"
) -> tuple[set[str], str | None]:
    selection = select(listing(paths), components, variant)
    return {file.path for file in selection.files}, selection.variant


def shards(stem: str, numbers: Iterable[int], of: int) -> list[str]:
    return [f"{stem}-{number:05}-of-{of:05}.safetensors" for number in numbers]


def test_a_whole_repository() -> None:
    components = read_components(json.dumps(MODEL_INDEX).encode())
    assert selected(whole_repository(), *components) == (published_paths(), "fp16")
    plain = selected(whole_repository(), *components, variant=None)
    assert plain == (set(pipeline_files()), None)


def test_generation_defaults_are_selected() -> None:
    paths, _ = selected(["generation_defaults.json", "model_index.json"])
    assert paths == {"generation_defaults.json", "model_index.json"}


@pytest.mark.parametrize(
    ("component", "listed", "wanted", "variant"),
    [
        (
            UNET,
            [f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"],
            [f"{STEM}.fp16.safetensors"],
            "fp16",
        ),
        (
            UNET,
            [f"{STEM}.safetensors", f"{STEM}.non_ema.safetensors"],
            [f"{STEM}.safetensors"],
            None,
        ),
        (
            UNET,
            [
                *shards(f"{STEM}.fp16", (1, 2), 2),
                f"{STEM}.safetensors.index.fp16.json",
                *shards(STEM, (1, 2, 3), 3),
                f"{STEM}.safetensors.index.json",
                f"{STEM}.bin.index.json",
            ],
            [*shards(f"{STEM}.fp16", (1, 2), 2), f"{STEM}.safetensors.index.fp16.json"],
            "fp16",
        ),
        (
            TEXT_ENCODER,
            [
                *shards("text_encoder/model", (1, 2), 2),
                "text_encoder/model.safetensors.index.json",
                "text_encoder/pytorch_model.bin.index.json",
            ],
            [*shards("text_encoder/model", (1, 2), 2), "text_encoder/model.safetensors.index.json"],
            None,
        ),
        (
            UNET,
            [f"{STEM}.safetensors", *shards(STEM, (1, 2), 2), f"{STEM}.safetensors.index.json"],
            [f"{STEM}.safetensors"],
            None,
        ),
        (
            UNET,
            [f"{STEM}.safetensors", "unet/openvino_model.safetensors", "unet/sub/config.json"],
            [f"{STEM}.safetensors"],
            None,
        ),
    ],
    ids=["variant", "other variant", "variant shards", "plain shards", "single first", "other"],
)
def test_weights(
    component: Component, listed: list[str], wanted: list[str], variant: str | None
) -> None:
    config = f"{component.name}/config.json"
    assert selected([config, *listed], component) == ({config, *wanted}, variant)


def test_a_tokenizer_gives_its_small_files() -> None:
    tokenizer = Component("tokenizer", "transformers", "T5TokenizerFast")
    small = {"tokenizer/spiece.model", "tokenizer/vocab.json", "tokenizer/merges.txt"}
    other = {
        "tokenizer/README.md",
        "tokenizer/tokenizer.py",
        "tokenizer/LICENSE",
        "tokenizer/x.bin",
    }
    assert selected(small | other, tokenizer) == (small, None)


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ([], "'unet', which has no folder"),
        (["unet/config.json"], "'unet' has no safetensors$"),
        (["unet/diffusion_pytorch_model.bin"], "only pickles"),
        (["unet/model.onnx"], "only pickles or another format"),
        ([f"{STEM}.bf16.safetensors"], "only in the variants bf16"),
        (["unet/diffusers.py", f"{STEM}.safetensors"], "the code of a repository is never run"),
        (shards(STEM, (1, 2), 2), "lacks shards or their index"),
        ([*shards(STEM, (1, 3), 3), f"{STEM}.safetensors.index.json"], "lacks shards"),
    ],
    ids=["no folder", "no weights", "pickle", "onnx", "variant", "code", "no index", "no shard"],
)
def test_a_component_that_cannot_be_loaded_is_refused(listed: list[str], reason: str) -> None:
    with pytest.raises(UnsuitableModelError, match=reason):
        selected(listed, UNET)


SAFETY_CHECKER = Component("safety_checker", "stable_diffusion", "StableDiffusionSafetyChecker")
FEATURE_EXTRACTOR = Component("feature_extractor", "transformers", "CLIPImageProcessor")


@pytest.mark.parametrize(
    "listed",
    [[], ["safety_checker/config.json", "safety_checker/pytorch_model.bin"]],
    ids=["no folder", "only a pickle"],
)
def test_a_missing_component_that_diffusers_accepts_as_none_is_left_out(listed: list[str]) -> None:
    unet = ["unet/config.json", f"{STEM}.safetensors"]

    found = select(listing([*unet, *listed]), [UNET, SAFETY_CHECKER, FEATURE_EXTRACTOR], None)

    assert found.missing == ("safety_checker", "feature_extractor")
    assert {file.path for file in found.files} == set(unet)
    assert found.without_variant == ()


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (["safety_checker/model.fp16.safetensors"], "only in the variants fp16"),
        (["safety_checker/stable_diffusion.py"], "the code of a repository is never run"),
    ],
)
def test_an_optional_component_in_another_form_is_refused(listed: list[str], reason: str) -> None:
    with pytest.raises(UnsuitableModelError, match=reason):
        select(listing(listed), [SAFETY_CHECKER], None)


@pytest.mark.parametrize(
    "path",
    ["../x", "unet/../../x", "/etc/x", "unet\\x", "..\\x", "unet//x", "./x", "unet/\0", ""],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(path: str) -> None:
    with pytest.raises(UnsuitableModelError, match="leads out of"):
        check_names(listing(["model_index.json", path]))


def test_a_listing_without_an_index_is_refused() -> None:
    with pytest.raises(UnsuitableModelError, match=r"it has no model_index\.json"):
        check_is_pipeline(listing(["model.safetensors", "unet/model_index.json"]))


@pytest.mark.parametrize(
    ("allow", "deny", "kept"),
    [
        ([], [], {"a.json", "unet/b.json", "unet/deep/c.txt"}),
        (["*.json"], [], {"a.json", "unet/b.json"}),
        (["unet/"], [], {"unet/b.json", "unet/deep/c.txt"}),
        ([], ["unet/*"], {"a.json"}),
        (["unet/*"], ["*.txt"], {"unet/b.json"}),
    ],
)
def test_patterns_exclude_files_but_never_the_index(
    allow: list[str], deny: list[str], kept: set[str]
) -> None:
    files = listing(["model_index.json", "a.json", "unet/b.json", "unet/deep/c.txt"])

    paths = {file.path for file in filtered(files, allow, deny)}

    assert paths == kept | {"model_index.json"}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"{", "not valid JSON$"),
        (b"\xff", "not valid JSON$"),
        (b"[]", "not a JSON object"),
        (b"{}", "no component with weights"),
        (b'{"scheduler": ["diffusers", "DDIMScheduler"]}', "no component with weights"),
        (b"[" * 100_000, "not valid JSON$"),
        (
            b'{"_class_name": ["pipeline", "Own"], "unet": ["diffusers", "UNet2DConditionModel"]}',
            "a pipeline class of the repository: the code of a repository is never run",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 582\n",
            "a Git LFS pointer",
        ),
        (b'{"unet": ["diffusers"]}', "'unet' is not a component"),
        (b'{"unet": [1, 2]}', "'unet' is not a component"),
        (b'{"../x": ["diffusers", "UNet2DConditionModel"]}', "'../x' is not a component"),
    ],
)
def test_an_invalid_index_is_refused(index: bytes, reason: str) -> None:
    with pytest.raises(UnsuitableModelError, match=reason):
        read_components(index)

"""Several models in one file, and the parts other than the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from downloader.errors import InvalidSettingError, UnsuitableModelError
from downloader.selection.parts import select_adapter, select_network
from downloader.settings import Fetch
from downloader.spec import read_models
from modelstore import MARKER_NAME, Marker, PartEntry
from tests.downloader.hub_server import Hub, sha256
from tests.downloader.job import Job
from tests.downloader.pipeline_files import (
    half_files,
    pipeline_files,
    published_paths,
    safetensors,
    whole_repository,
)
from tests.downloader.test_selection import listing
from tests.downloader.volume import file_names, leftovers, revisions

CLASSIFIER = {
    "config.json": b"{}",
    "preprocessor_config.json": b"{}",
    "model.safetensors": safetensors(50),
    "pytorch_model.bin": b"pickle",
    "README.md": b"",
}
CONTROLNET = {
    "config.json": b"{}",
    "diffusion_pytorch_model.safetensors": safetensors(70),
    "diffusion_pytorch_model.fp16.safetensors": safetensors(71),
    "diffusion_pytorch_model.bin": b"pickle",
    "images/a.png": b"",
    "README.md": b"",
}
LORA = safetensors(60)
CONCEPT_WEIGHTS = "weights/learned_embeds.safetensors"
CONCEPT = {
    "README.md": b"",
    "learned_embeds.bin": b"pickle",
    CONCEPT_WEIGHTS: safetensors(80),
}
STYLE = {
    "README.md": b"",
    "images/a.png": b"",
    "pytorch_lora_weights.safetensors": safetensors(61),
    "other.safetensors": safetensors(62),
}


@pytest.fixture
def spec(hub: Hub, tmp_path: Path) -> Path:
    hub.repository("o/base").commit(whole_repository(seed=1))
    hub.repository("o/refiner").commit(pipeline_files(seed=30))
    hub.repository("o/classifier").commit(CLASSIFIER)
    hub.repository("o/style").commit(STYLE)
    hub.repository("o/canny").commit(CONTROLNET)
    hub.files["pixel.safetensors"] = LORA
    path = tmp_path / "models.yaml"
    path.write_text(f"""
models:
  - name: sdxl
    source: hf://o/base
    refiner: hf://o/refiner@main
    adapters:
      - name: pixel-art
        source: {hub.url}/files/pixel.safetensors
        sha256: {sha256(LORA)}
      - name: style
        source: hf://o/style
    controlnets:
      - name: canny
        source: hf://o/canny
      - name: depth
        source: hf://o/canny
        variant: ""
    safety_classifier: hf://o/classifier
  - name: plain
    source: hf://o/base
    variant: ""
    deny_patterns: ["feature_extractor/*.txt"]
""")
    return path


def run(job: Job, spec: Path, verb: str = "fetch", *flags: str) -> tuple[int, str, str]:
    variables = {"DOWNLOADER_SOURCE": "", "DOWNLOADER_NAME": "", "DOWNLOADER_SPEC": str(spec)}
    done = job.verb(verb, *flags, **variables)
    return done.returncode, done.stdout, done.stderr


def test_all_parts_are_published_together_under_one_marker(
    hub: Hub, job: Job, target: Path, spec: Path
) -> None:
    code, stdout, stderr = run(job, spec)

    assert code == 0, stderr
    refiner = {f"refiner/{path}" for path in pipeline_files()}
    others = {
        "adapters/pixel-art/pixel.safetensors",
        "adapters/style/pytorch_lora_weights.safetensors",
        "controlnets/canny/config.json",
        "controlnets/canny/diffusion_pytorch_model.fp16.safetensors",
        "controlnets/depth/config.json",
        "controlnets/depth/diffusion_pytorch_model.safetensors",
        *(f"safety_classifier/{path}" for path in list(CLASSIFIER)[:3]),
    }
    wanted = published_paths() | refiner | others
    assert file_names(target / "sdxl") == wanted | {MARKER_NAME}
    marker = Marker.read(target / "sdxl")
    assert {entry.path for entry in marker.files} == wanted
    assert (marker.source, marker.variant) == ("hf://o/base@main", "fp16")
    assert [(part.folder, part.variant) for part in marker.parts] == [
        ("refiner", None),
        ("adapters/pixel-art", None),
        ("adapters/style", None),
        ("controlnets/canny", "fp16"),
        ("controlnets/depth", None),
        ("safety_classifier", None),
    ]
    commit = hub.repositories["o/refiner"].branches["main"]
    assert marker.parts[0] == PartEntry("refiner", "hf://o/refiner@main", commit, None)
    assert file_names(target / "plain") == set(pipeline_files()) | {MARKER_NAME}
    assert set(half_files()).isdisjoint(file_names(target / "plain"))
    assert len(stdout.splitlines()) == 2
    assert run(job, spec)[1].count("already published") == 2


def test_several_controlnets_come_from_folders_of_one_repository(
    hub: Hub, job: Job, target: Path, tmp_path: Path
) -> None:
    hub.repository("o/base").commit(pipeline_files())
    several = {
        f"{folder}/{path}": content.replace(b"{}", b'{"of": "%s"}' % folder.encode())
        for folder in ("canny", "v2/canny")
        for path, content in CONTROLNET.items()
    }
    hub.repository("o/all").commit({"README.md": b"", "canny-old/config.json": b"{}", **several})
    spec = tmp_path / "folders.yaml"
    spec.write_text("""
models:
  - name: sd
    source: hf://o/base
    controlnets:
      - {name: first, source: hf://o/all, subfolder: canny}
      - {name: second, source: hf://o/all, subfolder: v2/canny/}
""")

    code, _, stderr = run(job, spec)

    assert code == 0, stderr
    paths = {"config.json", "diffusion_pytorch_model.fp16.safetensors"}
    for name, folder in (("first", "canny"), ("second", "v2/canny")):
        place = target / "sd" / "controlnets" / name
        assert file_names(place) == paths
        assert (place / "config.json").read_bytes() == several[f"{folder}/config.json"]
    sources = [part.source for part in Marker.read(target / "sd").parts]
    assert sources == [
        "hf://o/all@main (subfolder canny)",
        "hf://o/all@main (subfolder v2/canny)",
    ]

    # A repair fetches from the folder, and another folder is another revision.
    (target / "sd/controlnets/second/config.json").write_bytes(b"damaged")
    assert run(job, spec)[0] == 0
    assert run(job, spec, "verify")[0] == 0
    spec.write_text(spec.read_text().replace("subfolder: canny", "subfolder: v2/canny"))
    assert run(job, spec)[0] == 0
    assert len(revisions(target)) == 2


def test_embeddings_are_files_with_the_names_of_the_entries(
    hub: Hub, job: Job, target: Path, tmp_path: Path
) -> None:
    hub.repository("o/base").commit(pipeline_files())
    hub.repository("o/concept").commit(CONCEPT)
    hub.files["easy.safetensors"] = LORA
    spec = tmp_path / "embeddings.yaml"
    spec.write_text(f"""
models:
  - name: sd
    source: hf://o/base
    embeddings:
      - {{name: moebius_v1.5, source: hf://o/concept}}
      - {{name: easy, source: "{hub.url}/files/easy.safetensors", sha256: {sha256(LORA)}}}
""")

    code, _, stderr = run(job, spec)

    assert code == 0, stderr
    folder = target / "sd" / "embeddings"
    assert file_names(folder) == {"moebius_v1.5.safetensors", "easy.safetensors"}
    assert (folder / "moebius_v1.5.safetensors").read_bytes() == CONCEPT[CONCEPT_WEIGHTS]
    assert [part.folder for part in Marker.read(target / "sd").parts] == [
        "embeddings/moebius_v1.5",
        "embeddings/easy",
    ]
    (folder / "moebius_v1.5.safetensors").write_bytes(b"damaged")
    assert run(job, spec)[0] == 0
    assert run(job, spec, "verify")[0] == 0

    hub.repository("o/concept").commit({**CONCEPT, "other.safetensors": safetensors(81)})
    code, _, stderr = run(job, spec)
    assert code != 0
    assert "the embedding has several safetensors files" in stderr


def test_a_missing_folder_of_a_repository_is_named(hub: Hub, job: Job, tmp_path: Path) -> None:
    hub.repository("o/base").commit(pipeline_files())
    hub.repository("o/all").commit(CONTROLNET)
    spec = tmp_path / "folders.yaml"
    controlnet = "{name: a, source: hf://o/all, subfolder: canny}"
    spec.write_text(f"models: [{{name: sd, source: hf://o/base, controlnets: [{controlnet}]}}]")

    code, _, stderr = run(job, spec)

    assert code == 4
    assert stderr.splitlines()[-1] == "error: hf://o/all@main has no folder 'canny'"


def test_a_changed_part_is_another_revision(hub: Hub, job: Job, target: Path, spec: Path) -> None:
    run(job, spec)
    hub.repositories["o/style"].commit(STYLE | {"pytorch_lora_weights.safetensors": safetensors(9)})
    hub.requests.clear()

    assert run(job, spec)[0] == 0

    assert len(revisions(target, "sdxl")) == 2
    assert len(revisions(target, "plain")) == 1
    assert hub.fetched_weights == ["pytorch_lora_weights.safetensors"]


def test_a_damaged_part_is_repaired_from_its_own_source(
    hub: Hub, job: Job, target: Path, spec: Path
) -> None:
    run(job, spec)
    for path in ("adapters/pixel-art/pixel.safetensors", "refiner/vae/config.json"):
        (target / "sdxl" / path).write_bytes(b"damaged")
    hub.requests.clear()

    code, _, stderr = run(job, spec)

    assert code == 0, stderr
    assert (target / "sdxl/adapters/pixel-art/pixel.safetensors").read_bytes() == LORA
    assert hub.fetched_weights == []
    assert run(job, spec, "verify")[0] == 0


def test_a_failure_of_one_model_does_not_stop_the_others(
    hub: Hub, job: Job, target: Path, spec: Path
) -> None:
    hub.repositories["o/refiner"].is_private = True

    code, _, stderr = run(job, spec)

    assert code == 3
    assert "sdxl failed: hf://o/refiner@main: the repository does not exist or is private" in stderr
    assert stderr.splitlines()[-1].startswith("error: hf://o/refiner@main")
    assert not (target / "sdxl").exists()
    assert Marker.read(target / "plain").name == "plain"
    assert leftovers(target) == set()


def test_a_plan_names_files_and_bytes_and_fetches_no_weights(
    hub: Hub, job: Job, target: Path, spec: Path
) -> None:
    code, stdout, stderr = run(job, spec, "plan")

    assert code == 0, stderr
    assert list(target.iterdir()) == []
    assert hub.fetched_weights == []
    commit = hub.repositories["o/base"].branches["main"]
    assert f"  hf://o/base@main at {commit}" in stdout
    assert f"{len(LORA):>16,}  adapters/pixel-art/pixel.safetensors" in stdout

    (line,) = [line for line in stdout.splitlines() if line.startswith("sdxl: ")]
    assert "safety_classifier" in line.partition("plain files of")[2]
    assert "controlnets/" not in line

    _, stdout, _ = run(job, spec, "plan", "--log_format", "json")
    sdxl, plain = map(json.loads, stdout.splitlines())
    assert (sdxl["event"], sdxl["model"], sdxl["revision"]) == ("plan", "sdxl", commit)
    assert sdxl["total_bytes"] == sum(sdxl["paths"].values())
    assert sdxl["files"] == len(sdxl["paths"])
    assert plain["model"] == "plain"


def test_the_name_selects_one_model(spec: Path) -> None:
    (model,) = read_models(Fetch(spec=spec, name="plain"))
    assert model.name == "plain"
    assert model.parts[0].variant is None
    with pytest.raises(InvalidSettingError, match="has no model of this name"):
        read_models(Fetch(spec=spec, name="other"))


BASE = "models: [{name: a, source: hf://o/n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("models: [", "is not valid YAML (line 1)"),
        ("[]", "Input should be a valid dictionary or instance of Document"),
        ("{}", "models: Field required"),
        ("models: []", "models: Tuple should have at least 1 item"),
        ("models: [{name: a}]", "models[0].source: Field required"),
        (BASE + ", sorce: x}]", "models[0].sorce: Extra inputs are not permitted"),
        (BASE + "}, {name: a, source: hf://o/n}]", "models: the name 'a' is used twice"),
        ("models: [{name: a/b, source: hf://o/n}]", "models[0].name: model name 'a/b'"),
        ("models: [{name: a, source: x}]", "models[0].source: 'x': the scheme is not valid"),
        (BASE + ", refiner: x}]", "models[0].refiner: 'x': the scheme is not valid"),
        (BASE + ", refiner: 'https://h/x.safetensors'}]", "models[0].refiner: a single file is"),
        (
            BASE + ", adapters: [{name: b, source: 'https://h/x.safetensors', sha256: 12ab}]}]",
            "models[0].adapters[0].sha256: 'https://h/x.safetensors': the sha256 is not valid",
        ),
        (
            BASE + ", adapters: [{name: b, source: hf://o/n}, {name: b, source: hf://o/m}]}]",
            "models[0].adapters: the name 'b' is used twice",
        ),
        (BASE + ", embeddings: [{name: b/c, source: hf://o/n}]}]", "embeddings[0].name: model"),
        (
            BASE + ", controlnets: [{name: b, source: 'https://h/x.safetensors'}]}]",
            "models[0].controlnets[0].source: a single file is",
        ),
        (BASE + ", controlnets: [{name: ../b, source: hf://o/n}]}]", "controlnets[0].name: model"),
        (
            BASE + ", controlnets: [{name: b, source: hf://o/n}, {name: b, source: hf://o/m}]}]",
            "models[0].controlnets: the name 'b' is used twice",
        ),
        (
            BASE + ", controlnets: [{name: b, source: hf://o/n, subfolder: ../c}]}]",
            "models[0].controlnets[0].subfolder: '../c' is not a folder within the source",
        ),
        (BASE + ", skip_components: [vae]}]", "models[0].skip_components[0]: 'vae' is not one of"),
        (BASE + ", variant: 7}]", "models[0].variant: Input should be a valid string"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_place(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSettingError) as caught:
        read_models(Fetch(spec=path))
    assert sentence in str(caught.value)


def test_a_missing_file_and_conflicting_settings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"--spec .*: No such file"):
        read_models(Fetch(spec=tmp_path / "none"))
    with pytest.raises(InvalidSettingError, match="exclude each other"):
        read_models(Fetch(spec=tmp_path / "none", source="hf://a/b"))
    with pytest.raises(InvalidSettingError, match=r"--source \(DOWNLOADER_SOURCE\): required"):
        read_models(Fetch(name="a"))
    with pytest.raises(InvalidSettingError, match=r"--name \(DOWNLOADER_NAME\): required"):
        read_models(Fetch(source="hf://a/b"))


@pytest.mark.parametrize(
    ("paths", "taken"),
    [
        (["x.safetensors", "README.md"], {"x.safetensors"}),
        (
            ["x.safetensors", "pytorch_lora_weights.safetensors"],
            {"pytorch_lora_weights.safetensors"},
        ),
        (
            ["sub/x.safetensors", "sub/adapter_config.json", "adapter_config.json"],
            {"sub/x.safetensors", "sub/adapter_config.json"},
        ),
    ],
)
def test_the_file_of_an_adapter(paths: list[str], taken: set[str]) -> None:
    assert {file.path for file in select_adapter(listing(paths)).files} == taken


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        (["x.bin"], "has no safetensors"),
        (["b.safetensors", "a.safetensors"], r"several safetensors files \(a.*, b.*allow_patterns"),
    ],
)
def test_an_adapter_without_a_single_weights_file_is_refused(paths: list[str], reason: str) -> None:
    with pytest.raises(UnsuitableModelError, match=reason):
        select_adapter(listing(paths))


def test_a_classifier_without_safetensors_is_refused() -> None:
    with pytest.raises(UnsuitableModelError, match="only pickles"):
        select_network("safety classifier", listing(["config.json", "pytorch_model.bin"]), None)
    with pytest.raises(UnsuitableModelError, match=r"no config\.json"):
        select_network("safety classifier", listing(["model.safetensors"]), None)
    found = select_network(
        "safety classifier",
        listing(["config.json", "model.safetensors", "model.fp16.safetensors"]),
        "fp16",
    )
    assert {file.path for file in found.files} == {"config.json", "model.fp16.safetensors"}
    assert found.variant == "fp16"


def test_a_controlnet_is_its_configuration_and_its_weights() -> None:
    found = select_network("ControlNet", listing(CONTROLNET), "fp16")
    assert {file.path for file in found.files} == {
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    }
    with pytest.raises(UnsuitableModelError, match=r"the ControlNet has no config\.json"):
        select_network("ControlNet", listing(["control_v11p_sd15_canny.safetensors"]), None)
    with pytest.raises(UnsuitableModelError, match="'ControlNet' has no safetensors, only pickles"):
        select_network(
            "ControlNet", listing(["config.json", "diffusion_pytorch_model.bin"]), "fp16"
        )

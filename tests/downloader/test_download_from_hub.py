"""The downloader as the Job runs it: a separate process, the real library, a hub over HTTP."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelstore import MARKER_NAME, Marker
from tests.downloader.hub_faults import Fault
from tests.downloader.hub_server import Hub, sha256
from tests.downloader.job import REPOSITORY, Job
from tests.downloader.pipeline_files import (
    half_files,
    pipeline_files,
    published_paths,
    safetensors,
    whole_repository,
)
from tests.downloader.volume import file_names, leftovers, partial_sizes, revisions, tree
from tests.waiting import wait_until


def test_the_half_precision_pipeline_is_published_and_nothing_else(
    hub: Hub, job: Job, target: Path
) -> None:
    files = whole_repository()
    hub.repository(REPOSITORY).commit(files)

    result = job.run()

    assert result.returncode == 0, result.stderr
    assert file_names(target / "sd") == published_paths() | {MARKER_NAME}
    assert set(hub.fetched) == published_paths()
    for path in published_paths():
        assert (target / "sd" / path).read_bytes() == files[path]
    assert leftovers(target) == set()
    stages = [line.split()[1] for line in result.stderr.splitlines()]
    assert stages == ["resolved", "planned", "needed", "fetched", "verified", "published"]
    assert ", variant fp16, plain files of safety_checker\n" in result.stderr


def test_other_answers_of_a_mirror_do_not_matter(hub: Hub, job: Job, tmp_path: Path) -> None:
    hub.repository(REPOSITORY).commit(whole_repository())
    # huggingface_hub caches here the registry of tools that the hub sends.
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / ".agent_harnesses.json").write_text('[{"no": "registry"}]')

    result = job.run()

    assert result.returncode == 0, result.stderr


def test_the_marker_says_what_was_published(hub: Hub, job: Job, target: Path) -> None:
    files = whole_repository()
    commit = hub.repository(REPOSITORY).commit(files)
    before = datetime.now(UTC).replace(microsecond=0)

    result = job.run()

    marker = Marker.read(target / "sd")
    assert (marker.name, marker.source) == ("sd", f"hf://{REPOSITORY}@main")
    assert (marker.revision, marker.variant, marker.asked_variant) == (commit, "fp16", "fp16")
    assert before <= datetime.fromisoformat(marker.completed_at) <= datetime.now(UTC)
    assert {entry.path for entry in marker.files} == published_paths()
    for entry in marker.files:
        assert (entry.size, entry.sha256) == (len(files[entry.path]), sha256(files[entry.path]))
    assert re.fullmatch(
        rf"sd: hf://{REPOSITORY}@main at {commit}, {len(marker.files)} files, "
        rf"{marker.size:,} bytes, [0-9.]+ s\n",
        result.stdout,
    )


@pytest.mark.parametrize(
    ("files", "variant"),
    [(whole_repository(), "fp16"), (pipeline_files(), None)],
    ids=["with the variant", "without the variant"],
)
def test_a_second_run_fetches_and_writes_nothing(
    hub: Hub, job: Job, target: Path, files: dict[str, bytes], variant: str | None
) -> None:
    hub.repository(REPOSITORY).commit(files)
    job.run()
    assert Marker.read(target / "sd").variant == variant
    before = tree(target)
    hub.requests.clear()

    result = job.run()

    assert result.returncode == 0
    assert result.stdout.endswith(", already published\n")
    assert hub.api_calls == ["revision"]
    assert len(hub.requests) == 1
    assert tree(target) == before


def test_a_published_pinned_commit_needs_no_hub(hub: Hub, job: Job) -> None:
    commit = hub.repository(REPOSITORY).commit(pipeline_files())
    pinned = ["--source", f"hf://{REPOSITORY}@{commit}"]
    assert job.run(*pinned).returncode == 0
    hub.requests.clear()

    assert "already published" in job.run(*pinned).stdout
    assert hub.requests == []


def test_a_new_commit_replaces_the_old_one(hub: Hub, job: Job, target: Path) -> None:
    repository = hub.repository(REPOSITORY)
    repository.commit(whole_repository(seed=1) | {"vae/old.json": b"{}"})
    job.run()
    commit = repository.commit(whole_repository(seed=2))

    assert job.run().returncode == 0

    assert Marker.read(target / "sd").revision == commit
    assert file_names(target / "sd") == published_paths() | {MARKER_NAME}
    path = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert (target / "sd" / path).read_bytes() == half_files(seed=2)[path]
    assert leftovers(target) == set()
    assert len(revisions(target)) == 2


@pytest.mark.parametrize(
    "path", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json"], ids=["large", "small"]
)
def test_wrong_bytes_are_not_published_and_the_next_run_recovers(
    hub: Hub, job: Job, target: Path, path: str
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    hub.faults.corrupt.add(path)

    result = job.run()

    assert result.returncode == 6
    assert path in result.stderr.splitlines()[-1]
    assert not (target / "sd").exists()

    hub.faults.clear()
    hub.requests.clear()
    assert job.run().returncode == 0
    assert path in hub.fetched
    assert (target / "sd" / path).read_bytes() == pipeline_files()[path]


def test_a_killed_run_publishes_nothing_and_the_next_one_continues(
    hub: Hub, job: Job, target: Path
) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    # With one worker the largest file comes first and the smallest weights after it.
    path = "vae/diffusion_pytorch_model.safetensors"
    hub.faults.once[path] = [Fault("stall", after=50)]
    with job.start("--max_workers", "1") as process:
        wait_until(lambda: partial_sizes(target) == [50])
        process.kill()
    assert not (target / "sd").exists()
    assert "unet/diffusion_pytorch_model.safetensors" in hub.fetched_weights
    finished = set(hub.fetched_weights) - {path}

    hub.requests.clear()
    assert job.run().returncode == 0

    assert finished.isdisjoint(hub.fetched)
    ranges = [request.headers.get("Range") for request in hub.requests if path in request.path]
    assert set(ranges) == {"bytes=50-"}
    assert file_names(target / "sd") == set(pipeline_files()) | {MARKER_NAME}


def test_files_of_an_older_commit_leave_the_staging_folder(
    hub: Hub, job: Job, target: Path
) -> None:
    commit = hub.repository(REPOSITORY).commit(pipeline_files())
    for name in (f"{commit[:12]}-00000000.dead", "unet", f"{'0' * 12}-00000000.dead"):
        stale = target / ".staging" / "sd" / name / "unet" / "stale.safetensors"
        stale.parent.mkdir(parents=True)
        stale.write_bytes(safetensors(9))

    assert job.run().returncode == 0

    assert file_names(target / "sd") == set(pipeline_files()) | {MARKER_NAME}
    assert leftovers(target) == set()


def test_only_pickles_are_refused(hub: Hub, job: Job, target: Path) -> None:
    files = {
        path: content
        for path, content in whole_repository().items()
        if not (path.startswith("unet/") and path.endswith(".safetensors"))
    }
    hub.repository(REPOSITORY).commit(files)

    result = job.run()

    assert result.returncode == 8
    assert "'unet' has no safetensors, only pickles" in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (target / "sd").exists()


def test_a_safety_checker_that_is_only_a_pickle_is_left_out_with_a_warning(
    hub: Hub, job: Job, target: Path
) -> None:
    files = pipeline_files()
    files["safety_checker/pytorch_model.bin"] = files.pop("safety_checker/model.safetensors")
    hub.repository(REPOSITORY).commit(files)

    result = job.run()

    assert result.returncode == 0, result.stderr
    assert "the optional component safety_checker, which is left out\n" in result.stderr
    left = {path for path in files if not path.startswith("safety_checker/")}
    assert file_names(target / "sd") == left | {MARKER_NAME}
    assert Marker.read(target / "sd").left_out == ("safety_checker",)
    assert ", without safety_checker," in job.verb("plan").stdout
    assert "already published" in job.run().stdout


def test_skipped_components_are_not_fetched(hub: Hub, job: Job, target: Path) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())
    assert job.run().returncode == 0
    assert Marker.read(target / "sd").left_out == ()

    result = job.run("--skip-components", "safety_checker, feature_extractor")

    assert result.returncode == 0, result.stderr
    assert "which is left out" not in result.stderr
    folders = ("safety_checker/", "feature_extractor/")
    left = {path for path in pipeline_files() if not path.startswith(folders)}
    assert file_names(target / "sd") == left | {MARKER_NAME}
    assert Marker.read(target / "sd").left_out == ("feature_extractor", "safety_checker")
    assert len(revisions(target)) == 2
    swapped = job.run(DOWNLOADER_SKIP_COMPONENTS="feature_extractor,safety_checker")
    assert "already published" in swapped.stdout


def test_a_component_that_a_pipeline_needs_cannot_be_skipped(job: Job) -> None:
    result = job.run("--skip-components", "unet")

    assert result.returncode == 2
    assert result.stderr == (
        "error: --skip_components (DOWNLOADER_SKIP_COMPONENTS): 'unet' is not one of "
        "feature_extractor, image_encoder, safety_checker, text_encoder_3, tokenizer_3\n"
    )


def test_a_gated_repository_names_the_page_and_the_secret(hub: Hub, job: Job) -> None:
    repository = hub.repository(REPOSITORY)
    repository.commit(pipeline_files())
    repository.is_gated = True

    result = job.run()

    assert result.returncode == 3
    sentence = result.stderr.splitlines()[-1]
    assert f"is gated: accept its terms at {hub.url}/{REPOSITORY}" in sentence
    assert "the Secret (HF_TOKEN, which is not set)" in sentence

    refused = job.run(HF_TOKEN="hf_of_someone_else")
    assert refused.returncode == 3
    assert "HF_TOKEN, which was refused" in refused.stderr
    assert job.run(HF_TOKEN="hf_good").returncode == 0


@pytest.mark.parametrize(
    ("variables", "code"),
    [({}, 3), ({"HF_TOKEN": "hf_good"}, 4)],
    ids=["to a stranger", "to an account"],
)
def test_a_missing_repository_may_be_a_private_one(
    hub: Hub, job: Job, variables: dict[str, str], code: int
) -> None:
    result = job.run(**variables)

    assert result.returncode == code
    sentence = result.stderr.splitlines()[-1]
    assert "the repository does not exist or is private" in sentence
    assert f"{hub.url}/{REPOSITORY}" in sentence
    assert "HF_TOKEN" in sentence


def test_a_private_repository_is_readable_with_its_token(hub: Hub, job: Job) -> None:
    repository = hub.repository(REPOSITORY)
    repository.commit(pipeline_files())
    repository.is_private = True

    assert job.run(HF_TOKEN="hf_good").returncode == 0

    # The network that delivers large files is another server: it never receives the token.
    large = [request for request in hub.requests if request.path.startswith("/lfs/")]
    assert large
    assert not any("Authorization" in request.headers for request in large)


@pytest.mark.parametrize("branch", ["_x", "refs/pr/7", "fix#7"])
def test_any_branch_of_git_is_a_revision(hub: Hub, job: Job, target: Path, branch: str) -> None:
    commit = hub.repository(REPOSITORY).commit(pipeline_files(), branch)

    result = job.run("--source", f"hf://{REPOSITORY}@{branch}")

    assert result.returncode == 0, result.stderr
    marker = Marker.read(target / "sd")
    assert (marker.source, marker.revision) == (f"hf://{REPOSITORY}@{branch}", commit)


@pytest.mark.parametrize("revision", ["v2", "a" * 40], ids=["branch", "commit"])
def test_a_missing_revision_is_named(hub: Hub, job: Job, revision: str) -> None:
    hub.repository(REPOSITORY).commit(pipeline_files())

    result = job.run("--source", f"hf://{REPOSITORY}@{revision}")

    assert result.returncode == 4
    assert f"no revision {revision!r}" in result.stderr


@pytest.mark.parametrize(("status", "code"), [(403, 3), (500, 7)], ids=str)
def test_other_refusals_have_their_codes(hub: Hub, job: Job, status: int, code: int) -> None:
    hub.faults.status = status

    result = job.run(DOWNLOADER_MAX_RETRIES="1")

    assert result.returncode == code
    assert f"the hub answered {status}" in result.stderr
    assert len(hub.requests) == (2 if code == 7 else 1)

"""Keys and rate limits in the chart: off by default, and read from Secrets."""

from __future__ import annotations

import pytest

from .rendering import Object, plain_env, render

KEYS: Object = {"apiKeys": {"secretName": "team-keys", "key": "hashes"}}
REDIS: Object = {"rateLimitStorage": {"secretName": "team-redis"}}
EGRESS: Object = {"networkPolicy": {"predictorEgress": [{"ports": [{"port": 6379}]}]}}


def test_nothing_is_limited_or_closed_by_default() -> None:
    rendered = render()

    text = str(rendered.objects)
    assert "API_KEY" not in text
    assert "env" not in rendered.hooks[0]["spec"]["containers"][0]
    assert "RATE_LIMIT" not in text
    assert "api-keys" not in text
    assert "Authorization" not in rendered.notes


def test_only_the_hashes_are_mounted_so_that_changes_take_effect() -> None:
    rendered = render({"predictor": KEYS})
    container = rendered.predictor_container
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in rendered.predictor["volumes"]}

    # A whole folder, because a file that is mounted by subPath never changes.
    assert mounts["api-keys"] == {
        "name": "api-keys",
        "mountPath": "/etc/predictor-keys",
        "readOnly": True,
    }
    # The Secret may also hold keys in plain text, for `helm test`. Not optional: without its file
    # the pod must not start.
    assert volumes["api-keys"]["secret"] == {
        "secretName": "team-keys",
        "items": [{"key": "hashes", "path": "api-keys"}],
    }
    assert plain_env(container)["PREDICTOR_API_KEYS_FILE"] == "/etc/predictor-keys/api-keys"


def test_keys_and_a_block_list_have_folders_of_their_own() -> None:
    values = {"predictor": {**KEYS, "blockList": {"configMap": "team-terms"}}}
    paths = [one["mountPath"] for one in render(values).predictor_container["volumeMounts"]]

    assert len(set(paths)) == len(paths)
    assert {"/etc/predictor", "/etc/predictor-keys"} <= set(paths)


def test_the_url_of_the_storage_is_read_from_a_secret() -> None:
    container = render({"predictor": REDIS, **EGRESS}).predictor_container
    variables = {one["name"]: one for one in container["env"]}

    assert variables["PREDICTOR_RATE_LIMIT_STORAGE"]["valueFrom"] == {
        "secretKeyRef": {"name": "team-redis", "key": "url"}
    }


def test_a_storage_that_the_network_policy_blocks_is_rejected() -> None:
    with pytest.raises(Exception, match=r"predictorEgress"):
        render({"predictor": REDIS})

    render({"predictor": REDIS, "networkPolicy": {"enabled": False}})


@pytest.mark.parametrize("unit", ["requests", "pictures", "megapixels"])
def test_a_limit_per_key_requires_keys(unit: str) -> None:
    setting = f"key_{unit}_per_minute"
    limit: Object = {"settings": {setting: 10}}

    with pytest.raises(Exception, match=rf"settings.{setting}: .*predictor.apiKeys.secretName"):
        render({"predictor": limit})

    render({"predictor": {"settings": {setting: 0}}})
    render({"predictor": {**limit, **KEYS}})


@pytest.mark.parametrize("setting", ["api_keys_file", "rate_limit_storage", "cache_dir"])
def test_what_the_chart_mounts_is_not_a_setting(setting: str) -> None:
    with pytest.raises(Exception, match=setting):
        render({"predictor": {"settings": {setting: "any"}}})


def test_limits_are_settings() -> None:
    limits = {"key_pictures_per_minute": 10, "trusted_proxies": 3, "rate_limit_failure": "closed"}
    values = {"predictor": {**KEYS, "settings": limits}}
    variables = plain_env(render(values).predictor_container)

    assert {name: variables[f"PREDICTOR_{name.upper()}"] for name in limits} == {
        name: str(value) for name, value in limits.items()
    }


def test_the_notes_and_the_test_use_a_key() -> None:
    rendered = render({"predictor": KEYS, "test": {"apiKey": {"secretName": "team-test"}}})
    (pod,) = rendered.hooks

    assert '--header "Authorization: Bearer $API_KEY"' in rendered.notes
    assert "test.apiKey.secretName" not in rendered.notes
    assert pod["spec"]["containers"][0]["env"] == [
        {
            "name": "API_KEY",
            "valueFrom": {"secretKeyRef": {"name": "team-test", "key": "api-key"}},
        }
    ]


def test_the_notes_say_what_the_test_needs() -> None:
    assert "set test.apiKey.secretName" in render({"predictor": KEYS}).notes

"""Every value has an effect: a change shows in the rendering."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import helm_python
import pytest
import yaml

from hack import chart_values

from .rendering import CHART, Object, render

DOCUMENTED = chart_values.documented_values((CHART / "values.yaml").read_text("utf-8"))
STANDARD: Object = {"predictor": {"deploymentMode": "Standard", "scaling": {"minReplicas": 1}}}
HPA: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {"minReplicas": 1, "autoscalerClass": "hpa"},
    }
}
KEDA: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {
            "minReplicas": 1,
            "autoscalerClass": "keda",
            "prometheusAddress": "http://before.example.com",
        },
    }
}
CANARY: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {"minReplicas": 1},
        "canaryTrafficPercent": 10,
        "canary": {"image": {"tag": "0.0.1"}},
    }
}
SNAPSHOT: Object = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "old"}
OWN_CACHE: Object = {"predictor": {"cache": {"size": "7Gi"}}}
ROUTED: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {"minReplicas": 1},
        "route": {"enabled": True, "parentRefs": [{"name": "public"}]},
    }
}
EXPOSED: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {"minReplicas": 1},
        "ingress": {"enabled": True},
    }
}
UNROUTED: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {"minReplicas": 1},
        "route": {"parentRefs": [{"name": "public"}]},
    }
}
CACHE: Object = {"predictor": {"cache": {"claimName": "kernels"}}}
BLOCK_LIST: Object = {"predictor": {"blockList": {"configMap": "team-terms"}}}
KEYS: Object = {"predictor": {"apiKeys": {"secretName": "team-keys"}}}
OPEN: Object = {"networkPolicy": {"enabled": False}}
JOBS: Object = {"jobs": {"enabled": True}}
JOBS_KEYS: Object = {"jobs": {"enabled": True, "apiKeys": {"secretName": "any"}}}
JOBS_KEY: Object = {"jobs": {"enabled": True, "predictorApiKey": {"secretName": "any"}}}
JOBS_WEBHOOKS: Object = {"jobs": {"enabled": True, "webhooks": {"secretName": "any"}}}
JOBS_BUCKET: Object = {"jobs": {"enabled": True, "bucket": {"url": "s3://any"}}, **OPEN}
JOBS_VALKEY: Object = {"jobs": {"enabled": True, "valkey": {"enabled": True}}}
JOBS_REDIS: Object = {
    "jobs": {"enabled": True, "redis": {"secretName": "any"}},
    "networkPolicy": {"enabled": False},
}
JOBS_EXTERNAL: Object = {
    "predictor": {
        "deploymentMode": "Standard",
        "scaling": {"minReplicas": 1, "autoscalerClass": "external"},
    },
    "jobs": {"enabled": True},
}
JOBS_KEDA: Object = {**JOBS_EXTERNAL, "jobs": {"enabled": True, "keda": {"enabled": True}}}
PARENT: Object = {"name": "public"}
JOBS_UNROUTED: Object = {"jobs": {"enabled": True, "route": {"parentRefs": [PARENT]}}}
JOBS_ROUTED: Object = {
    "jobs": {"enabled": True, "route": {"enabled": True, "parentRefs": [PARENT]}}
}
JOBS_EXPOSED: Object = {"jobs": {"enabled": True, "ingress": {"enabled": True}}}
OPEN: Object = {"networkPolicy": {"enabled": False}}
REDIS: Object = {"predictor": {"rateLimitStorage": {"secretName": "any"}}, **OPEN}
SCRAPED: Object = {"monitoring": {"podMonitor": {"enabled": True}}}
RULES: Object = {"monitoring": {"rules": {"enabled": True}}}
NODE: Object = {"kubernetes.io/os": "linux"}
LABEL: Object = {"team": "pictures"}
PEER: Object = {"podSelector": {"matchLabels": LABEL}}
VARIABLE: Object = {"name": "SHOWN", "value": "yes"}
TOLERATION: Object = {"key": "shown", "operator": "Exists"}
RULE: Object = {"ports": [{"port": 15012}]}
AFFINITY: Object = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
SPREAD: Object = {"maxSkew": 3, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"}
STRATEGY: Object = {"type": "Recreate"}
METRIC: Object = {"type": "Resource", "resource": {"name": "cpu"}}
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
BUNDLE: Object = {"caBundle": {"configMap": "any"}}
VOLUME: Object = {"name": "own", "configMap": {"name": "shown"}}
# At another path, any volume of the pod can be mounted again.
MOUNT: Object = {"name": "scratch", "mountPath": "/shown"}
CLAIM: Object = {"name": "gpu", "resourceClaimTemplateName": "shown"}
QUEUE: Object = {"kueue.x-k8s.io/queue-name": "pictures"}
TWO: list[Object] = [{"name": "one", "source": "hf://a/b"}, {"name": "two", "source": "hf://a/b"}]


class Switch(NamedTuple):
    """Another value, the text that then appears, and the values that it depends on.

    An empty text means that text must disappear instead.
    """

    value: Any
    shown: str
    given: Object | None = None


SWITCHES = {
    "nameOverride": Switch("other", "app.kubernetes.io/name: other"),
    "fullnameOverride": Switch("other", "name: other"),
    "managedBy": Switch("argo", "managed-by: argo"),
    "labels": Switch(LABEL, "team: pictures"),
    "imagePullSecrets": Switch([{"name": "my-registry"}], "- name: my-registry"),
    "model.name": Switch("other", "value: /mnt/models/other"),
    "model.source": Switch("hf://a/b", "value: hf://a/b"),
    "model.variant": Switch("bf16", "value: bf16"),
    "models": Switch(TWO, "--model_name=two"),
    "sharedPredictor": Switch(True, "path: /v2/health/ready"),
    "storage.existingClaim": Switch("team-models", "claimName: team-models"),
    "storage.size": Switch("99Gi", "storage: 99Gi"),
    "storage.accessModes": Switch(["ReadWriteOnce"], "- ReadWriteOnce"),
    "storage.storageClassName": Switch("files", "storageClassName: files"),
    "storage.volumeName": Switch("pv-7", "volumeName: pv-7"),
    "storage.dataSourceRef": Switch(SNAPSHOT, "kind: VolumeSnapshot"),
    "storage.mount": Switch("volume", "readOnly: true"),
    "storage.resourcePolicy": Switch("delete", ""),
    "huggingface.existingSecret": Switch("team-token", "name: team-token"),
    "huggingface.tokenKey": Switch("hf", "key: hf"),
    "huggingface.endpoint": Switch("https://hub.example.com", "value: https://hub.example.com"),
    "s3.existingSecret": Switch("team-bucket", "name: team-bucket"),
    "s3.endpoint": Switch("https://s3.example.com", "value: https://s3.example.com"),
    "s3.region": Switch("eu-west-1", "value: eu-west-1"),
    "caBundle.configMap": Switch("team-ca", "name: team-ca"),
    "caBundle.secretName": Switch("team-ca", "secretName: team-ca"),
    "caBundle.key": Switch("bundle.pem", "key: bundle.pem", BUNDLE),
    "security.runAsUser": Switch(1234, "runAsUser: 1234"),
    "security.runAsGroup": Switch(1234, "runAsGroup: 1234"),
    "security.fsGroup": Switch(1234, "fsGroup: 1234"),
    "downloader.enabled": Switch(False, ""),
    "downloader.image.repository": Switch("host/other", "image: host/other:0.1.0"),
    "downloader.image.tag": Switch("9.9.9", "stable-diffusion-downloader:9.9.9"),
    "downloader.image.digest": Switch(DIGEST, f"stable-diffusion-downloader@{DIGEST}"),
    "downloader.image.pullPolicy": Switch("Always", "imagePullPolicy: Always"),
    "downloader.jobName": Switch("fetch", "name: fetch"),
    "downloader.maxWorkers": Switch(3, "value: '3'"),
    "downloader.backoffLimit": Switch(11, "backoffLimit: 11"),
    "downloader.activeDeadlineSeconds": Switch(77, "activeDeadlineSeconds: 77"),
    "downloader.ttlSecondsAfterFinished": Switch(0, "ttlSecondsAfterFinished: 0"),
    "downloader.scratchSize": Switch("7Gi", "sizeLimit: 7Gi"),
    "downloader.labels": Switch(LABEL, "team: pictures"),
    "downloader.jobLabels": Switch(QUEUE, "kueue.x-k8s.io/queue-name: pictures"),
    "downloader.annotations": Switch(LABEL, "team: pictures"),
    "downloader.env": Switch([VARIABLE], "name: SHOWN"),
    "downloader.args": Switch(["--log-format=json"], "- --log-format=json"),
    "downloader.volumes": Switch([VOLUME], "name: shown"),
    "downloader.volumeMounts": Switch([MOUNT], "mountPath: /shown"),
    "downloader.serviceAccountName": Switch("team", "serviceAccountName: team"),
    "downloader.serviceAccountAnnotations": Switch(LABEL, "team: pictures"),
    "downloader.resources": Switch({"limits": {"memory": "3Gi"}}, "memory: 3Gi"),
    "downloader.nodeSelector": Switch(NODE, "kubernetes.io/os: linux"),
    "downloader.tolerations": Switch([TOLERATION], "key: shown"),
    "downloader.affinity": Switch(AFFINITY, "podAntiAffinity"),
    "downloader.priorityClassName": Switch("low", "priorityClassName: low"),
    "predictor.image.repository": Switch("host/other", "image: host/other:0.1.0"),
    "predictor.image.tag": Switch("9.9.9", "stable-diffusion-predictor:9.9.9"),
    "predictor.image.digest": Switch(DIGEST, f"stable-diffusion-predictor@{DIGEST}"),
    "predictor.image.pullPolicy": Switch("Always", "imagePullPolicy: Always"),
    "predictor.deploymentMode": Switch("Standard", "deploymentMode: Standard", STANDARD),
    "predictor.canaryTrafficPercent": Switch(10, "canaryTrafficPercent: 10"),
    "predictor.canary": Switch(
        {"image": {"tag": "9.9.9"}}, "stable-diffusion-predictor:9.9.9", CANARY
    ),
    "predictor.labels": Switch(LABEL, "team: pictures"),
    "predictor.annotations": Switch(LABEL, "team: pictures"),
    "predictor.env": Switch([VARIABLE], "name: SHOWN"),
    "predictor.args": Switch(["--enable_docs_url=true"], "- --enable_docs_url=true"),
    "predictor.volumes": Switch([VOLUME], "name: shown", STANDARD),
    "predictor.volumeMounts": Switch([MOUNT], "mountPath: /shown"),
    "predictor.serviceAccountName": Switch("team", "serviceAccountName: team"),
    "predictor.concurrency": Switch(5, "containerConcurrency: 10"),
    "predictor.settings": Switch({"max_side": 640}, "PREDICTOR_MAX_SIDE"),
    "predictor.blockList.configMap": Switch("team-terms", "name: team-terms"),
    "predictor.blockList.key": Switch("terms", "value: /etc/predictor/terms", BLOCK_LIST),
    "predictor.apiKeys.secretName": Switch("team-keys", "secretName: team-keys"),
    "predictor.apiKeys.key": Switch("hashes", "key: hashes", KEYS),
    "predictor.rateLimitStorage.secretName": Switch("team-redis", "name: team-redis", OPEN),
    "predictor.rateLimitStorage.key": Switch("address", "key: address", REDIS),
    "predictor.cache.claimName": Switch("kernels", "claimName: kernels"),
    "predictor.cache.size": Switch("7Gi", "storage: 7Gi"),
    "predictor.cache.accessModes": Switch(["ReadWriteOnce"], "- ReadWriteOnce", OWN_CACHE),
    "predictor.cache.storageClassName": Switch("fast", "storageClassName: fast", OWN_CACHE),
    "predictor.cache.subPath": Switch("team", "subPath: team", CACHE),
    "predictor.grpc.enabled": Switch(True, "containerPort: 8081", STANDARD),
    "predictor.route.enabled": Switch(True, "kind: HTTPRoute", UNROUTED),
    "predictor.route.parentRefs": Switch([{"name": "other"}], "name: other", ROUTED),
    "predictor.route.hosts": Switch(["sd.example.com"], "- sd.example.com", ROUTED),
    "predictor.route.timeoutSeconds": Switch(77, "request: 77s", ROUTED),
    "predictor.route.annotations": Switch(LABEL, "team: pictures", ROUTED),
    "predictor.ingress.enabled": Switch(True, "kind: Ingress", STANDARD),
    "predictor.ingress.className": Switch("nginx", "ingressClassName: nginx", EXPOSED),
    "predictor.ingress.hosts": Switch(["sd.example.com"], "host: sd.example.com", EXPOSED),
    "predictor.ingress.tlsSecretName": Switch("sd-tls", "secretName: sd-tls", EXPOSED),
    "predictor.ingress.annotations": Switch(LABEL, "team: pictures", EXPOSED),
    "predictor.scaling.minReplicas": Switch(1, "minReplicas: 1"),
    "predictor.scaling.maxReplicas": Switch(9, "maxReplicas: 9"),
    "predictor.scaling.autoscalerClass": Switch("external", "autoscalerClass: external", STANDARD),
    "predictor.scaling.scaleMetric": Switch("memory", "scaleMetric: memory", HPA),
    "predictor.scaling.scaleTarget": Switch(66, "scaleTarget: 66", HPA),
    "predictor.scaling.prometheusAddress": Switch(
        "http://p.example.com", "serverAddress: http://p.example.com", KEDA
    ),
    "predictor.scaling.metrics": Switch([METRIC], "name: cpu", KEDA),
    "predictor.scaling.podRetentionPeriod": Switch("33m", "retention-period: 33m"),
    "predictor.timeoutSeconds": Switch(444, "timeout: 444"),
    "predictor.progressDeadline": Switch("44m", "progress-deadline: 44m"),
    "predictor.startupSeconds": Switch(55, "failureThreshold: 55"),
    "predictor.deploymentStrategy": Switch(STRATEGY, "type: Recreate", STANDARD),
    "predictor.maxUnavailable": Switch(
        2, "maxUnavailable: 2", {"predictor": {"scaling": {"maxReplicas": 3}}}
    ),
    "predictor.scratchSize": Switch("7Gi", "sizeLimit: 7Gi"),
    "predictor.resources": Switch({"limits": {"memory": "17Gi"}}, "memory: 17Gi"),
    "predictor.resourceClaims": Switch([CLAIM], "resourceClaimTemplateName: shown", STANDARD),
    "predictor.queueProxyResources": Switch({"limits": {"memory": "1Gi"}}, "limit: 1Gi"),
    "predictor.nodeSelector": Switch(NODE, "kubernetes.io/os: linux"),
    "predictor.tolerations": Switch([TOLERATION], "key: shown"),
    "predictor.affinity": Switch(AFFINITY, "podAntiAffinity"),
    "predictor.topologySpreadConstraints": Switch([SPREAD], "topologyKey: rack"),
    "predictor.runtimeClassName": Switch("nvidia", "runtimeClassName: nvidia"),
    "predictor.priorityClassName": Switch("high", "priorityClassName: high"),
    "jobs.enabled": Switch(True, "name: stable-diffusion-jobs"),
    "jobs.image.repository": Switch("host/other", "image: host/other:0.1.0", JOBS),
    "jobs.image.tag": Switch("9.9.9", "stable-diffusion-jobs:9.9.9", JOBS),
    "jobs.image.digest": Switch(DIGEST, f"stable-diffusion-jobs@{DIGEST}", JOBS),
    "jobs.image.pullPolicy": Switch("Always", "imagePullPolicy: Always", JOBS),
    "jobs.replicas": Switch(3, "replicas: 3", JOBS_VALKEY),
    "jobs.settings": Switch({"max_tries": 5}, "JOBS_MAX_TRIES", JOBS),
    "jobs.redis.secretName": Switch("team-redis", "name: team-redis", {**JOBS, **OPEN}),
    "jobs.redis.key": Switch("address", "key: address", JOBS_REDIS),
    "jobs.valkey.enabled": Switch(True, "kind: StatefulSet", JOBS),
    "jobs.valkey.image.repository": Switch("host/redis", "image: host/redis:8.1", JOBS_VALKEY),
    "jobs.valkey.image.tag": Switch("9.9.9", "valkey/valkey:9.9.9", JOBS_VALKEY),
    "jobs.valkey.image.digest": Switch(DIGEST, f"valkey/valkey@{DIGEST}", JOBS_VALKEY),
    "jobs.valkey.image.pullPolicy": Switch("Always", "imagePullPolicy: Always", JOBS_VALKEY),
    "jobs.valkey.resources": Switch({"limits": {"memory": "9Gi"}}, "memory: 9Gi", JOBS_VALKEY),
    "jobs.bucket.url": Switch("s3://team/jobs", "value: s3://team/jobs", JOBS),
    "jobs.bucket.endpoint": Switch("https://s3.any", "value: https://s3.any", JOBS_BUCKET),
    "jobs.bucket.region": Switch("eu-west-1", "value: eu-west-1", JOBS_BUCKET),
    "jobs.bucket.existingSecret": Switch("team-bucket", "name: team-bucket", JOBS_BUCKET),
    "jobs.storage.size": Switch("7Gi", "storage: 7Gi", JOBS),
    "jobs.storage.storageClassName": Switch("fast", "storageClassName: fast", JOBS_VALKEY),
    "jobs.apiKeys.secretName": Switch("team-keys", "secretName: team-keys", JOBS),
    "jobs.apiKeys.key": Switch("hashes", "key: hashes", JOBS_KEYS),
    "jobs.predictorApiKey.secretName": Switch("worker", "name: worker", JOBS),
    "jobs.predictorApiKey.key": Switch("plain", "key: plain", JOBS_KEY),
    "jobs.webhooks.secretName": Switch("signing", "name: signing", JOBS),
    "jobs.webhooks.key": Switch("whsec", "key: whsec", JOBS_WEBHOOKS),
    "jobs.keda.enabled": Switch(True, "kind: ScaledObject", JOBS_EXTERNAL),
    "jobs.keda.jobsPerPod": Switch(7, "target: '7'", JOBS_KEDA),
    "jobs.route.enabled": Switch(True, "kind: HTTPRoute", JOBS_UNROUTED),
    "jobs.route.parentRefs": Switch([{"name": "other"}], "name: other", JOBS_ROUTED),
    "jobs.route.hosts": Switch(["jobs.example.com"], "- jobs.example.com", JOBS_ROUTED),
    "jobs.route.timeoutSeconds": Switch(77, "request: 77s", JOBS_ROUTED),
    "jobs.route.annotations": Switch(LABEL, "team: pictures", JOBS_ROUTED),
    "jobs.ingress.enabled": Switch(True, "kind: Ingress", JOBS),
    "jobs.ingress.className": Switch("nginx", "ingressClassName: nginx", JOBS_EXPOSED),
    "jobs.ingress.hosts": Switch(["jobs.example.com"], "host: jobs.example.com", JOBS_EXPOSED),
    "jobs.ingress.tlsSecretName": Switch("jobs-tls", "secretName: jobs-tls", JOBS_EXPOSED),
    "jobs.ingress.annotations": Switch(LABEL, "team: pictures", JOBS_EXPOSED),
    "jobs.labels": Switch(LABEL, "team: pictures", JOBS),
    "jobs.annotations": Switch(LABEL, "team: pictures", JOBS),
    "jobs.serviceAccountName": Switch("team", "serviceAccountName: team", JOBS),
    "jobs.serviceAccountAnnotations": Switch(LABEL, "team: pictures", JOBS),
    "jobs.resources": Switch({"limits": {"memory": "3Gi"}}, "memory: 3Gi", JOBS),
    "jobs.nodeSelector": Switch(NODE, "kubernetes.io/os: linux", JOBS),
    "jobs.tolerations": Switch([TOLERATION], "key: shown", JOBS),
    "jobs.affinity": Switch(AFFINITY, "podAntiAffinity", JOBS),
    "jobs.priorityClassName": Switch("high", "priorityClassName: high", JOBS),
    "networkPolicy.enabled": Switch(False, ""),
    "networkPolicy.ingressFrom": Switch([PEER], "team: pictures"),
    "networkPolicy.monitoringFrom": Switch([PEER], "team: pictures", SCRAPED),
    "networkPolicy.predictorEgress": Switch([RULE], "port: 15012"),
    "networkPolicy.jobsFrom": Switch([PEER], "team: pictures", JOBS),
    "networkPolicy.jobsEgress": Switch([RULE], "port: 15012", JOBS),
    "networkPolicy.downloaderEgress": Switch([RULE], "port: 15012"),
    "monitoring.podMonitor.enabled": Switch(True, "kind: PodMonitor"),
    "monitoring.podMonitor.labels": Switch(LABEL, "team: pictures", SCRAPED),
    "monitoring.podMonitor.interval": Switch("7s", "interval: 7s", SCRAPED),
    "monitoring.rules.enabled": Switch(True, "kind: PrometheusRule"),
    "monitoring.rules.labels": Switch(LABEL, "team: pictures", RULES),
    "monitoring.rules.errorRatio": Switch(0.33, "> 0.33", RULES),
    "monitoring.rules.latencySeconds": Switch(33, "> 33", RULES),
    "monitoring.rules.jobSeconds": Switch(33, "> 33", {**JOBS, **RULES}),
    "monitoring.rules.runbookUrl": Switch(
        "https://e.example/o.md", "https://e.example/o.md#", RULES
    ),
    "monitoring.dashboard.enabled": Switch(True, "Stable Diffusion on KServe"),
    "monitoring.dashboard.labels": Switch(
        LABEL, "team: pictures", {"monitoring": {"dashboard": {"enabled": True}}}
    ),
    "test.prompt": Switch("a lighthouse", "- a lighthouse"),
    "test.timeoutSeconds": Switch(33, "- '33'"),
    "test.apiKey.secretName": Switch("team-test", "name: team-test"),
    "test.apiKey.key": Switch("plain", "key: plain", {"test": {"apiKey": {"secretName": "any"}}}),
}


def with_value(given: Object, key: str, value: Any) -> Object:
    """A copy of the values with one more value set."""
    values = copy.deepcopy(given)
    *path, last = key.split(".")
    place = values
    for part in path:
        place = place.setdefault(part, {})
    place[last] = value
    return values


def text_of(values: Object) -> str:
    rendered = render(values)
    return yaml.dump_all(rendered.objects + rendered.hooks, width=1000)


def test_every_value_has_a_switch() -> None:
    assert [value.key for value in DOCUMENTED] == list(SWITCHES)


@pytest.mark.parametrize("key", SWITCHES)
def test_a_changed_value_shows_in_the_rendering(key: str) -> None:
    switch = SWITCHES[key]
    given = switch.given or {}
    before, after = text_of(given), text_of(with_value(given, key, switch.value))
    if key == "predictor.deploymentMode":
        before = text_of({})
    assert switch.shown in after
    assert before != after
    if switch.shown:
        assert switch.shown not in before
    else:
        assert len(after) < len(before)


def test_text_that_yaml_reads_as_a_number_stays_text() -> None:
    """`0x7b3` is a valid name of a Secret, and as a number it would be 1971."""
    numbers = []
    for key, switch in SWITCHES.items():
        try:
            text = text_of(with_value(switch.given or {}, key, "0x7b3"))
        except helm_python.HelmValuesError:
            continue
        if "1971" in text:
            numbers.append(key)
        assert "1971" in text or "0x7b3" in text, key
    assert numbers == []

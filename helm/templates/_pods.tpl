{{/* A setting as the text of a variable. Helm reads every number as a float and would write 1572864 as 1.572864e+06. */}}
{{- define "stable-diffusion.envValue" -}}
{{- if and (kindIs "float64" .) (eq (toString .) (toString (floor .))) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* Where torch, Triton, CUDA and transformers write: below /tmp, as the root file system is read-only and the user may have no home. */}}
{{- define "stable-diffusion.cacheEnv" -}}
- name: HF_HOME
  value: /tmp/huggingface
- name: XDG_CACHE_HOME
  value: /tmp/cache
- name: TORCHINDUCTOR_CACHE_DIR
  value: /tmp/torchinductor
- name: TRITON_CACHE_DIR
  value: /tmp/triton
- name: CUDA_CACHE_PATH
  value: /tmp/cuda
{{- end -}}

{{/*
How a pod stops. With Knative, queue-proxy first waits for 30 seconds without an arrival, and only then
does the predictor get SIGTERM (knative/serving, pkg/queue/sharedmain). The predictor serves for
drain_seconds more, lets what is in flight run for shutdown_seconds, and unloads within 15 seconds.
The kubelet kills what is left: with Knative after timeoutSeconds, in Standard mode after the grace period.
*/}}
{{- define "stable-diffusion.secondsAroundShutdown" -}}
{{- $queueProxy := ternary 30 0 (eq .Values.predictor.deploymentMode "Knative") -}}
{{- addf $queueProxy .Values.predictor.settings.drain_seconds 15 | ceil | int64 -}}
{{- end -}}

{{/* The setting of the values, or the longest that lets requests in flight end: what Knative's time leaves, or a whole request. */}}
{{- define "stable-diffusion.shutdownSeconds" -}}
{{- if hasKey .Values.predictor.settings "shutdown_seconds" -}}
{{- int64 .Values.predictor.settings.shutdown_seconds -}}
{{- else if eq .Values.predictor.deploymentMode "Knative" -}}
{{- sub .Values.predictor.timeoutSeconds (include "stable-diffusion.secondsAroundShutdown" .) -}}
{{- else -}}
{{- int64 .Values.predictor.timeoutSeconds -}}
{{- end -}}
{{- end -}}

{{- define "stable-diffusion.gracePeriodSeconds" -}}
{{- add (include "stable-diffusion.secondsAroundShutdown" .) (include "stable-diffusion.shutdownSeconds" .) -}}
{{- end -}}

{{/* The probes, each number with its reason. */}}
{{- define "stable-diffusion.probes" -}}
{{- with .Values.predictor.startupSeconds -}}
# The port opens once KServe is imported: seconds on a warm node, minutes where the image's
# pages come from a cold disk. Until then the other two probes are not asked.
startupProbe:
  httpGet:
    path: /
    port: 8080
  periodSeconds: 5
  timeoutSeconds: 3
  successThreshold: 1
  failureThreshold: {{ divf . 5 | ceil | int64 }}
{{ end -}}
# Weights load in a thread, so the port answers at any time. A minute without an answer
# means a hung process: less would restart a pod whose CPUs are merely busy.
livenessProbe:
  httpGet:
    path: /
    port: 8080
  periodSeconds: 10
  timeoutSeconds: 5
  successThreshold: 1
  failureThreshold: 6
# Ready means loaded and warm. It is asked often, so that a pod is used as soon as it can
# be, and leaves its endpoints 15 seconds after a hang.
readinessProbe:
  httpGet:
    path: {{ with .model.name }}/v2/models/{{ . }}/ready{{ else }}/v2/health/ready{{ end }}
    port: 8080
  periodSeconds: 5
  timeoutSeconds: 3
  successThreshold: 1
  failureThreshold: 3
{{- end -}}

{{/* The spread constraints; one without a selector counts the pods of its InferenceService. */}}
{{- define "stable-diffusion.topologySpread" -}}
{{- $own := dict "matchLabels" (dict "serving.kserve.io/inferenceservice" .model.service) -}}
{{- $constraints := list -}}
{{- range .Values.predictor.topologySpreadConstraints -}}
{{- $constraints = append $constraints (set (deepCopy .) "labelSelector" (default $own .labelSelector)) -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}

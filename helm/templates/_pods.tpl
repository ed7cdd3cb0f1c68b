{{/* A setting as the value of a variable. Helm parses every number as a float and would print 1572864 as 1.572864e+06. */}}
{{- define "stable-diffusion.envValue" -}}
{{- if and (kindIs "float64" .) (eq (toString .) (toString (floor .))) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* The caches of torch, Triton, CUDA and transformers are in /tmp, because the root file system is read-only and the user may not have a home directory. */}}
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
The time around shutdown_seconds when a pod stops. With Knative, queue-proxy first waits for 30 seconds
without a new request; only then does the predictor get SIGTERM (knative/serving, pkg/queue/sharedmain).
The predictor serves for another drain_seconds, gives requests in flight shutdown_seconds, and unloads
within 15 seconds. The kubelet then kills it: with Knative after timeoutSeconds, in Standard mode after
the grace period.
*/}}
{{- define "stable-diffusion.secondsAroundShutdown" -}}
{{- $queueProxy := ternary 30 0 (eq .Values.predictor.deploymentMode "Knative") -}}
{{- $drain := .Values.predictor.settings.drain_seconds -}}
{{- /* Without the setting, the predictor uses its own default. */ -}}
{{- addf $queueProxy (kindIs "invalid" $drain | ternary 5 $drain) 15 | ceil | int64 -}}
{{- end -}}

{{/* The setting, or else the longest possible time: with Knative what remains of timeoutSeconds, in Standard mode all of it. */}}
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

{{/* The probes, each with the reason for its numbers. */}}
{{- define "stable-diffusion.probes" -}}
{{- with .Values.predictor.startupSeconds -}}
# The port opens once KServe is imported. That takes seconds on a warm node, and minutes if
# the image is read from a cold disk. Until then the kubelet runs no other probe, so a longer
# period would delay the pod.
startupProbe:
  httpGet:
    path: /
    port: 8080
  periodSeconds: 1
  timeoutSeconds: 3
  successThreshold: 1
  failureThreshold: {{ ceil . | int64 }}
{{ end -}}
# Weights load in a thread, so the port always responds, with 503 only if an engine is dead. A
# minute without a response means that the process hangs. A shorter time would restart pods whose
# CPUs are only busy.
livenessProbe:
  httpGet:
    path: /
    port: 8080
  periodSeconds: 10
  timeoutSeconds: 5
  successThreshold: 1
  failureThreshold: 6
# Ready means loaded and warm. The period is short, so that a pod gets requests as soon as
# possible. It gets none 5 seconds after it fails, and 15 seconds after it hangs.
readinessProbe:
  httpGet:
    path: {{ with .model.name }}/v2/models/{{ . }}/ready{{ else }}/v2/health/ready{{ end }}
    port: 8080
  periodSeconds: 1
  timeoutSeconds: 3
  successThreshold: 1
  failureThreshold: 5
{{- end -}}

{{/* The topology spread constraints. Without a selector, one applies to the pods of its InferenceService. */}}
{{- define "stable-diffusion.topologySpread" -}}
{{- $own := dict "matchLabels" (dict "serving.kserve.io/inferenceservice" .model.service) -}}
{{- $constraints := list -}}
{{- range .Values.predictor.topologySpreadConstraints -}}
{{- $constraints = append $constraints (set (deepCopy .) "labelSelector" (default $own .labelSelector)) -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}

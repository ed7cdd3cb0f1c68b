{{/* Label matchers of a model's scraped metrics, of its pods, and of its GPUs under both names that exporters give them. */}}
{{- define "stable-diffusion.metricLabels" -}}
namespace="{{ .Release.Namespace }}",inferenceservice="{{ .model.service }}"
{{- end -}}
{{- define "stable-diffusion.podLabels" -}}
{{ .prefix }}namespace="{{ .Release.Namespace }}",{{ .prefix }}pod=~"{{ .model.service }}-predictor-.*"
{{- end -}}

{{/* The share of requests that the service failed. What the caller did is none: 400, 429 (a full queue) and 499 (gone). */}}
{{- define "stable-diffusion.errorRatio" -}}
{{- $labels := include "stable-diffusion.metricLabels" . -}}
sum(rate(diffusion_requests_total{ {{- $labels }},code=~"5.."}[5m]))
/ sum(rate(diffusion_requests_total{ {{- $labels }}}[5m]))
{{- end -}}

{{/* The seconds that 19 of 20 requests stay below, waiting included. */}}
{{- define "stable-diffusion.latency" -}}
histogram_quantile(0.95, sum by (le) (rate(diffusion_request_seconds_bucket{ {{- include "stable-diffusion.metricLabels" . }}}[10m])))
{{- end -}}

{{/* The pictures in each pod, smoothed, as one moment says little. Waiting ones alone would not do: Knative lets no more than N wait. */}}
{{- define "stable-diffusion.picturesInPod" -}}
avg(sum by (pod) (avg_over_time(diffusion_pictures{ {{- include "stable-diffusion.metricLabels" . }}}[5m])))
{{- end -}}

{{/* The passes that did not fit into the GPU's memory; known without an exporter of the GPU. */}}
{{- define "stable-diffusion.outOfMemory" -}}
sum(increase(diffusion_out_of_memory_total{ {{- include "stable-diffusion.metricLabels" . }}}[30m]))
{{- end -}}

{{- define "stable-diffusion.gpuMemory" -}}
{{- $labels := include "stable-diffusion.podLabels" . -}}
DCGM_FI_DEV_FB_USED{ {{- $labels }}} / (DCGM_FI_DEV_FB_USED{ {{- $labels }}} + DCGM_FI_DEV_FB_FREE{ {{- $labels }}})
{{- end -}}

{{/* One alert. Call it with a dict of `root`, `alert`, `expr`, `for`, `severity`, `summary`, and `service` where it concerns one. */}}
{{- define "stable-diffusion.alert" -}}
- alert: {{ .alert }}
  expr: |-
    {{- .expr | nindent 4 }}
  for: {{ .for }}
  labels:
    severity: {{ .severity }}
    {{- with .service }}
    inferenceservice: {{ . }}
    {{- end }}
  annotations:
    summary: {{ quote .summary }}
    {{- $anchor := printf "#%s" (lower .alert) }}
    {{- with .root.Values.monitoring.rules.runbookUrl }}
    runbook_url: {{ . }}{{ $anchor }}
    {{- else }}
    runbook: docs/operations.md{{ $anchor }}
    {{- end }}
{{- end -}}

{{/* The alerts of one model. */}}
{{- define "stable-diffusion.modelAlerts" -}}
{{- $service := .model.service -}}
{{- $rules := .Values.monitoring.rules -}}
{{- $base := dict "root" . "service" $service -}}
{{- $pods := include "stable-diffusion.podLabels" (merge (dict "prefix" "") .) -}}
{{- $down := printf "sum(kube_pod_status_ready{%s,condition=\"true\"}) == 0" $pods -}}
{{- if gt (int64 .Values.predictor.scaling.minReplicas) 0 -}}
{{- $down = printf "%s\nor absent(kube_pod_status_ready{%s,condition=\"true\"})" $down $pods -}}
{{- end -}}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionDown" "severity" "critical" "for" "15m"
  "expr" $down
  "summary" (printf "%s has pods and none of them is ready." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionRestarts" "severity" "warning" "for" "15m"
  "expr" (printf "increase(kube_pod_container_status_restarts_total{%s,container=\"kserve-container\"}[30m]) > 2" $pods)
  "summary" (printf "%s restarts again and again." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionErrors" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %v" (include "stable-diffusion.errorRatio" .) $rules.errorRatio)
  "summary" (printf "%s: {{ $value | humanizePercentage }} of the requests fail." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionSlow" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %v" (include "stable-diffusion.latency" .) $rules.latencySeconds)
  "summary" (printf "%s: one request in twenty takes longer than {{ $value | humanizeDuration }}." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionQueue" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %d" (include "stable-diffusion.picturesInPod" .) (int64 .Values.predictor.concurrency))
  "summary" (printf "%s: {{ $value | humanize }} pictures in each pod, more than it should work on at once." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionOutOfMemory" "severity" "warning" "for" "1m"
  "expr" (printf "%s > 0" (include "stable-diffusion.outOfMemory" .))
  "summary" (printf "%s: forward passes did not fit into the GPU's memory; batches are smaller since." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionGpuMemory" "severity" "warning" "for" "10m"
  "expr" (printf "(\n%s\nor\n%s\n) > 0.95"
    (include "stable-diffusion.gpuMemory" (merge (dict "prefix" "") .))
    (include "stable-diffusion.gpuMemory" (merge (dict "prefix" "exported_") .)))
  "summary" (printf "%s: {{ $value | humanizePercentage }} of the GPU's memory is taken." $service)) $base) }}
{{- end -}}

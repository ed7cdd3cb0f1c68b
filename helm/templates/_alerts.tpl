{{/* Label matchers for a model's own metrics. */}}
{{- define "stable-diffusion.metricLabels" -}}
namespace="{{ .Release.Namespace }}",inferenceservice="{{ .model.service }}"
{{- end -}}

{{/* Label matchers for a model's pods. Some exporters prefix these labels with `exported_`: set `prefix`. */}}
{{- define "stable-diffusion.podLabels" -}}
{{ .prefix }}namespace="{{ .Release.Namespace }}",{{ .prefix }}pod=~"{{ .model.service }}-predictor-.*"
{{- end -}}

{{/* The share of failed requests. Errors of callers do not count: 400, 429 (a full queue) and 499 (disconnected). */}}
{{- define "stable-diffusion.errorRatio" -}}
{{- $labels := include "stable-diffusion.metricLabels" . -}}
sum(rate(diffusion_requests_total{ {{- $labels }},code=~"5.."}[5m]))
/ sum(rate(diffusion_requests_total{ {{- $labels }}}[5m]))
{{- end -}}

{{/* The 95th percentile of the request duration in seconds, including the wait. */}}
{{- define "stable-diffusion.latency" -}}
histogram_quantile(0.95, sum by (le) (rate(diffusion_request_seconds_bucket{ {{- include "stable-diffusion.metricLabels" . }}}[10m])))
{{- end -}}

{{/* The pictures in each pod, averaged over time. Waiting pictures alone are not enough: with Knative at most N wait. */}}
{{- define "stable-diffusion.picturesInPod" -}}
avg(sum by (pod) (avg_over_time(diffusion_pictures{ {{- include "stable-diffusion.metricLabels" . }}}[5m])))
{{- end -}}

{{/* The passes that did not fit into GPU memory. It needs no GPU exporter. */}}
{{- define "stable-diffusion.outOfMemory" -}}
sum(increase(diffusion_out_of_memory_total{ {{- include "stable-diffusion.metricLabels" . }}}[30m]))
{{- end -}}

{{- define "stable-diffusion.gpuMemory" -}}
{{- $labels := include "stable-diffusion.podLabels" . -}}
DCGM_FI_DEV_FB_USED{ {{- $labels }}} / (DCGM_FI_DEV_FB_USED{ {{- $labels }}} + DCGM_FI_DEV_FB_FREE{ {{- $labels }}})
{{- end -}}

{{/* One alert. Call it with a dict of `root`, `alert`, `expr`, `for`, `severity`, `summary`, and optionally `service`. */}}
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
  "summary" (printf "%s has pods, but none of them is ready." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionRestarts" "severity" "warning" "for" "15m"
  "expr" (printf "increase(kube_pod_container_status_restarts_total{%s,container=\"kserve-container\"}[30m]) > 2" $pods)
  "summary" (printf "%s restarts repeatedly." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionErrors" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %v" (include "stable-diffusion.errorRatio" .) $rules.errorRatio)
  "summary" (printf "%s: {{ $value | humanizePercentage }} of the requests fail." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionSlow" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %v" (include "stable-diffusion.latency" .) $rules.latencySeconds)
  "summary" (printf "%s: one request in twenty takes longer than {{ $value | humanizeDuration }}." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionQueue" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %d" (include "stable-diffusion.picturesInPod" .) (int64 .Values.predictor.concurrency))
  "summary" (printf "%s: {{ $value | humanize }} pictures per pod, more than a pod works on at the same time." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionOutOfMemory" "severity" "warning" "for" "1m"
  "expr" (printf "%s > 0" (include "stable-diffusion.outOfMemory" .))
  "summary" (printf "%s: forward passes did not fit into GPU memory, so batches are smaller now." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionGpuMemory" "severity" "warning" "for" "10m"
  "expr" (printf "(\n%s\nor\n%s\n) > 0.95"
    (include "stable-diffusion.gpuMemory" (merge (dict "prefix" "") .))
    (include "stable-diffusion.gpuMemory" (merge (dict "prefix" "exported_") .)))
  "summary" (printf "%s: {{ $value | humanizePercentage }} of the GPU memory is in use." $service)) $base) }}
{{- end -}}

{{/* The alerts of the jobs program. The storage has the numbers, and each pod reports them, so `max` and not `sum`. */}}
{{- define "stable-diffusion.jobsAlerts" -}}
{{- $name := include "stable-diffusion.jobsName" . -}}
{{- $rules := .Values.monitoring.rules -}}
{{- $labels := printf "namespace=\"%s\",pod=~\"%s-.*\"" .Release.Namespace $name -}}
{{- $ended := printf "increase(diffusion_jobs_ended_total{%s%%s}[30m])" $labels -}}
{{ include "stable-diffusion.alert" (dict "root" . "alert" "StableDiffusionJobsDown" "severity" "critical" "for" "15m"
  "expr" (printf "kube_deployment_status_replicas_available{namespace=\"%s\",deployment=\"%s\"} == 0" .Release.Namespace $name)
  "summary" (printf "No pod of %s is ready, so no job is accepted or run." $name)) }}
{{ include "stable-diffusion.alert" (dict "root" . "alert" "StableDiffusionJobsOld" "severity" "warning" "for" "10m"
  "expr" (printf "max by (model_name) (diffusion_jobs_oldest_seconds{%s})\n> %v" $labels $rules.jobSeconds)
  "summary" (printf "%s: the oldest job of {{ $labels.model_name }} has waited for {{ $value | humanizeDuration }}." $name)) }}
{{ include "stable-diffusion.alert" (dict "root" . "alert" "StableDiffusionJobsFailed" "severity" "warning" "for" "10m"
  "expr" (printf "sum(max by (model_name, status) (%s))\n/ sum(max by (model_name, status) (%s))\n> %v" (printf $ended ",status=\"failed\"") (printf $ended "") $rules.errorRatio)
  "summary" (printf "%s: {{ $value | humanizePercentage }} of the jobs fail." $name)) }}
{{- end -}}

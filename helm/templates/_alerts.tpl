{{/* Label matchers of a model's scraped metrics, of its pods, and of its GPUs under both names that exporters give them. */}}
{{- define "stable-diffusion.metricLabels" -}}
namespace="{{ .Release.Namespace }}",inferenceservice="{{ .model.service }}"
{{- end -}}
{{- define "stable-diffusion.podLabels" -}}
{{ .prefix }}namespace="{{ .Release.Namespace }}",{{ .prefix }}pod=~"{{ .model.service }}-predictor-.*"
{{- end -}}

{{/* The share of requests that failed. KServe counts a request's end as prediction, and as postprocessing only where it succeeded. */}}
{{- define "stable-diffusion.errorRatio" -}}
{{- $labels := include "stable-diffusion.metricLabels" . -}}
{{- if .Values.monitoring.podMonitor.knativeRequestMetrics -}}
sum(rate(kn_serving_invocation_duration_seconds_count{ {{- $labels }},http_response_status_code=~"5.."}[5m]))
/ sum(rate(kn_serving_invocation_duration_seconds_count{ {{- $labels }}}[5m]))
{{- else -}}
1 - (sum(rate(request_postprocess_seconds_count{ {{- $labels }}}[5m])) or vector(0))
/ sum(rate(request_predict_seconds_count{ {{- $labels }}}[5m]))
{{- end -}}
{{- end -}}

{{/* The seconds of a request: the buckets of the histogram end at 10, so that a larger percentile cannot be told. */}}
{{- define "stable-diffusion.latency" -}}
{{- $labels := include "stable-diffusion.metricLabels" . -}}
{{- if le (float64 .Values.monitoring.rules.latencySeconds) 10.0 -}}
histogram_quantile(0.95, sum by (le) (rate(request_predict_seconds_bucket{ {{- $labels }}}[10m])))
{{- else -}}
sum(rate(request_predict_seconds_sum{ {{- $labels }}}[10m]))
/ sum(rate(request_predict_seconds_count{ {{- $labels }}}[10m]))
{{- end -}}
{{- end -}}

{{/* The requests in a pod: counted by Knative's proxy, else by Little's law the seconds of work done per second. */}}
{{- define "stable-diffusion.requestsInPod" -}}
{{- $labels := include "stable-diffusion.metricLabels" . -}}
{{- if .Values.monitoring.podMonitor.knativeRequestMetrics -}}
avg(avg_over_time(kn_serving_queue_depth{ {{- $labels }}}[5m]))
{{- else -}}
sum(rate(request_predict_seconds_sum{ {{- $labels }}}[5m])) / count(up{ {{- $labels }}} == 1)
{{- end -}}
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
  "summary" (printf "%s: requests take {{ $value | humanizeDuration }}." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionQueue" "severity" "warning" "for" "10m"
  "expr" (printf "%s\n> %d" (include "stable-diffusion.requestsInPod" .) (int64 .Values.predictor.concurrency))
  "summary" (printf "%s: {{ $value | humanize }} requests in each pod, more than it can work on at once." $service)) $base) }}
{{ include "stable-diffusion.alert" (merge (dict "alert" "StableDiffusionGpuMemory" "severity" "warning" "for" "10m"
  "expr" (printf "(\n%s\nor\n%s\n) > 0.95"
    (include "stable-diffusion.gpuMemory" (merge (dict "prefix" "") .))
    (include "stable-diffusion.gpuMemory" (merge (dict "prefix" "exported_") .)))
  "summary" (printf "%s: {{ $value | humanizePercentage }} of the GPU's memory is taken." $service)) $base) }}
{{- end -}}

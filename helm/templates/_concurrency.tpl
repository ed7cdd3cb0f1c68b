{{/*
Everything derives from one number N, `predictor.concurrency`; docs/operations.md has the reasons.

  max_lanes             2 N        N guided pictures, each of two lanes, in one pass of the denoiser
  containerConcurrency  2 N        requests that Knative sends to a pod: a full batch, and the next one
  target                N at 70 %  above it the autoscaler adds a pod; the rest bridges its start
  max_queue_length      4 N        pictures that may wait, at least max_images_per_request; further requests get 429
*/}}
{{- define "stable-diffusion.containerConcurrency" -}}
{{- mul 2 .Values.predictor.concurrency -}}
{{- end -}}

{{- define "stable-diffusion.targetUtilization" -}}70{{- end -}}

{{/* The predictor's settings as YAML: the derived ones, then those of the values. The queue has room for any single request. */}}
{{- define "stable-diffusion.settings" -}}
{{- $settings := .Values.predictor.settings -}}
{{- $images := default 16 $settings.max_images_per_request -}}
{{- $derived := dict "max_lanes" (mul 2 .Values.predictor.concurrency) "max_queue_length" (max (mul 4 .Values.predictor.concurrency) $images) "shutdown_seconds" (include "stable-diffusion.shutdownSeconds" . | int64) -}}
{{- with .model.name -}}
{{- $_ := set $derived "model_dir" (printf "/mnt/models/%s" .) -}}
{{- end -}}
{{- /* Knative does not try another pod after a 503, so a request that reaches a pod too early waits there. */ -}}
{{- if and (eq .Values.predictor.deploymentMode "Knative") .model.name -}}
{{- $_ := set $derived "wait_for_load" true -}}
{{- end -}}
{{- if and (include "stable-diffusion.hasDownload" .) (not (include "stable-diffusion.modelImage" .model)) -}}
{{- $_ := set $derived "max_download_wait_seconds" .Values.downloader.activeDeadlineSeconds -}}
{{- end -}}
{{- include "stable-diffusion.merged" (list $derived $settings) -}}
{{- end -}}

{{/* The target value of the metric to scale on; empty for KServe's own default. */}}
{{- define "stable-diffusion.scaleTarget" -}}
{{- if and (eq .Values.predictor.deploymentMode "Knative") (ne .Values.predictor.scaling.scaleMetric "rps") -}}
{{- int64 .Values.predictor.concurrency -}}
{{- else if .Values.predictor.scaling.scaleTarget -}}
{{- int64 .Values.predictor.scaling.scaleTarget -}}
{{- end -}}
{{- end -}}

{{/* KEDA's metrics: those of the values, or the pictures that are waiting or running in all pods. */}}
{{- define "stable-diffusion.kedaMetrics" -}}
{{- $scaling := .Values.predictor.scaling -}}
{{- if $scaling.metrics -}}
{{- toYaml $scaling.metrics -}}
{{- else if $scaling.prometheusAddress -}}
- type: External
  external:
    metric:
      backend: prometheus
      serverAddress: {{ $scaling.prometheusAddress }}
      query: sum(diffusion_pictures{ {{- include "stable-diffusion.metricLabels" . }}})
    # KServe passes it to KEDA as the threshold per pod.
    target:
      type: Value
      value: {{ printf "%.1f" (divf (mulf .Values.predictor.concurrency (include "stable-diffusion.targetUtilization" . | float64)) 100) | quote }}
{{- end -}}
{{- end -}}

{{/* The name of all objects. 40 characters leave room for the suffixes that KServe and Knative add below 63. */}}
{{- define "stable-diffusion.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $combined := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $combined .Values.fullnameOverride | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The labels of an object. No version among them: KServe copies them to the pods, and a changed one would restart them. */}}
{{- define "stable-diffusion.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Values.managedBy }}
{{- end -}}

{{/* The claim that holds the weights, ours or an existing one. */}}
{{- define "stable-diffusion.claimName" -}}
{{- default (printf "%s-models" (include "stable-diffusion.fullname" .)) .Values.storage.existingClaim -}}
{{- end -}}

{{/* The secret that holds the hub token, our placeholder or an existing one. */}}
{{- define "stable-diffusion.secretName" -}}
{{- default (printf "%s-huggingface" (include "stable-diffusion.fullname" .)) .Values.huggingface.existingSecret -}}
{{- end -}}

{{/* The Job's name: a fixed one, or one that changes with the Job's content. */}}
{{- define "stable-diffusion.jobName" -}}
{{- $hash := include "stable-diffusion.jobSpec" . | sha256sum | trunc 8 -}}
{{- default (printf "%s-download-%s" (include "stable-diffusion.fullname" .) $hash) .Values.downloader.jobName -}}
{{- end -}}

{{/* An image reference. Call it with a dict of `image` and `chart`. */}}
{{- define "stable-diffusion.image" -}}
{{- printf "%s:%s" .image.repository (default .chart.AppVersion .image.tag) -}}
{{- end -}}

{{/* The security context of a container, the one that the restricted Pod Security Standard asks for. */}}
{{- define "stable-diffusion.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.security.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* A setting as the text of a variable. Helm reads every number as a float and would write 1572864 as 1.572864e+06. */}}
{{- define "stable-diffusion.envValue" -}}
{{- if and (kindIs "float64" .) (eq (toString .) (toString (floor .))) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* The seconds that a pod needs to stop: drain, finish what is under way, and a margin. */}}
{{- define "stable-diffusion.gracePeriodSeconds" -}}
{{- $settings := .Values.predictor.settings -}}
{{- addf $settings.drain_seconds $settings.shutdown_seconds 15 | ceil | int64 -}}
{{- end -}}

{{/* Refuses what KServe or Knative would refuse later, or change without a word. */}}
{{- define "stable-diffusion.validate" -}}
{{- $predictor := .Values.predictor -}}
{{- $scaling := $predictor.scaling -}}
{{- $class := $scaling.autoscalerClass -}}
{{- $grace := include "stable-diffusion.gracePeriodSeconds" . | int64 -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "stable-diffusion.fullname" .)) -}}
{{- fail (printf "KServe needs a name of small letters, digits and '-' that begins with a letter, and %q is not: set fullnameOverride" (include "stable-diffusion.fullname" .)) -}}
{{- end -}}
{{- if gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas) -}}
{{- fail "predictor.scaling.minReplicas exceeds predictor.scaling.maxReplicas" -}}
{{- end -}}
{{- if eq $predictor.deploymentMode "Knative" -}}
{{- if not (has $scaling.scaleMetric (list "" "concurrency" "rps")) -}}
{{- fail (printf "predictor.scaling.scaleMetric is %q: with deploymentMode Knative use concurrency or rps" $scaling.scaleMetric) -}}
{{- end -}}
{{- if lt (int64 $predictor.timeoutSeconds) $grace -}}
{{- fail (printf "predictor.timeoutSeconds must be %d at least: with deploymentMode Knative it is also the time that a pod has to stop (drain_seconds + shutdown_seconds + 15)" $grace) -}}
{{- end -}}
{{- else -}}
{{- if and (eq (int64 $scaling.minReplicas) 0) (not (has $class (list "keda" "external"))) -}}
{{- fail (printf "predictor.scaling.minReplicas is 0: with deploymentMode Standard and autoscalerClass %s nothing would scale from zero. Use 1, or autoscalerClass keda or external" $class) -}}
{{- end -}}
{{- if and (eq $class "hpa") (not (has $scaling.scaleMetric (list "" "cpu" "memory"))) -}}
{{- fail (printf "predictor.scaling.scaleMetric is %q: with autoscalerClass hpa use cpu or memory" $scaling.scaleMetric) -}}
{{- end -}}
{{- if and (eq $class "keda") (or $scaling.scaleMetric (not $scaling.metrics)) -}}
{{- fail "predictor.scaling: autoscalerClass keda scales on metrics, not on scaleMetric: set the one and leave the other empty" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name of all objects. 40 characters leave room for the suffixes that KServe and Knative add below 63. */}}
{{- define "stable-diffusion.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $combined := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $combined .Values.fullnameOverride | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The labels of an object. They contain no version: KServe copies labels to the pods, and a changed label would restart them. */}}
{{- define "stable-diffusion.labels" -}}
{{ include "stable-diffusion.ownLabels" . }}
app.kubernetes.io/managed-by: {{ toYaml .Values.managedBy }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The labels that identify the pods of this release. */}}
{{- define "stable-diffusion.ownLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | toYaml }}
app.kubernetes.io/instance: {{ toYaml .Release.Name }}
{{- end -}}

{{/* The claim with the weights: ours, or an existing one. */}}
{{- define "stable-diffusion.claimName" -}}
{{- default (printf "%s-models" (include "stable-diffusion.fullname" .)) .Values.storage.existingClaim -}}
{{- end -}}

{{/* The secret with the hub token: our placeholder, or an existing one. */}}
{{- define "stable-diffusion.secretName" -}}
{{- default (printf "%s-huggingface" (include "stable-diffusion.fullname" .)) .Values.huggingface.existingSecret -}}
{{- end -}}

{{/* The ServiceAccount of a component: ours, or an existing one. Call it with a dict of `root` and `component`. */}}
{{- define "stable-diffusion.serviceAccountName" -}}
{{- default (printf "%s-%s" (include "stable-diffusion.fullname" .root) .component) (index .root.Values .component).serviceAccountName -}}
{{- end -}}

{{/* The ConfigMap with the specification of the models. */}}
{{- define "stable-diffusion.specName" -}}
{{- printf "%s-model-spec" (include "stable-diffusion.fullname" .) -}}
{{- end -}}

{{/* An image reference, by digest if there is one. Call it with a dict of `image` and `chart`. */}}
{{- define "stable-diffusion.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The security context of a container, as the restricted Pod Security Standard requires. */}}
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

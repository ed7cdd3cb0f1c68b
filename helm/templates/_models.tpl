{{/* All models as YAML, `models: [...]`, each with the name of its InferenceService as `service`. */}}
{{- define "stable-diffusion.models" -}}
{{- $fullname := include "stable-diffusion.fullname" . -}}
{{- $models := list -}}
{{- range .Values.models -}}
{{- $slug := regexReplaceAll "[^a-z0-9]+" (lower .name) "-" -}}
{{- $service := ternary $slug (printf "%s-%s" $fullname $slug) (hasPrefix (printf "%s-" $fullname) $slug) -}}
{{- $service = ternary $fullname ($service | trunc 40 | trimSuffix "-") $.Values.sharedPredictor -}}
{{- $models = append $models (set (deepCopy .) "service" $service) -}}
{{- end -}}
{{- if not $models -}}
{{- $models = list (set (deepCopy .Values.model) "service" $fullname) -}}
{{- end -}}
{{- dict "models" $models | toYaml -}}
{{- end -}}

{{/* The reference of the image that holds a model; empty if the model is on the claim. */}}
{{- define "stable-diffusion.modelImage" -}}
{{- if hasPrefix "oci+native://" (default "" .source) -}}
{{- trimPrefix "oci+native://" .source -}}
{{- end -}}
{{- end -}}

{{/* The models on the claim, as `stable-diffusion.models`: all except those in an image. */}}
{{- define "stable-diffusion.modelsOnClaim" -}}
{{- $models := list -}}
{{- range (include "stable-diffusion.models" . | fromYaml).models -}}
{{- if not (include "stable-diffusion.modelImage" .) -}}
{{- $models = append $models . -}}
{{- end -}}
{{- end -}}
{{- dict "models" $models | toYaml -}}
{{- end -}}

{{/* The InferenceServices as YAML, `services: [...]`, each with `service` and the `name` of its model; no `name` if it serves all models of the volume. */}}
{{- define "stable-diffusion.services" -}}
{{- $services := (include "stable-diffusion.models" . | fromYaml).models -}}
{{- if .Values.sharedPredictor -}}
{{- $services = list (dict "service" (include "stable-diffusion.fullname" .) "source" (first $services).source) -}}
{{- end -}}
{{- dict "services" $services | toYaml -}}
{{- end -}}

{{/* The first mapping, overridden by the second, as YAML. Unlike `mergeOverwrite` it also applies 0, false and null. */}}
{{- define "stable-diffusion.merged" -}}
{{- $result := deepCopy (first .) -}}
{{- range $key, $value := last . -}}
{{- $present := index $result $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $result $key -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $present) -}}
{{- $_ := set $result $key (include "stable-diffusion.merged" (list $present $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* The values of one model, with its own `predictor` applied, as YAML. Call it with a dict of `root` and `model`. */}}
{{- define "stable-diffusion.valuesFor" -}}
{{- $predictor := default dict .model.predictor -}}
{{- include "stable-diffusion.merged" (list .root.Values (dict "predictor" $predictor)) -}}
{{- end -}}

{{/* A model in the downloader's file: all fields except those that only the chart uses. */}}
{{- define "stable-diffusion.modelSpec" -}}
{{- omit . "predictor" "service" | toYaml -}}
{{- end -}}

{{/* The downloader's file, if variables are not enough: for several models, or a model with several parts. Empty otherwise. */}}
{{- define "stable-diffusion.specFile" -}}
{{- $models := (include "stable-diffusion.modelsOnClaim" . | fromYaml).models -}}
{{- $extras := omit (default dict (first $models)) "name" "source" "variant" "predictor" "service" -}}
{{- if or (gt (len $models) 1) $extras -}}
models:
{{- range $models }}
  - {{ include "stable-diffusion.modelSpec" . | nindent 4 | trim }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Whether the values ask for a canary, which may get 0 percent. */}}
{{- define "stable-diffusion.hasCanary" -}}
{{- if not (kindIs "invalid" .Values.predictor.canaryTrafficPercent) -}}
true
{{- end -}}
{{- end -}}

{{/*
The canary of Standard mode, a second predictor: `predictor` with the values of `predictor.canary`. Its number of pods
is fixed, so KServe accepts no field of the autoscaler.
*/}}
{{- define "stable-diffusion.canary" -}}
{{- if and (eq .Values.predictor.deploymentMode "Standard") (include "stable-diffusion.hasCanary" .) -}}
{{- $values := include "stable-diffusion.merged" (list .Values (dict "predictor" .Values.predictor.canary)) | fromYaml -}}
{{- $root := dict "Values" $values "Release" .Release "Chart" .Chart "model" .model -}}
{{- /* Its values follow the rules of the other predictor. */ -}}
{{- include "stable-diffusion.validatePredictor" $root -}}
{{- include "stable-diffusion.validateCanaryCache" . -}}
{{- $spec := include "stable-diffusion.predictorSpec" $root | fromYaml -}}
{{- include "stable-diffusion.validateVolumes" (dict "pod" $spec "own" $values.predictor "where" "predictor.canary") }}
  canary:
    - trafficPercent: {{ int64 .Values.predictor.canaryTrafficPercent }}
      predictor:
        name: canary
        {{- omit $spec "minReplicas" "maxReplicas" "scaleMetric" "scaleTarget" "autoScaling" | toYaml | nindent 8 }}
{{- end -}}
{{- end -}}

{{/* Rejects a canary that KServe would ignore. */}}
{{- define "stable-diffusion.validateCanary" -}}
{{- $predictor := .Values.predictor -}}
{{- if and (eq $predictor.deploymentMode "Knative") $predictor.canary -}}
{{- fail "predictor.canary: with deploymentMode Knative the previous revision is the old version. Change the values of predictor themselves and set predictor.canaryTrafficPercent" -}}
{{- end -}}
{{- if and $predictor.canary (not (include "stable-diffusion.hasCanary" .)) -}}
{{- fail "predictor.canary: set predictor.canaryTrafficPercent, the share of requests that the canary gets. 0 starts it without requests" -}}
{{- end -}}
{{- if and (eq $predictor.deploymentMode "Standard") (include "stable-diffusion.hasCanary" .) (not $predictor.canary) -}}
{{- fail "predictor.canaryTrafficPercent: with deploymentMode Standard the canary is a second predictor. Set what differs from predictor in predictor.canary, such as {image: {tag: 0.2.0}}" -}}
{{- end -}}
{{- end -}}

{{/* Rejects a cache of the canary on a claim of its own, because the chart creates one claim for both. */}}
{{- define "stable-diffusion.validateCanaryCache" -}}
{{- $predictor := .Values.predictor -}}
{{- range $name, $value := omit (default dict $predictor.canary.cache) "claimName" "subPath" -}}
{{- if ne (toJson $value) (toJson (index $predictor.cache $name)) -}}
{{- fail (printf "predictor.canary.cache.%s: the chart creates one claim for both versions: set predictor.cache.%s, or predictor.canary.cache.claimName to an existing claim" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the values need from the cluster, or what they waste, as paragraphs for the notes. Empty if there is nothing. */}}
{{- define "stable-diffusion.warnings" -}}
{{- $services := (include "stable-diffusion.services" . | fromYaml).services -}}
{{- $pods := 0 -}}
{{- range $model := $services -}}
{{- $values := include "stable-diffusion.valuesFor" (dict "root" $ "model" $model) | fromYaml -}}
{{- $rendered := include "stable-diffusion.inferenceService" (dict "Values" $values "Release" $.Release "Chart" $.Chart "model" $model) -}}
{{- if contains (include "stable-diffusion.claimName" $) $rendered -}}
{{- $pods = add $pods $values.predictor.scaling.maxReplicas -}}
{{- end -}}
{{- include "stable-diffusion.gpuWarning" (dict "predictor" $values.predictor "service" $model.service) -}}
{{- if eq $values.predictor.deploymentMode "Knative" -}}
{{- include "stable-diffusion.knativeWarnings" (dict "predictor" $values.predictor "service" $model.service "pod" ($rendered | fromYaml).spec.predictor) -}}
{{- end -}}
{{- end -}}
{{- include "stable-diffusion.storageWarning" (dict "storage" .Values.storage "pods" $pods) -}}
{{- with default dict .Values.jobs -}}
{{- if and .enabled (or .route.enabled .ingress.enabled) (not .apiKeys.secretName) }}

   The jobs program is reachable from outside the cluster and requires no keys: everyone who reaches
   it sees all jobs and their pictures. Set jobs.apiKeys.secretName.
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Call it with a dict of `predictor` and `service`. The predictor computes on one GPU. */}}
{{- define "stable-diffusion.gpuWarning" -}}
{{- $gpus := 0.0 -}}
{{- range $name, $quantity := .predictor.resources.limits -}}
{{- if regexMatch "gpu|/mig-" $name -}}
{{- $gpus = addf $gpus (include "stable-diffusion.quantity" $quantity | float64) -}}
{{- end -}}
{{- end -}}
{{- if gt $gpus 1.0 }}

   Each pod of {{ .service }} gets {{ $gpus }} GPUs, and the predictor uses only one of them. Set
   one in predictor.resources.limits, and raise predictor.scaling.maxReplicas instead.
{{- else if and .predictor.resourceClaims (eq $gpus 1.0) }}

   Each pod of {{ .service }} gets a GPU from predictor.resources.limits in addition to its
   resourceClaims. If a claim is for a GPU, set the limit to null: the predictor uses only one.
{{- end -}}
{{- end -}}

{{/* Call it with a dict of `storage` and `pods`, the highest number of predictors that use the claim. */}}
{{- define "stable-diffusion.storageWarning" -}}
{{- $modes := join ", " .storage.accessModes -}}
{{- if and (gt .pods 1) (not .storage.existingClaim) (not (contains "Many" $modes)) }}

   The claim is {{ $modes }}, and up to {{ .pods }} predictors use it. Those on another node than the
   volume stay pending. Use ReadWriteMany in storage.accessModes, or select one node.
{{- end -}}
{{- end -}}

{{/* Call it with a dict of `predictor`, `service` and `pod`, the rendered `spec.predictor`. */}}
{{- define "stable-diffusion.knativeWarnings" -}}
{{- with include "stable-diffusion.knativeFlags" .pod }}

   Knative rejects {{ $.service }} unless an administrator enables these flags in the
   ConfigMap config-features (docs/operations.md): {{ . }}
{{- end -}}
{{- if gt (int64 .predictor.timeoutSeconds) 600 }}

   predictor.timeoutSeconds is {{ int64 .predictor.timeoutSeconds }}. Knative rejects {{ .service }} unless an administrator
   raises max-revision-timeout-seconds in the ConfigMap config-defaults, which is 600 at first.
{{- end -}}
{{- end -}}

{{/* The flags of Knative that a predictor's pod needs, separated by commas. Call it with the rendered `spec.predictor`. */}}
{{- define "stable-diffusion.knativeFlags" -}}
{{- $flags := list -}}
{{- range $field := list "affinity" "nodeSelector" "priorityClassName" "runtimeClassName" "securityContext" "tolerations" "topologySpreadConstraints" -}}
{{- if hasKey $ $field -}}
{{- $flags = append $flags $field -}}
{{- end -}}
{{- end -}}
{{- range (first .containers).env -}}
{{- $source := default dict .valueFrom -}}
{{- if or (hasKey $source "fieldRef") (hasKey $source "resourceFieldRef") -}}
{{- $flags = append $flags "fieldref" -}}
{{- end -}}
{{- end -}}
{{- range $volume := .volumes -}}
{{- range $kind := list "csi" "ephemeral" "hostPath" "image" -}}
{{- if hasKey $volume $kind -}}
{{- $flags = append $flags (printf "volumes-%s" $kind) -}}
{{- end -}}
{{- end -}}
{{- with .persistentVolumeClaim -}}
{{- $flags = append $flags "persistent-volume-claim" -}}
{{- if not .readOnly -}}
{{- $flags = append $flags "persistent-volume-write" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range $flags | uniq | sortAlpha -}}
{{- $names = append $names (printf "kubernetes.podspec-%s" (lower .)) -}}
{{- end -}}
{{- join ", " $names -}}
{{- end -}}

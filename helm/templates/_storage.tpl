{{/* The storage class of a claim: `-` stands for none, as a static volume may have; empty selects the default class of the cluster. */}}
{{- define "stable-diffusion.storageClass" -}}
{{- with . }}
  storageClassName: {{ ternary "" . (eq . "-") | quote }}
{{- end }}
{{- end -}}

{{/* Whether the chart's own claim can only be read. */}}
{{- define "stable-diffusion.isReadOnly" -}}
{{- if and (not .Values.storage.existingClaim) (eq (toJson .Values.storage.accessModes) (toJson (list "ReadOnlyMany"))) -}}
true
{{- end -}}
{{- end -}}

{{/* Whether a Job downloads models: not if all of them are in images, or if the claim can only be read. */}}
{{- define "stable-diffusion.hasDownload" -}}
{{- $models := (include "stable-diffusion.modelsOnClaim" . | fromYaml).models -}}
{{- if and .Values.downloader.enabled $models (not (include "stable-diffusion.isReadOnly" .)) -}}
true
{{- end -}}
{{- end -}}

{{/* What KServe mounts at /mnt/models: the image of the model, or the root of the claim. */}}
{{- define "stable-diffusion.storageUri" -}}
{{- if include "stable-diffusion.modelImage" .model -}}
{{- .model.source -}}
{{- else -}}
pvc://{{ include "stable-diffusion.claimName" . }}/
{{- end -}}
{{- end -}}

{{/* The source of the volume `models`, for `storage.mount: volume`. */}}
{{- define "stable-diffusion.modelsVolume" -}}
{{- with include "stable-diffusion.modelImage" .model -}}
image:
  reference: {{ . }}
  pullPolicy: {{ $.Values.predictor.image.pullPolicy }}
{{- else -}}
persistentVolumeClaim:
  claimName: {{ include "stable-diffusion.claimName" . | toYaml }}
  readOnly: true
{{- end -}}
{{- end -}}

{{/* Whether the chart creates the claim of a predictor's cache. */}}
{{- define "stable-diffusion.ownsCache" -}}
{{- if and .Values.predictor.cache.size (not .Values.predictor.cache.claimName) -}}
true
{{- end -}}
{{- end -}}

{{/* The claim of a predictor's cache: an existing one, or the chart's own. Empty without a cache. */}}
{{- define "stable-diffusion.cacheClaim" -}}
{{- default (ternary (printf "%s-cache" .model.service) "" (eq (include "stable-diffusion.ownsCache" .) "true")) .Values.predictor.cache.claimName -}}
{{- end -}}

{{/* The group that gets the chart's own claim of the cache; empty without such a claim. */}}
{{- define "stable-diffusion.cacheGroup" -}}
{{- if and (include "stable-diffusion.ownsCache" .) .Values.security.fsGroup -}}
{{- int64 .Values.security.fsGroup -}}
{{- end -}}
{{- end -}}

{{/* Rejects a claim that nothing would ever fill, and models in images that no predictor could mount. */}}
{{- define "stable-diffusion.validateStorage" -}}
{{- $models := (include "stable-diffusion.models" . | fromYaml).models -}}
{{- $onClaim := (include "stable-diffusion.modelsOnClaim" . | fromYaml).models -}}
{{- if and $onClaim (include "stable-diffusion.isReadOnly" .) (not .Values.storage.dataSourceRef) (not .Values.storage.volumeName) -}}
{{- fail "storage.accessModes is ReadOnlyMany: such a claim would stay empty. Set storage.dataSourceRef to the snapshot or claim to copy, or storage.volumeName to a volume that has the models" -}}
{{- end -}}
{{- $images := list -}}
{{- range $models -}}
{{- if include "stable-diffusion.modelImage" . -}}
{{- $images = append $images .source -}}
{{- $fields := omit . "name" "source" "variant" "predictor" "service" | keys | sortAlpha -}}
{{- if $fields -}}
{{- fail (printf "%q is in an image, so nothing is downloaded for it: remove %s, and put these parts into the image when you build it (docs/downloads.md)" .name (join ", " $fields)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.sharedPredictor $images (or $onClaim (gt ($images | uniq | len) 1)) -}}
{{- fail "sharedPredictor: a predictor mounts one claim or one image. Build one image with all models and set it as the source of each, or set sharedPredictor to false" -}}
{{- end -}}
{{- end -}}

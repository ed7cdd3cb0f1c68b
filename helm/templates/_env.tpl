{{/* What botocore reads. Call it with a dict of `endpoint`, `region` and `existingSecret`. */}}
{{- define "stable-diffusion.s3Env" -}}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ quote . }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ quote . }}
{{- end }}
{{- range $name := ternary (list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN") list (ne .existingSecret "") }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ toYaml $.existingSecret }}
      key: {{ $name }}
      optional: {{ eq $name "AWS_SESSION_TOKEN" }}
{{- end }}
{{- end -}}

{{/*
The variables of a container: the chart's own, and then those of the values, which replace the chart's variables of the same
name. The API server accepts each name only once. Call it with a dict of `own` (YAML), `env` and `where`.
*/}}
{{- define "stable-diffusion.env" -}}
{{- $chosen := dict -}}
{{- range .env -}}
{{- if hasKey $chosen .name -}}
{{- fail (printf "%s: %s is set twice, and a container can have each variable only once: remove one of the two" $.where .name) -}}
{{- end -}}
{{- $_ := set $chosen .name true -}}
{{- end -}}
{{- $own := fromYamlArray .own -}}
{{- $kept := list -}}
{{- range $own -}}
{{- if not (hasKey $chosen .name) -}}
{{- $kept = append $kept . -}}
{{- end -}}
{{- end -}}
{{- /* Parsing removes the comments, so the text stays if nothing is replaced. */ -}}
{{- ternary .own (toYaml $kept) (eq (len $kept) (len $own)) -}}
{{- with .env }}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{/* Rejects variables of the predictor that the chart sets from other values, and those that KServe does not allow. Call it with `predictor`. */}}
{{- define "stable-diffusion.validatePredictorEnv" -}}
{{- $advice := dict "PYTHONPATH" "remove it, because KServe rejects it" "STORAGE_URI" "use storage.existingClaim and storage.mount" "PREDICTOR_MODEL_DIR" "use model.name" "PREDICTOR_HOST" "remove it, because the probes need the default" "PREDICTOR_BLOCK_LIST_FILE" "use predictor.blockList" "PREDICTOR_API_KEYS_FILE" "use predictor.apiKeys" "PREDICTOR_RATE_LIMIT_STORAGE" "use predictor.rateLimitStorage" "PREDICTOR_CACHE_DIR" "use predictor.cache" -}}
{{- range $variable := .env -}}
{{- with get $advice $variable.name -}}
{{- fail (printf "predictor.env: %s: %s" $variable.name .) -}}
{{- end -}}
{{- if hasPrefix "PREDICTOR_" $variable.name -}}
{{- fail (printf "predictor.env: %s: use predictor.settings.%s" $variable.name (trimPrefix "PREDICTOR_" $variable.name | lower)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The same for the downloader, whose other settings have no values of their own. */}}
{{- define "stable-diffusion.validateDownloaderEnv" -}}
{{- $advice := dict "DOWNLOADER_SPEC" "use models" "DOWNLOADER_SOURCE" "use model.source" "DOWNLOADER_NAME" "use model.name" "DOWNLOADER_VARIANT" "use model.variant" "DOWNLOADER_TARGET" "remove it, because the volume is mounted at /mnt/models" "DOWNLOADER_MAX_WORKERS" "use downloader.maxWorkers" -}}
{{- range $variable := .Values.downloader.env -}}
{{- with get $advice $variable.name -}}
{{- fail (printf "downloader.env: %s: %s" $variable.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

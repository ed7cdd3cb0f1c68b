{{/* The name of the objects of the jobs program. */}}
{{- define "stable-diffusion.jobsName" -}}
{{- printf "%s-jobs" (include "stable-diffusion.fullname" .) -}}
{{- end -}}

{{- define "stable-diffusion.valkeyName" -}}
{{- printf "%s-valkey" (include "stable-diffusion.jobsName" .) -}}
{{- end -}}

{{/* Whether the jobs are in an SQLite file on a claim; empty if not. */}}
{{- define "stable-diffusion.jobsInSqlite" -}}
{{- if not (or .Values.jobs.redis.secretName .Values.jobs.valkey.enabled) -}}
true
{{- end -}}
{{- end -}}

{{/* The labels that identify the pods of a component. Call it with a dict of `root` and `component`. */}}
{{- define "stable-diffusion.componentLabels" -}}
{{ include "stable-diffusion.ownLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The address of a predictor in the cluster, the same in both modes. Call it with a dict of `root` and `service`. */}}
{{- define "stable-diffusion.predictorUrl" -}}
{{- printf "http://%s-predictor.%s.svc" .service .root.Release.Namespace -}}
{{- end -}}

{{/* The address of all ready pods of a predictor: a headless Service maps no ports. Call it with a dict of `root` and `service`. */}}
{{- define "stable-diffusion.metricsUrl" -}}
{{- printf "http://%s-metrics.%s.svc:8080" .service .root.Release.Namespace -}}
{{- end -}}

{{/* Rejects values with which the jobs program would not start, or would be useless. */}}
{{- define "stable-diffusion.validateJobs" -}}
{{- $jobs := .Values.jobs -}}
{{- if and $jobs.redis.secretName $jobs.valkey.enabled -}}
{{- fail "jobs: redis.secretName and valkey.enabled are both set: set one of the two" -}}
{{- end -}}
{{- if and (gt (int64 $jobs.replicas) 1) (include "stable-diffusion.jobsInSqlite" .) -}}
{{- fail "jobs.replicas: pods cannot share an SQLite file: set jobs.redis.secretName or jobs.valkey.enabled, or use 1" -}}
{{- end -}}
{{- if and $jobs.valkey.enabled (not .Values.networkPolicy.enabled) -}}
{{- fail "jobs.valkey: it has no password, so that every pod could read the jobs without networkPolicy.enabled: enable that, or use jobs.redis" -}}
{{- end -}}
{{- if and $jobs.redis.secretName .Values.networkPolicy.enabled (not .Values.networkPolicy.jobsEgress) -}}
{{- fail "jobs.redis: the network policy blocks the connections to it: allow them in networkPolicy.jobsEgress" -}}
{{- end -}}
{{- if and $jobs.bucket.url $jobs.bucket.endpoint .Values.networkPolicy.enabled (not .Values.networkPolicy.jobsEgress) -}}
{{- fail "jobs.bucket.endpoint: the network policy blocks the connections to it: allow them in networkPolicy.jobsEgress" -}}
{{- end -}}
{{- if and (get $jobs.settings "webhook_networks") .Values.networkPolicy.enabled (not .Values.networkPolicy.jobsEgress) -}}
{{- fail "jobs.settings.webhook_networks: the network policy blocks the connections to them: allow them in networkPolicy.jobsEgress" -}}
{{- end -}}
{{- $wait := hasKey $jobs.settings "max_wait_seconds" | ternary $jobs.settings.max_wait_seconds 60 -}}
{{- if and $jobs.route.enabled $jobs.route.timeoutSeconds (lt (float64 $jobs.route.timeoutSeconds) (float64 $wait)) -}}
{{- fail (printf "jobs.route.timeoutSeconds is %d: the Gateway would cut requests with Prefer: wait, which may take %v seconds. Raise it, or lower jobs.settings.max_wait_seconds" (int64 $jobs.route.timeoutSeconds) $wait) -}}
{{- end -}}
{{- range (include "stable-diffusion.services" . | fromYaml).services -}}
{{- if has .service (list (include "stable-diffusion.jobsName" $) (include "stable-diffusion.valkeyName" $)) -}}
{{- fail (printf "jobs.enabled: the InferenceService %s of a model would have the name of a Service of the jobs program: choose another name for the model" .service) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.predictor.apiKeys.secretName (not $jobs.predictorApiKey.secretName) -}}
{{- fail "jobs.predictorApiKey: the predictor requires a key (predictor.apiKeys): set jobs.predictorApiKey.secretName" -}}
{{- end -}}
{{- range list "key_jobs_per_minute" "key_queued_jobs" -}}
{{- if and (get $jobs.settings .) (not $jobs.apiKeys.secretName) -}}
{{- fail (printf "jobs.settings.%s: a limit per key requires keys: set jobs.apiKeys.secretName" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stable-diffusion.jobsEnv" -}}
{{- $models := (include "stable-diffusion.models" . | fromYaml).models -}}
{{- $names := list -}}
{{- $urls := list -}}
{{- $metrics := list -}}
{{- range $models -}}
{{- $names = append $names .name -}}
{{- $urls = append $urls (printf "%s=%s" .name (include "stable-diffusion.predictorUrl" (dict "root" $ "service" .service))) -}}
{{- $metrics = append $metrics (printf "%s=%s" .name (include "stable-diffusion.metricsUrl" (dict "root" $ "service" .service))) -}}
{{- end -}}
- name: JOBS_MODELS
  value: {{ join "," $names }}
- name: JOBS_PREDICTOR_URLS
  value: {{ join "," $urls }}
- name: JOBS_METRICS_URLS
  value: {{ join "," $metrics }}
{{- if include "stable-diffusion.jobsInSqlite" . }}
- name: JOBS_SQLITE_PATH
  value: /var/lib/jobs/jobs.sqlite3
{{- else if .Values.jobs.valkey.enabled }}
- name: JOBS_REDIS_URL
  value: redis://{{ include "stable-diffusion.valkeyName" . }}.{{ .Release.Namespace }}.svc:6379/0
{{- else }}
- name: JOBS_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ toYaml .Values.jobs.redis.secretName }}
      key: {{ toYaml .Values.jobs.redis.key }}
{{- end }}
{{- with .Values.jobs.bucket }}
{{- if .url }}
- name: JOBS_BUCKET_URL
  value: {{ quote .url }}
{{- include "stable-diffusion.s3Env" . }}
{{- end }}
{{- end }}
{{- with .Values.jobs.predictorApiKey }}
{{- if .secretName }}
- name: JOBS_PREDICTOR_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ toYaml .secretName }}
      key: {{ toYaml .key }}
{{- end }}
{{- end }}
{{- with .Values.jobs.webhooks }}
{{- if .secretName }}
- name: JOBS_WEBHOOK_SECRETS
  valueFrom:
    secretKeyRef:
      name: {{ toYaml .secretName }}
      key: {{ toYaml .key }}
{{- end }}
{{- end }}
{{- if .Values.jobs.apiKeys.secretName }}
- name: JOBS_API_KEYS_FILE
  value: /etc/jobs-keys/api-keys
{{- end }}
{{- range $name, $value := .Values.jobs.settings }}
- name: JOBS_{{ upper $name }}
  value: {{ include "stable-diffusion.envValue" $value | quote }}
{{- end }}
{{- with include "stable-diffusion.caBundleEnv" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The fields of a pod that Valkey's share. Call it with the root. */}}
{{- define "stable-diffusion.jobsPod" -}}
automountServiceAccountToken: false
# A Service with the name jobs would set the variable JOBS_PORT.
enableServiceLinks: false
serviceAccountName: {{ include "stable-diffusion.serviceAccountName" (dict "root" . "component" "jobs") | toYaml }}
securityContext:
  runAsNonRoot: true
  {{- with .Values.security.fsGroup }}
  fsGroup: {{ int64 . }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.jobs.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.jobs.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.jobs.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.jobs.priorityClassName }}
priorityClassName: {{ toYaml . }}
{{- end }}
{{- end -}}

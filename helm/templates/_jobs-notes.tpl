{{/* How to reach the jobs program, where the jobs are, and who may use it, for the notes. Call it with the root. */}}
{{- define "stable-diffusion.jobsNotes" -}}
{{- $name := include "stable-diffusion.jobsName" . -}}
{{- $jobs := .Values.jobs }}

   kubectl --namespace {{ .Release.Namespace }} port-forward service/{{ $name }} 8081:80
   # In another terminal:
   curl --fail-with-body http://127.0.0.1:8081/v1/jobs --header 'Prefer: wait=60' \
   {{- if $jobs.apiKeys.secretName }}
     --header "Authorization: Bearer $JOBS_API_KEY" \
   {{- end }}
     --data '{"model": "{{ (include "stable-diffusion.models" . | fromYaml).models | first | dig "name" "" }}", "prompt": "a lighthouse at dusk, oil painting"}'

   The response is the job. Once it has succeeded, `pictures` has the URLs of its pictures.
   In the cluster the program is at http://{{ $name }}.{{ .Release.Namespace }}.svc.
   {{- range $kind := list "route" "ingress" }}
   {{- with index $jobs $kind }}
   {{- if .enabled }}
   The {{ ternary "HTTPRoute" "Ingress" (eq $kind "route") }} leads to it from outside: {{ default (list "any host") .hosts | join ", " }}.
   {{- end }}
   {{- end }}
   {{- end }}
   {{- if $jobs.redis.secretName }}
   The jobs are in the Redis of the secret {{ $jobs.redis.secretName }}. Use `appendonly yes` and
   `maxmemory-policy noeviction` there, or jobs can be lost.
   {{- else if $jobs.valkey.enabled }}
   The jobs are in {{ include "stable-diffusion.valkeyName" . }}, on its claim. If its node fails, at most the last
   second of changes is lost.
   {{- else }}
   The jobs are in an SQLite file on the claim {{ $name }}. If its node fails, at most the last
   commits are lost. During an update no job is accepted.
   {{- end }}
   {{- with $jobs.bucket.url }}
   Their pictures are in {{ . }}.
   {{- end }}
   {{- if $jobs.apiKeys.secretName }}
   Callers need a key of the secret {{ $jobs.apiKeys.secretName }}, and see only their own jobs.
   {{- else }}
   Everyone who can connect sees all jobs: jobs.apiKeys.secretName is not set.
   {{- end }}
   {{- if $jobs.webhooks.secretName }}
   Webhooks are signed with the secret {{ $jobs.webhooks.secretName }}.
   {{- else }}
   Jobs with a webhook are rejected: jobs.webhooks.secretName is not set.
   {{- end }}
{{- end -}}

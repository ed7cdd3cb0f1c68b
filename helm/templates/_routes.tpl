{{/* The port of the Services: that of the jobs program, and those that KServe creates in Standard mode. */}}
{{- define "stable-diffusion.servicePort" -}}80{{- end -}}

{{/* The time limit of a route in seconds; 0 for none. */}}
{{- define "stable-diffusion.routeTimeout" -}}
{{- $own := .Values.predictor.route.timeoutSeconds -}}
{{- ternary .Values.predictor.timeoutSeconds $own (kindIs "invalid" $own) | int64 -}}
{{- end -}}

{{/* Rejects routes of one model that could not work, with the values of that model. */}}
{{- define "stable-diffusion.validateRoutes" -}}
{{- $predictor := .Values.predictor -}}
{{- range $kind := list "route" "ingress" -}}
{{- if and (index $predictor $kind).enabled (eq $predictor.deploymentMode "Knative") -}}
{{- fail (printf "predictor.%s.enabled: with deploymentMode Knative, Knative creates the routes of an InferenceService. Use its own settings for domains and TLS, or deploymentMode Standard" $kind) -}}
{{- end -}}
{{- end -}}
{{- include "stable-diffusion.validateParents" (dict "route" $predictor.route "where" "predictor.route") -}}
{{- end -}}

{{/* Call it with a dict of `route` and `where`. */}}
{{- define "stable-diffusion.validateParents" -}}
{{- if and .route.enabled (not .route.parentRefs) -}}
{{- fail (printf "%s.parentRefs is empty: name the Gateway that the route belongs to, as in [{name: public, namespace: gateways}]" .where) -}}
{{- end -}}
{{- end -}}

{{/* Rejects two routes with the same host: the path does not always name the model, or the program. */}}
{{- define "stable-diffusion.validateHosts" -}}
{{- $seen := dict -}}
{{- range $model := (include "stable-diffusion.services" . | fromYaml).services -}}
{{- $values := include "stable-diffusion.valuesFor" (dict "root" $ "model" $model) | fromYaml -}}
{{- range $kind := list "route" "ingress" -}}
{{- $route := index $values.predictor $kind -}}
{{- range $host := ternary (default (list "*") $route.hosts) list (default false $route.enabled) -}}
{{- $key := printf "%s %s" $kind $host -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "predictor.%s.hosts: %s and %s would both have the host %s: set predictor.%s.hosts of each entry of models" $kind (index $seen $key) $model.service $host $kind) -}}
{{- end -}}
{{- $_ := set $seen $key $model.service -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $jobs := default dict .Values.jobs -}}
{{- range $kind := ternary (list "route" "ingress") list (default false $jobs.enabled) -}}
{{- $route := index $jobs $kind -}}
{{- range $host := ternary (default (list "*") $route.hosts) list $route.enabled -}}
{{- with get $seen (printf "%s %s" $kind $host) -}}
{{- fail (printf "jobs.%s.hosts: %s and the jobs program would both have the host %s: set another one" $kind . $host) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* An HTTPRoute. Call it with a dict of `root`, `name`, `component`, `route` (its values), `backends` and `timeout` in seconds, 0 for none. */}}
{{- define "stable-diffusion.httpRoute" -}}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ .name }}-route
  labels:
    {{- include "stable-diffusion.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- with .route.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  parentRefs:
    {{- toYaml .route.parentRefs | nindent 4 }}
  {{- with .route.hosts }}
  hostnames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    - backendRefs:
        {{- toYaml .backends | nindent 8 }}
      {{- with int64 .timeout }}
      timeouts:
        request: {{ . }}s
      {{- end }}
{{- end -}}

{{/* An Ingress. Call it with a dict of `root`, `name`, `component`, `ingress` (its values) and `backend`, the name of a Service with port 80. */}}
{{- define "stable-diffusion.ingress" -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .name }}-ingress
  labels:
    {{- include "stable-diffusion.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  {{- with .ingress.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .ingress.className }}
  ingressClassName: {{ toYaml . }}
  {{- end }}
  {{- with .ingress.tlsSecretName }}
  tls:
    - secretName: {{ toYaml . }}
      {{- with $.ingress.hosts }}
      hosts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- end }}
  rules:
    {{- range $host := default (list "") .ingress.hosts }}
    - http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ $.backend }}
                port:
                  number: {{ include "stable-diffusion.servicePort" $ }}
      {{- with $host }}
      host: {{ quote . }}
      {{- end }}
    {{- end }}
{{- end -}}

{{/* The port of the Service that KServe creates for a predictor in Standard mode. */}}
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
{{- if and $predictor.route.enabled (not $predictor.route.parentRefs) -}}
{{- fail "predictor.route.parentRefs is empty: name the Gateway that the route belongs to, as in [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- end -}}

{{/* Rejects two models with the same host: the path does not always name the model. */}}
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
{{- end -}}

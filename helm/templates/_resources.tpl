{{/*
Resources with quantities as text, as the API server stores them. KServe's webhook changes `1` to "1", and
`kubectl apply` would report a change every time. Call it with a dict of `resources` and `where`.
*/}}
{{- define "stable-diffusion.resources" -}}
{{- include "stable-diffusion.validateResources" . -}}
{{- $written := dict -}}
{{- range $section, $quantities := .resources -}}
{{- $texts := dict -}}
{{- range $name, $quantity := $quantities -}}
{{- $_ := set $texts $name (toString $quantity) -}}
{{- end -}}
{{- $_ := set $written $section $texts -}}
{{- end -}}
{{- toYaml $written -}}
{{- end -}}

{{/* Rejects a container that lacks one of the four values that KServe would fill in. */}}
{{- define "stable-diffusion.validateResources" -}}
{{- $where := .where -}}
{{- $resources := .resources -}}
{{- range $name := list "cpu" "memory" -}}
{{- range $section := list "limits" "requests" -}}
{{- if not (hasKey (default dict (get $resources $section)) $name) -}}
{{- fail (printf "%s.%s.%s is not set: set it. Without it a ResourceQuota rejects the pod, and KServe sets its own default for a predictor, 1 CPU or 2Gi" $where $section $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "stable-diffusion.validateRequests" . -}}
{{- end -}}

{{/* Rejects requests that the API server rejects: above the limit or, for devices, different from the limit. */}}
{{- define "stable-diffusion.validateRequests" -}}
{{- $where := .where -}}
{{- $limits := default dict .resources.limits -}}
{{- range $name, $request := default dict .resources.requests -}}
{{- $limit := get $limits $name -}}
{{- if and (contains "/" $name) (ne (toString $request) (toString $limit)) -}}
{{- fail (printf "%s: requests.%s must equal limits.%s: set only the limit" $where $name $name) -}}
{{- end -}}
{{- if and $limit (gt (include "stable-diffusion.quantity" $request | float64) (include "stable-diffusion.quantity" $limit | float64)) -}}
{{- fail (printf "%s: requests.%s is %v and limits.%s is %v: raise the limit or lower the request" $where $name $request $name $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity such as 500m, 1.5, 2e3 or 16Gi as a number. */}}
{{- define "stable-diffusion.quantity" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+(e[0-9]+)?" $text -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (float64 $number) (get $factors (trimPrefix $number $text)) -}}
{{- end -}}

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
{{- $_ := set $texts $name (include "stable-diffusion.quantityText" $quantity) -}}
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
{{- if le (include "stable-diffusion.quantity" (get (get $resources $section) $name) | float64) 0.0 -}}
{{- fail (printf "%s.%s.%s is 0: set more than 0" $where $section $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "stable-diffusion.validateRequests" . -}}
{{- end -}}

{{/* Rejects quantities that the API server rejects: parts of a device, and requests above the limit or, for devices, different from the limit. */}}
{{- define "stable-diffusion.validateRequests" -}}
{{- $where := .where -}}
{{- $limits := default dict .resources.limits -}}
{{- range $name, $limit := $limits -}}
{{- $number := include "stable-diffusion.quantity" $limit | float64 -}}
{{- if and (contains "/" $name) (ne $number (floor $number)) -}}
{{- fail (printf "%s: limits.%s is %s: set a whole number of devices" $where $name (include "stable-diffusion.quantityText" $limit)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $request := default dict .resources.requests -}}
{{- $requested := include "stable-diffusion.quantity" $request | float64 -}}
{{- $limit := include "stable-diffusion.quantity" (get $limits $name) | float64 -}}
{{- if and (contains "/" $name) (or (not (hasKey $limits $name)) (ne $requested $limit)) -}}
{{- fail (printf "%s: requests.%s must equal limits.%s: set only the limit" $where $name $name) -}}
{{- end -}}
{{- if and (hasKey $limits $name) (gt $requested $limit) -}}
{{- fail (printf "%s: requests.%s is %s and limits.%s is %s: raise the limit or lower the request" $where $name (include "stable-diffusion.quantityText" $request) $name (include "stable-diffusion.quantityText" (get $limits $name))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity as text. Helm parses every number as a float and would print 17179869184 as 1.7179869184e+10. */}}
{{- define "stable-diffusion.quantityText" -}}
{{- if kindIs "string" . -}}
{{- . -}}
{{- else -}}
{{- regexReplaceAll "\\.?0+$" (printf "%.9f" (float64 .)) "" -}}
{{- end -}}
{{- end -}}

{{/* A quantity such as 500m, 1.5, 2e3 or 16Gi as a number. */}}
{{- define "stable-diffusion.quantity" -}}
{{- $text := include "stable-diffusion.quantityText" . -}}
{{- $number := regexFind "^[+]?[0-9.]+([eE][+-]?[0-9]+)?" $text -}}
{{- $factors := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (float64 $number) (get $factors (trimPrefix $number $text)) -}}
{{- end -}}

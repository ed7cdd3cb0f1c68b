{{/* The ports that the Job connects to, separated by commas: 443, and those of the endpoints. */}}
{{- define "stable-diffusion.downloadPorts" -}}
{{- $ports := list "443" -}}
{{- range list .Values.huggingface.endpoint .Values.s3.endpoint -}}
{{- if . -}}
{{- $url := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
{{- $ports = append $ports (default (ternary "80" "443" (eq $url.scheme "http")) $port) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | join "," -}}
{{- end -}}

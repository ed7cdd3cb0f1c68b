{{/* The certificates to trust: a volume, its mount and the variables that name the file. All are empty without `caBundle`. */}}
{{- define "stable-diffusion.caBundleVolume" -}}
{{- $bundle := default dict .Values.caBundle -}}
{{- $items := list (dict "key" (default "ca.crt" $bundle.key) "path" "ca.crt") -}}
{{- if and $bundle.configMap $bundle.secretName -}}
{{- fail "caBundle: configMap and secretName are both set: set one of the two" -}}
{{- end -}}
{{- if $bundle.configMap -}}
- name: ca-bundle
  configMap:
    name: {{ toYaml $bundle.configMap }}
    items:
      {{- toYaml $items | nindent 6 }}
{{- else if $bundle.secretName -}}
- name: ca-bundle
  secret:
    secretName: {{ toYaml $bundle.secretName }}
    items:
      {{- toYaml $items | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "stable-diffusion.caBundleMount" -}}
{{- if include "stable-diffusion.caBundleVolume" . -}}
- name: ca-bundle
  mountPath: /etc/ca-bundle
  readOnly: true
{{- end -}}
{{- end -}}

{{/* OpenSSL and httpx read the first, requests and botocore the second. */}}
{{- define "stable-diffusion.caBundleEnv" -}}
{{- if include "stable-diffusion.caBundleVolume" . -}}
- name: SSL_CERT_FILE
  value: /etc/ca-bundle/ca.crt
- name: REQUESTS_CA_BUNDLE
  value: /etc/ca-bundle/ca.crt
{{- end -}}
{{- end -}}

{{/*
Rejects volumes and mounts of the values that collide with others of the pod. The chart renders its own mounts first. Call it
with a dict of `pod` (the complete spec), `own` (the values with `volumes` and `volumeMounts`) and `where`.
*/}}
{{- define "stable-diffusion.validateVolumes" -}}
{{- $where := .where -}}
{{- /* KServe adds these with storage.mount storage-uri, for a claim and for an image. */ -}}
{{- $added := list "kserve-pvc-source" "mnt-models" -}}
{{- $names := list -}}
{{- range .pod.volumes -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range $volume := .own.volumes -}}
{{- if or (has $volume.name $added) (gt (sub (len $names) (len (without $names $volume.name))) 1) -}}
{{- fail (printf "%s.volumes: the pod has another volume with the name %s: choose another name" $where $volume.name) -}}
{{- end -}}
{{- end -}}
{{- $mounts := (first .pod.containers).volumeMounts -}}
{{- $ownMounts := default list .own.volumeMounts -}}
{{- $taken := list "/mnt/models" -}}
{{- range slice $mounts 0 (sub (len $mounts) (len $ownMounts)) -}}
{{- $taken = append $taken .mountPath -}}
{{- end -}}
{{- $chosen := list -}}
{{- range $ownMounts -}}
{{- $path := clean .mountPath -}}
{{- if not (has .name $names) -}}
{{- fail (printf "%s.volumeMounts: the pod has no volume with the name %s: add it to %s.volumes" $where .name $where) -}}
{{- end -}}
{{- if has $path $chosen -}}
{{- fail (printf "%s.volumeMounts: %s is there twice: remove one of the two" $where $path) -}}
{{- end -}}
{{- $chosen = append $chosen $path -}}
{{- range $taken -}}
{{- $hides := hasPrefix (printf "%s/" (trimSuffix "/" $path)) (printf "%s/" .) -}}
{{- /* Only in the scratch space can a pod create the folder to mount on. */ -}}
{{- if or $hides (and (ne . "/tmp") (hasPrefix (printf "%s/" .) $path)) -}}
{{- fail (printf "%s.volumeMounts: %s collides with %s, where the chart mounts its own volume: choose another path" $where $path .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rejects volumes that Knative rejects, with or without its flags. Call it with `predictor`. */}}
{{- define "stable-diffusion.validateKnativeVolumes" -}}
{{- $mounted := list -}}
{{- range .volumeMounts -}}
{{- $mounted = append $mounted .name -}}
{{- if has (clean .mountPath) (list "/dev" "/dev/log") -}}
{{- fail (printf "predictor.volumeMounts: Knative rejects a mount at %s: choose another path" .mountPath) -}}
{{- end -}}
{{- end -}}
{{- range $volume := .volumes -}}
{{- if not (has .name $mounted) -}}
{{- fail (printf "predictor.volumes: %s is not mounted, and Knative rejects volumes without a mount: add it to predictor.volumeMounts" .name) -}}
{{- end -}}
{{- range $kind := list "downwardAPI" "nfs" -}}
{{- if hasKey $volume $kind -}}
{{- fail (printf "predictor.volumes: %s is of the kind %s, which Knative rejects: use another kind, or deploymentMode Standard" $volume.name $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Job's name: a fixed one, or one that changes with the Job's content. */}}
{{- define "stable-diffusion.jobName" -}}
{{- $hash := include "stable-diffusion.jobSpec" . | sha256sum | trunc 8 -}}
{{- default (printf "%s-download-%s" (include "stable-diffusion.fullname" .) $hash) .Values.downloader.jobName -}}
{{- end -}}

{{/* The spec of the Job, separate because its hash is part of the name. */}}
{{- define "stable-diffusion.jobSpec" -}}
{{- include "stable-diffusion.validateDownloaderEnv" . -}}
{{- $env := include "stable-diffusion.env" (dict "own" (include "stable-diffusion.downloaderEnv" .) "env" .Values.downloader.env "where" "downloader.env") -}}
{{- $specFile := include "stable-diffusion.specFile" . -}}
backoffLimit: {{ int64 .Values.downloader.backoffLimit }}
activeDeadlineSeconds: {{ int64 .Values.downloader.activeDeadlineSeconds }}
{{- if not (kindIs "invalid" .Values.downloader.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int64 .Values.downloader.ttlSecondsAfterFinished }}
{{- end }}
podFailurePolicy:
  rules:
    # A retry cannot fix these: an invalid specification, a rejected token, a missing repository, a
    # full volume, weights that are not safetensors, a volume that the pod may not write to.
    - action: FailJob
      onExitCodes:
        containerName: downloader
        operator: In
        values: [2, 3, 4, 5, 8, 10]
    # Interrupted by a signal: the fetched bytes stay, and the next pod continues.
    - action: Ignore
      onExitCodes:
        containerName: downloader
        operator: In
        values: [9]
    # A drained node does not count as a failure either.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
template:
  metadata:
    labels:
      {{- include "stable-diffusion.labels" . | nindent 6 }}
      app.kubernetes.io/component: downloader
      {{- include "stable-diffusion.validateLabels" (dict "common" .Values.labels "own" .Values.downloader.labels "where" "downloader.labels") }}
      {{- with .Values.downloader.labels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- $isNamedByContent := and $specFile (not .Values.downloader.jobName) }}
    {{- if or $isNamedByContent .Values.downloader.annotations }}
    annotations:
      {{- if $isNamedByContent }}
      # It is part of the content that the name is derived from.
      checksum/model-spec: {{ sha256sum $specFile }}
      {{- end }}
      {{- with .Values.downloader.annotations }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- end }}
  spec:
    restartPolicy: Never
    # It stops within 5 seconds and can resume.
    terminationGracePeriodSeconds: 30
    serviceAccountName: {{ include "stable-diffusion.serviceAccountName" (dict "root" . "component" "downloader") | toYaml }}
    automountServiceAccountToken: false
    {{- with .Values.imagePullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.downloader.nodeSelector }}
    nodeSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.downloader.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.downloader.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.downloader.priorityClassName }}
    priorityClassName: {{ toYaml . }}
    {{- end }}
    securityContext:
      runAsNonRoot: true
      {{- with .Values.security.fsGroup }}
      fsGroup: {{ int64 . }}
      fsGroupChangePolicy: OnRootMismatch
      {{- end }}
      seccompProfile:
        type: RuntimeDefault
    containers:
      - name: downloader
        image: {{ include "stable-diffusion.image" (dict "image" .Values.downloader.image "chart" .Chart) }}
        imagePullPolicy: {{ .Values.downloader.image.pullPolicy }}
        {{- with .Values.downloader.args }}
        args:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        env:
          {{- $env | nindent 10 }}
        resources:
          {{- include "stable-diffusion.resources" (dict "resources" .Values.downloader.resources "where" "downloader.resources") | nindent 10 }}
        securityContext:
          {{- include "stable-diffusion.containerSecurity" . | nindent 10 }}
        # Without a summary, for example after a crash, use the end of the log.
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts:
          - name: models
            mountPath: /mnt/models
          - name: scratch
            mountPath: /tmp
          {{- if $specFile }}
          - name: model-spec
            mountPath: /etc/downloader
            readOnly: true
          {{- end }}
          {{- with include "stable-diffusion.caBundleMount" . }}
          {{- . | nindent 10 }}
          {{- end }}
          {{- with .Values.downloader.volumeMounts }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
    volumes:
      - name: models
        persistentVolumeClaim:
          claimName: {{ include "stable-diffusion.claimName" . | toYaml }}
      - name: scratch
        emptyDir:
          sizeLimit: {{ .Values.downloader.scratchSize }}
      {{- if $specFile }}
      - name: model-spec
        configMap:
          name: {{ include "stable-diffusion.specName" . }}
      {{- end }}
      {{- with include "stable-diffusion.caBundleVolume" . }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .Values.downloader.volumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end -}}

{{- define "stable-diffusion.downloaderEnv" -}}
{{- if include "stable-diffusion.specFile" . -}}
- name: DOWNLOADER_SPEC
  value: /etc/downloader/models.yaml
{{- else -}}
{{- $model := first (include "stable-diffusion.modelsOnClaim" . | fromYaml).models -}}
- name: DOWNLOADER_SOURCE
  value: {{ quote $model.source }}
- name: DOWNLOADER_NAME
  value: {{ quote $model.name }}
{{- if hasKey $model "variant" }}
- name: DOWNLOADER_VARIANT
  value: {{ quote $model.variant }}
{{- end }}
{{- end }}
- name: DOWNLOADER_TARGET
  value: /mnt/models
- name: DOWNLOADER_MAX_WORKERS
  value: {{ .Values.downloader.maxWorkers | int64 | quote }}
- name: HF_HOME
  value: /tmp/huggingface
{{- with .Values.huggingface.endpoint }}
- name: HF_ENDPOINT
  value: {{ quote . }}
{{- end }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "stable-diffusion.secretName" . | toYaml }}
      key: {{ toYaml .Values.huggingface.tokenKey }}
      optional: true
{{- include "stable-diffusion.s3Env" .Values.s3 }}
{{- with include "stable-diffusion.caBundleEnv" . }}
{{ . }}
{{- end }}
{{- end -}}

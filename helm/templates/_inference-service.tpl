{{/* The InferenceService of one model. Call it with the values of that model, and `model`. */}}
{{- define "stable-diffusion.inferenceService" -}}
{{- include "stable-diffusion.validatePredictor" . -}}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {{ .model.service }}
  labels:
    {{- include "stable-diffusion.labels" . | nindent 4 }}
    app.kubernetes.io/component: predictor
    {{- include "stable-diffusion.validateLabels" (dict "common" .Values.labels "own" .Values.predictor.labels "where" "predictor.labels") }}
    {{- with .Values.predictor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  # KServe copies these to the Knative revision or the Deployment.
  annotations:
    {{- $annotations := include "stable-diffusion.predictorAnnotations" . | fromYaml }}
    {{- include "stable-diffusion.merged" (list $annotations .Values.predictor.annotations) | nindent 4 }}
spec:
  {{- $spec := include "stable-diffusion.predictorSpec" . }}
  {{- include "stable-diffusion.validateVolumes" (dict "pod" ($spec | fromYaml) "own" .Values.predictor "where" "predictor") }}
  predictor:
    {{- $spec }}
  {{- include "stable-diffusion.canary" . }}
{{- end -}}

{{/* The fields of the predictor in the InferenceService. */}}
{{- define "stable-diffusion.predictorSpec" -}}
{{- $isKnative := eq .Values.predictor.deploymentMode "Knative" -}}
{{- $scaling := .Values.predictor.scaling }}
    minReplicas: {{ int64 $scaling.minReplicas }}
    maxReplicas: {{ int64 $scaling.maxReplicas }}
    {{- with $isKnative | ternary (default "concurrency" $scaling.scaleMetric) $scaling.scaleMetric }}
    scaleMetric: {{ . }}
    {{- end }}
    {{- with include "stable-diffusion.scaleTarget" . }}
    scaleTarget: {{ . }}
    {{- end }}
    {{- if and (not $isKnative) (eq $scaling.autoscalerClass "keda") }}
    autoScaling:
      metrics:
        {{- include "stable-diffusion.kedaMetrics" . | nindent 8 }}
    {{- end }}
    timeout: {{ int64 .Values.predictor.timeoutSeconds }}
    serviceAccountName: {{ include "stable-diffusion.serviceAccountName" (dict "root" . "component" "predictor") | toYaml }}
    automountServiceAccountToken: false
    {{- if $isKnative }}
    # More than the engine's batch, so that the next one waits in the pod.
    containerConcurrency: {{ include "stable-diffusion.containerConcurrency" . }}
    {{- if not (kindIs "invalid" .Values.predictor.canaryTrafficPercent) }}
    canaryTrafficPercent: {{ int64 .Values.predictor.canaryTrafficPercent }}
    {{- end }}
    {{- with include "stable-diffusion.cacheGroup" . }}
    # The kubelet gives the new claim of the cache to this group.
    securityContext:
      fsGroup: {{ . }}
    {{- end }}
    {{- else }}
    {{- with .Values.predictor.deploymentStrategy }}
    deploymentStrategy:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    # Stock Knative rejects these two, and gives the pod `timeout` seconds to stop.
    terminationGracePeriodSeconds: {{ include "stable-diffusion.gracePeriodSeconds" . }}
    securityContext:
      runAsNonRoot: true
      {{- with include "stable-diffusion.cacheGroup" . }}
      fsGroup: {{ . }}
      fsGroupChangePolicy: OnRootMismatch
      {{- end }}
      seccompProfile:
        type: RuntimeDefault
    {{- end }}
    {{- with .Values.imagePullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.predictor.nodeSelector }}
    nodeSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.predictor.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.predictor.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .Values.predictor.topologySpreadConstraints }}
    topologySpreadConstraints:
      {{- include "stable-diffusion.topologySpread" . | nindent 6 }}
    {{- end }}
    {{- with .Values.predictor.runtimeClassName }}
    runtimeClassName: {{ toYaml . }}
    {{- end }}
    {{- with .Values.predictor.priorityClassName }}
    priorityClassName: {{ toYaml . }}
    {{- end }}
    {{- with .Values.predictor.resourceClaims }}
    resourceClaims:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    containers:
      - {{ include "stable-diffusion.predictorContainer" . | nindent 8 | trim }}
    volumes:
      - name: scratch
        emptyDir:
          sizeLimit: {{ .Values.predictor.scratchSize }}
      {{- if eq .Values.storage.mount "volume" }}
      - name: models
        {{- include "stable-diffusion.modelsVolume" . | nindent 8 }}
      {{- end }}
      {{- with .Values.predictor.blockList.configMap }}
      - name: block-list
        configMap:
          name: {{ toYaml . }}
      {{- end }}
      {{- with include "stable-diffusion.cacheClaim" . }}
      - name: cache
        persistentVolumeClaim:
          claimName: {{ toYaml . }}
      {{- end }}
      {{- if .Values.predictor.apiKeys.secretName }}
      - name: api-keys
        secret:
          secretName: {{ toYaml .Values.predictor.apiKeys.secretName }}
          items:
            - key: {{ toYaml .Values.predictor.apiKeys.key }}
              path: api-keys
      {{- end }}
      {{- with include "stable-diffusion.caBundleVolume" . }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .Values.predictor.volumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end -}}

{{/* The annotations that KServe copies to the Knative revision or the Deployment. */}}
{{- define "stable-diffusion.predictorAnnotations" -}}
{{- $scaling := .Values.predictor.scaling -}}
serving.kserve.io/deploymentMode: {{ .Values.predictor.deploymentMode }}
{{- if eq .Values.predictor.deploymentMode "Knative" }}
{{- if ne $scaling.scaleMetric "rps" }}
autoscaling.knative.dev/target-utilization-percentage: {{ include "stable-diffusion.targetUtilization" . | quote }}
{{- end }}
autoscaling.knative.dev/scale-to-zero-pod-retention-period: {{ $scaling.podRetentionPeriod }}
serving.knative.dev/progress-deadline: {{ .Values.predictor.progressDeadline }}
{{- include "stable-diffusion.validateRequests" (dict "resources" .Values.predictor.queueProxyResources "where" "predictor.queueProxyResources") }}
{{- range $section, $quantities := .Values.predictor.queueProxyResources }}
{{- range $name, $quantity := $quantities }}
queue.sidecar.serving.knative.dev/{{ $name }}-resource-{{ trimSuffix "s" $section }}: {{ include "stable-diffusion.quantityText" $quantity | quote }}
{{- end }}
{{- end }}
{{- else }}
serving.kserve.io/autoscalerClass: {{ $scaling.autoscalerClass }}
{{- end }}
{{- end -}}

{{- define "stable-diffusion.predictorContainer" -}}
{{- $env := include "stable-diffusion.env" (dict "own" (include "stable-diffusion.predictorEnv" .) "env" .Values.predictor.env "where" "predictor.env") -}}
name: kserve-container
image: {{ include "stable-diffusion.image" (dict "image" .Values.predictor.image "chart" .Chart) }}
imagePullPolicy: {{ .Values.predictor.image.pullPolicy }}
args:
  {{- with .model.name }}
  - --model_name={{ . }}
  {{- end }}
  - --http_port=8080
  {{- if .Values.predictor.grpc.enabled }}
  - --enable_grpc=true
  - --grpc_port=8081
  {{- end }}
  {{- range .Values.predictor.args }}
  - {{ quote . }}
  {{- end }}
env:
  {{- $env | nindent 2 }}
ports:
  - name: http1
    containerPort: 8080
    protocol: TCP
  {{- if .Values.predictor.grpc.enabled }}
  - name: grpc
    containerPort: 8081
    protocol: TCP
  {{- end }}
{{ include "stable-diffusion.probes" . }}
resources:
  {{- include "stable-diffusion.resources" (dict "resources" .Values.predictor.resources "where" "predictor.resources") | nindent 2 }}
  {{- with .Values.predictor.resourceClaims }}
  claims:
    {{- range . }}
    - name: {{ .name }}
    {{- end }}
  {{- end }}
securityContext:
  {{- include "stable-diffusion.containerSecurity" . | nindent 2 }}
# If the model cannot be served, the process logs one message and ends.
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - name: scratch
    mountPath: /tmp
  {{- if eq .Values.storage.mount "volume" }}
  - name: models
    mountPath: /mnt/models
    {{- if include "stable-diffusion.modelImage" .model }}
    # The folder of the image that KServe mounts too.
    subPath: models
    {{- end }}
    readOnly: true
  {{- end }}
  {{- if .Values.predictor.blockList.configMap }}
  # The whole folder, because a file that is mounted by subPath never changes.
  - name: block-list
    mountPath: /etc/predictor
    readOnly: true
  {{- end }}
  {{- if include "stable-diffusion.cacheClaim" . }}
  - name: cache
    mountPath: /var/cache/predictor
    subPath: {{ toYaml .Values.predictor.cache.subPath }}
  {{- end }}
  {{- if .Values.predictor.apiKeys.secretName }}
  - name: api-keys
    mountPath: /etc/predictor-keys
    readOnly: true
  {{- end }}
  {{- with include "stable-diffusion.caBundleMount" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.predictor.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "stable-diffusion.predictorEnv" -}}
{{- if eq .Values.storage.mount "storage-uri" -}}
# KServe mounts the root of the volume read-only at /mnt/models.
- name: STORAGE_URI
  value: {{ include "stable-diffusion.storageUri" . }}
{{ end -}}
{{ include "stable-diffusion.cacheEnv" . }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- range $name, $value := include "stable-diffusion.settings" . | fromYaml }}
- name: PREDICTOR_{{ upper $name }}
  value: {{ include "stable-diffusion.envValue" $value | quote }}
{{- end }}
{{- if .Values.predictor.blockList.configMap }}
- name: PREDICTOR_BLOCK_LIST_FILE
  value: /etc/predictor/{{ .Values.predictor.blockList.key }}
{{- end }}
{{- if include "stable-diffusion.cacheClaim" . }}
- name: PREDICTOR_CACHE_DIR
  value: /var/cache/predictor
{{- end }}
{{- if .Values.predictor.apiKeys.secretName }}
- name: PREDICTOR_API_KEYS_FILE
  value: /etc/predictor-keys/api-keys
{{- end }}
{{- with .Values.predictor.rateLimitStorage }}
{{- if .secretName }}
- name: PREDICTOR_RATE_LIMIT_STORAGE
  valueFrom:
    secretKeyRef:
      name: {{ toYaml .secretName }}
      key: {{ toYaml .key }}
{{- end }}
{{- end }}
{{- with include "stable-diffusion.caBundleEnv" . }}
{{ . }}
{{- end }}
# torch counts the CPUs of the node; more threads than the CPU limit would stall each other.
- name: OMP_NUM_THREADS
  value: {{ include "stable-diffusion.quantity" .Values.predictor.resources.limits.cpu | float64 | ceil | int64 | quote }}
{{- end -}}

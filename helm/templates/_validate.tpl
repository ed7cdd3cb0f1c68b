{{/* Rejects values that KServe or Knative would reject later, or silently change: the values that all models share. */}}
{{- define "stable-diffusion.validate" -}}
{{- $models := (include "stable-diffusion.models" . | fromYaml).models -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" (include "stable-diffusion.fullname" .)) -}}
{{- fail (printf "%q is not a valid name for KServe. Use lowercase letters, digits and '-', and begin with a letter: set fullnameOverride" (include "stable-diffusion.fullname" .)) -}}
{{- end -}}
{{- include "stable-diffusion.validateStorage" . -}}
{{- include "stable-diffusion.validateHosts" . -}}
{{- $seen := dict -}}
{{- range $models -}}
{{- if and $.Values.sharedPredictor .predictor -}}
{{- fail (printf "models: %q has its own predictor values, but with sharedPredictor all models share one predictor: set the values in predictor" .name) -}}
{{- end -}}
{{- if and (hasKey $seen .service) (not $.Values.sharedPredictor) -}}
{{- fail (printf "models: %q and %q would both be served as InferenceService %s: choose names that differ in letters or digits within the first 40 characters of the full name" (index $seen .service) .name .service) -}}
{{- end -}}
{{- $_ := set $seen .service .name -}}
{{- include "stable-diffusion.validateSources" . -}}
{{- end -}}
{{- end -}}

{{/* The same for one model, with the values of that model. */}}
{{- define "stable-diffusion.validatePredictor" -}}
{{- $predictor := .Values.predictor -}}
{{- $scaling := $predictor.scaling -}}
{{- if gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas) -}}
{{- fail "predictor.scaling.minReplicas exceeds predictor.scaling.maxReplicas" -}}
{{- end -}}
{{- if and $predictor.rateLimitStorage.secretName .Values.networkPolicy.enabled (not .Values.networkPolicy.predictorEgress) -}}
{{- fail "predictor.rateLimitStorage: the network policy lets the predictor connect to nothing. Allow the Redis and the name servers in networkPolicy.predictorEgress" -}}
{{- end -}}
{{- range $name, $value := $predictor.settings -}}
{{- if and (hasPrefix "key_" $name) $value (not $predictor.apiKeys.secretName) -}}
{{- fail (printf "predictor.settings.%s: a limit per key requires keys. Set predictor.apiKeys.secretName, or limit addresses with address_%s" $name (trimPrefix "key_" $name)) -}}
{{- end -}}
{{- end -}}
{{- $mode := default $predictor.deploymentMode (get (default dict $predictor.annotations) "serving.kserve.io/deploymentMode") -}}
{{- /* KServe before 0.16 knows the modes by their former names only. */ -}}
{{- $formerNames := dict "Serverless" "Knative" "RawDeployment" "Standard" -}}
{{- with get $formerNames $predictor.deploymentMode -}}
{{- fail (printf "predictor.deploymentMode: %s is called %s since KServe 0.16: set %s" $predictor.deploymentMode . .) -}}
{{- end -}}
{{- include "stable-diffusion.validatePredictorEnv" $predictor -}}
{{- include "stable-diffusion.validateArgs" $predictor -}}
{{- if ne (default $mode (get $formerNames $mode)) $predictor.deploymentMode -}}
{{- fail (printf "predictor.annotations: serving.kserve.io/deploymentMode is %s and predictor.deploymentMode is %s: remove the annotation" $mode $predictor.deploymentMode) -}}
{{- end -}}
{{- include "stable-diffusion.validateRoutes" . -}}
{{- include "stable-diffusion.validateCanary" . -}}
{{- if eq $predictor.deploymentMode "Knative" -}}
{{- include "stable-diffusion.validateKnative" . -}}
{{- else -}}
{{- include "stable-diffusion.validateStandard" . -}}
{{- end -}}
{{- end -}}

{{/* Rejects flags that the chart sets from other values. */}}
{{- define "stable-diffusion.validateArgs" -}}
{{- $advice := dict "model-name" "use model.name" "model-dir" "use model.name" "http-port" "remove it, because the probes use port 8080" "enable-grpc" "use predictor.grpc.enabled" "grpc-port" "use predictor.grpc.enabled" "ssl-certfile" "remove it, because the probes use HTTP: terminate TLS at the gateway" -}}
{{- range .args -}}
{{- $flag := splitList "=" . | first | trimPrefix "--" | replace "_" "-" -}}
{{- with get $advice $flag -}}
{{- fail (printf "predictor.args: --%s: %s" $flag .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rejects labels of one kind of object that repeat the labels of all objects: a mapping can have each key only once. */}}
{{- define "stable-diffusion.validateLabels" -}}
{{- range $name, $_ := .own -}}
{{- if hasKey (default dict $.common) $name -}}
{{- fail (printf "%s: %s is also in labels, which all objects get: remove it from one of the two" $.where $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rejects a repository of the hub without its scheme, in a model or one of its parts, and KServe's schemes. */}}
{{- define "stable-diffusion.validateSources" -}}
{{- $sources := list .source .refiner .safety_classifier -}}
{{- range concat (default list .adapters) (default list .controlnets) (default list .embeddings) -}}
{{- $sources = append $sources .source -}}
{{- end -}}
{{- range compact $sources -}}
{{- if not (contains "://" .) -}}
{{- fail (printf "%q is not a source: write hf://%s for a repository of the Hugging Face Hub" . .) -}}
{{- else if hasPrefix "oci://" . -}}
{{- fail (printf "%q is not a source: write oci+native://%s for an image with a published model" . (trimPrefix "oci://" .)) -}}
{{- else if hasPrefix "pvc://" . -}}
{{- fail (printf "%q is not a source: set the name of the claim in storage.existingClaim" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A duration such as 1h30m in seconds. */}}
{{- define "stable-diffusion.seconds" -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9.]+[hms]" . -1 -}}
{{- $factor := get (dict "h" 3600.0 "m" 60.0 "s" 1.0) (regexFind "[hms]" .) -}}
{{- $seconds = addf $seconds (mulf (regexFind "[0-9.]+" . | float64) $factor) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- define "stable-diffusion.validateKnative" -}}
{{- $scaling := .Values.predictor.scaling -}}
{{- $shutdown := include "stable-diffusion.shutdownSeconds" . | int64 -}}
{{- $stop := add (include "stable-diffusion.secondsAroundShutdown" .) (max 1 $shutdown) -}}
{{- if .Values.predictor.grpc.enabled -}}
{{- fail "predictor.grpc.enabled: Knative routes requests to a single port of a container, which is the HTTP port. Use deploymentMode Standard, or the same protocol over REST" -}}
{{- end -}}
{{- if not (has $scaling.scaleMetric (list "" "concurrency" "rps")) -}}
{{- fail (printf "predictor.scaling.scaleMetric is %q: with deploymentMode Knative use concurrency or rps" $scaling.scaleMetric) -}}
{{- end -}}
{{- if and (eq $scaling.scaleMetric "rps") (not $scaling.scaleTarget) -}}
{{- fail "predictor.scaling.scaleTarget: scaleMetric rps requires the target requests per second for each pod" -}}
{{- end -}}
{{- if and (ne $scaling.scaleMetric "rps") $scaling.scaleTarget -}}
{{- fail "predictor.scaling.scaleTarget: the target of concurrency is predictor.concurrency: set that instead" -}}
{{- end -}}
{{- if lt (int64 .Values.predictor.timeoutSeconds) $stop -}}
{{- fail (printf "predictor.timeoutSeconds must be at least %d: with deploymentMode Knative the kubelet kills a stopping pod after this time, and the pod needs 30 s for queue-proxy, then drain_seconds, shutdown_seconds and 15 s" $stop) -}}
{{- end -}}
{{- if gt (include "stable-diffusion.seconds" $scaling.podRetentionPeriod | float64) 3600.0 -}}
{{- fail (printf "predictor.scaling.podRetentionPeriod is %s: Knative rejects more than 1h. Set minReplicas to 1 to keep a pod" $scaling.podRetentionPeriod) -}}
{{- end -}}
{{- $deadline := include "stable-diffusion.seconds" .Values.predictor.progressDeadline | float64 -}}
{{- if or (lt $deadline 1.0) (ne $deadline (floor $deadline)) -}}
{{- fail (printf "predictor.progressDeadline is %s: Knative requires whole seconds, at least 1s" .Values.predictor.progressDeadline) -}}
{{- end -}}
{{- if .Values.predictor.resourceClaims -}}
{{- fail "predictor.resourceClaims: Knative rejects claims of devices. Use deploymentMode Standard, or a device plugin and predictor.resources.limits" -}}
{{- end -}}
{{- include "stable-diffusion.validateKnativeVolumes" .Values.predictor -}}
{{- range .Values.predictor.env -}}
{{- if has .name (list "PORT" "K_SERVICE" "K_CONFIGURATION" "K_REVISION") -}}
{{- fail (printf "predictor.env: Knative sets %s itself and rejects it here: remove it, or use deploymentMode Standard" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stable-diffusion.validateStandard" -}}
{{- $scaling := .Values.predictor.scaling -}}
{{- $class := $scaling.autoscalerClass -}}
{{- $ownMetric := and (eq $class "keda") $scaling.prometheusAddress (not $scaling.metrics) -}}
{{- if and (eq (int64 $scaling.minReplicas) 0) (not (has $class (list "keda" "external"))) -}}
{{- fail (printf "predictor.scaling.minReplicas is 0: with deploymentMode Standard and autoscalerClass %s nothing can scale from zero. Use 1, or autoscalerClass keda or external" $class) -}}
{{- end -}}
{{- if and (eq (int64 $scaling.minReplicas) 0) $ownMetric -}}
{{- fail "predictor.scaling.minReplicas is 0: without pods there is no metric of pictures, so prometheusAddress cannot scale from zero. Use 1, or scale on a metric of the gateway in predictor.scaling.metrics" -}}
{{- end -}}
{{- if and (eq $class "hpa") (not (has $scaling.scaleMetric (list "" "cpu" "memory"))) -}}
{{- fail (printf "predictor.scaling.scaleMetric is %q: with autoscalerClass hpa use cpu or memory" $scaling.scaleMetric) -}}
{{- end -}}
{{- if and (eq $class "keda") (or $scaling.scaleMetric (not (or $scaling.metrics $scaling.prometheusAddress))) -}}
{{- fail "predictor.scaling: autoscalerClass keda scales on metrics or prometheusAddress, not on scaleMetric: set one of these two and leave scaleMetric empty" -}}
{{- end -}}
{{- end -}}

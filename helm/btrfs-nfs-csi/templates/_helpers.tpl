{{- define "bnc.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 52 characters leave room for the longest suffix in 63. */}}
{{- define "bnc.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "bnc.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bnc.controller" -}}{{ include "bnc.fullname" . }}-controller{{- end }}
{{- define "bnc.node" -}}{{ include "bnc.fullname" . }}-node{{- end }}

{{- define "bnc.controllerServiceAccount" -}}
{{- default (include "bnc.controller" .) .Values.controller.serviceAccount.name }}
{{- end }}

{{- define "bnc.nodeServiceAccount" -}}
{{- default (include "bnc.node" .) .Values.node.serviceAccount.name }}
{{- end }}

{{- define "bnc.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "bnc.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bnc.selectorLabels" -}}
app.kubernetes.io/name: {{ include "bnc.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Takes a list: an image's values, and the tag that stands for an empty one. */}}
{{- define "bnc.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) }}
{{- end }}
{{- end }}

{{- define "bnc.ownTag" -}}v{{ .Chart.AppVersion }}{{- end }}

{{- define "bnc.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Of livenessprobe's call to the driver: 1 s if not said. Shorter than timeoutSeconds of the probes that wait for it. */}}
{{- define "bnc.probeTimeout" -}}--probe-timeout=8s{{- end }}

{{- /* livenessprobe answers 500 not only when a driver is silent but also when it says that it is not ready ("driver responded but
     is not ready", cmd/livenessprobe/main.go). What a driver misses before it is ready for the first time, a restart does not bring:
     until then the startup probe is asked, which waits an hour. A driver that was ready once stays so (shared/csiserver/identity.go).
     Takes the address to ask, or nothing for the pod's. */}}
{{- define "bnc.driverProbes" -}}
startupProbe:
  httpGet: { {{- with . }}host: {{ . }}, {{ end }}path: /healthz, port: health}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: 720
livenessProbe:
  httpGet: { {{- with . }}host: {{ . }}, {{ end }}path: /healthz, port: health}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 5
{{- end }}

{{- /* How long a driver lets calls finish, of the seconds until the kubelet kills it: the rest is for what is cut off then. */}}
{{- define "bnc.drain" -}}{{ max 1 (div (mul 2 .) 3) }}s{{- end }}

{{- define "bnc.hasAgentCA" -}}
{{- if or .Values.agentTLS.ca .Values.agentTLS.existingCAConfigMap }}true{{ end }}
{{- end }}

{{- define "bnc.agentTLSEnv" -}}
{{- if include "bnc.hasAgentCA" . }}
- {name: DRIVER_AGENT_CA, value: /etc/agent-ca/ca.crt}
{{- end }}
{{- if .Values.agentTLS.clientCertSecret }}
- {name: DRIVER_AGENT_CERT, value: /etc/agent-client/tls.crt}
- {name: DRIVER_AGENT_KEY, value: /etc/agent-client/tls.key}
{{- end }}
{{- end }}

{{- define "bnc.agentTLSMounts" -}}
{{- if include "bnc.hasAgentCA" . }}
- {name: agent-ca, mountPath: /etc/agent-ca, readOnly: true}
{{- end }}
{{- if .Values.agentTLS.clientCertSecret }}
- {name: agent-client, mountPath: /etc/agent-client, readOnly: true}
{{- end }}
{{- end }}

{{- define "bnc.agentTLSVolumes" -}}
{{- if include "bnc.hasAgentCA" . }}
- name: agent-ca
  configMap:
    name: {{ default (printf "%s-agent-ca" (include "bnc.fullname" .)) .Values.agentTLS.existingCAConfigMap }}
{{- end }}
{{- with .Values.agentTLS.clientCertSecret }}
- name: agent-client
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- /* A sidecar of the controller. Takes a dict: root, name, key (in sidecars), port, threads (its flag), args. */}}
{{- define "bnc.controllerSidecar" -}}
{{- $values := index .root.Values.sidecars .key -}}
- name: {{ .name }}
  image: {{ include "bnc.image" (list $values.image "") }}
  imagePullPolicy: {{ .root.Values.imagePullPolicy }}
  args:
    - --csi-address=/csi/csi.sock
    - --leader-election
    - --leader-election-namespace=$(NAMESPACE)
    - --{{ .threads }}={{ $values.workerThreads }}
    - --timeout={{ $values.timeout }}
    - --kube-api-qps={{ $values.kubeAPIQPS }}
    - --kube-api-burst={{ $values.kubeAPIBurst }}
    - --retry-interval-max={{ $values.retryIntervalMax }}
    - --http-endpoint=:{{ .port }}
    - --v={{ .root.Values.sidecarVerbosity }}
    {{- range .args }}
    - {{ . }}
    {{- end }}
    {{- range $values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  ports:
    - {name: {{ .short }}, containerPort: {{ .port }}}
  livenessProbe:
    # Restarts a sidecar that has lost the lease and did not notice.
    httpGet: {path: /healthz/leader-election, port: {{ .short }}}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 10
  securityContext: {{- include "bnc.unprivileged" .root | nindent 4 }}
  resources: {{- default .root.Values.controller.sidecarResources $values.resources | toYaml | nindent 4 }}
  volumeMounts:
    - {name: socket, mountPath: /csi}
{{- end }}

{{- define "bnc.secretName" -}}
{{- $secret := .secret | default dict }}
{{- default (printf "%s-agent" .name) $secret.existingName }}
{{- end }}

{{- define "bnc.volumeAttributesAPI" -}}
{{- semverCompare ">=1.34.0-0" .Capabilities.KubeVersion.Version | ternary "v1" "v1beta1" }}
{{- end }}

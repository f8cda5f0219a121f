{{- /* The agent container beside an engine: (dict "root" . "image" …). */ -}}
{{- define "atelier.agent" -}}
{{- $root := .root -}}
name: agent
image: {{ .image }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
command: [python, -m, services.agent, --kubernetes]
env:
  - {name: ATELIER_HOME, value: /var/lib/atelier}
  - {name: ATELIER_REPLICA, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: ATELIER_POOL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['atelier.dev/pool']"}}}
  - {name: ATELIER_SIGNATURES, value: {{ $root.Values.serving.signatures.policy | quote }}}
  - {name: ATELIER_SIGNERS, value: /etc/atelier/signers}
  {{- include "atelier.identity" $root | nindent 2 }}
envFrom:
  {{- include "atelier.mlflowFrom" $root | nindent 2 }}
ports:
  - {name: agent, containerPort: 9100, protocol: TCP}
startupProbe: # the agent starts before the base is loaded
  httpGet: {path: /healthz, port: agent}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: agent}
  periodSeconds: {{ $root.Values.serving.probeSeconds }}
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /healthz, port: agent}
  periodSeconds: {{ mul $root.Values.serving.probeSeconds 2 }}
  timeoutSeconds: 10
  failureThreshold: 6
resources:
  {{- toYaml $root.Values.serving.agent.resources | nindent 2 }}
securityContext:
  {{- include "atelier.security" $root | nindent 2 }}
volumeMounts:
  - {name: home, mountPath: /var/lib/atelier}
  - {name: agent-tmp, mountPath: /tmp}
  - {name: signers, mountPath: /etc/atelier/signers, readOnly: true}
  - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "atelier.model" -}}
modelFormat: {name: sdxl, version: "1"}
runtime: atelier-triton
protocolVersion: v2
storageUri: mlflow://bases/{{ trimPrefix "sha256:" . }}
{{- end }}

{{- /* Engine settings as environment variables, from the values of the stable pool or of a canary. */ -}}
{{- define "atelier.engine" -}}
{{- $names := dict "device" "DEVICE" "precision" "PRECISION" "backend" "BACKEND" "slots" "SLOTS" "maxRank" "MAX_RANK" "maxBatch" "MAX_BATCH" "queue" "QUEUE" -}}
{{- range $field, $value := .engine }}
- {name: ATELIER_{{ get $names $field }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- if .vae }}
- {name: ATELIER_VAE, value: /var/lib/atelier/vae}
{{- end }}
{{- if .compiled }}
- {name: ATELIER_COMPILED, value: /var/lib/atelier/compiled}
{{- end }}
{{- end }}

{{- /* Init containers that fetch a VAE and a compiled UNet. KServe itself fetches the base:
(dict "root" . "image" … "vae" … "compiled" …). */ -}}
{{- define "atelier.fetches" -}}
{{- $root := .root -}}
{{- $image := .image -}}
{{- $uris := dict -}}
{{- with .vae }}{{ $_ := set $uris "vae" (printf "mlflow://vaes/%s" (trimPrefix "sha256:" .)) }}{{ end -}}
{{- with .compiled }}{{ $_ := set $uris "compiled" (printf "mlflow://engines/%s" .) }}{{ end -}}
{{- range $name, $uri := $uris }}
- name: fetch-{{ $name }}
  image: {{ $image }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [python, -m, services.storage, {{ $uri }}, /var/lib/atelier/{{ $name }}]
  envFrom:
    {{- include "atelier.mlflowFrom" $root | nindent 4 }}
  resources:
    {{- toYaml $root.Values.serving.agent.resources | nindent 4 }}
  securityContext:
    {{- include "atelier.security" $root | nindent 4 }}
  volumeMounts:
    - {name: home, mountPath: /var/lib/atelier}
    - {name: agent-tmp, mountPath: /tmp}
{{- end }}
{{- end }}

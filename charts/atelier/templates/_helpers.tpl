{{- /* Names are fixed, because a namespace has one platform. */ -}}

{{- /* Recommended labels of one component: (list . "gateway"). */ -}}
{{- define "atelier.labels" -}}
{{- $root := index . 0 -}}
{{ include "atelier.podLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- /* Labels of its pods, without a version: a new chart version alone must not restart pods. */ -}}
{{- define "atelier.podLabels" -}}
{{ include "atelier.selector" . }}
app.kubernetes.io/part-of: atelier
{{- end }}

{{- define "atelier.selector" -}}
app.kubernetes.io/name: atelier
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "atelier.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "atelier.trackingUri" -}}
{{- if .Values.mlflow.trackingUri -}}
{{ .Values.mlflow.trackingUri }}
{{- else if .Values.mlflow.enabled -}}
http://atelier-mlflow:5000
{{- else -}}
{{ fail "mlflow.trackingUri: name an MLflow, or set mlflow.enabled to install one here" }}
{{- end -}}
{{- end }}

{{- /* Pod security context for Pod Security "restricted". 10001 is the user of the images. */ -}}
{{- define "atelier.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch # otherwise every start would visit all files of a volume
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* Container security context for the same level. */ -}}
{{- define "atelier.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The pod's identity, for the reports that a process writes. */ -}}
{{- define "atelier.identity" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- end }}

{{- /* MLflow's address, and its credentials if the Secret atelier-mlflow exists. */ -}}
{{- define "atelier.mlflowFrom" -}}
- configMapRef: {name: atelier-platform}
- secretRef: {name: atelier-mlflow, optional: true}
{{- end }}

{{- /* Egress rule for DNS. */ -}}
{{- define "atelier.egressNames" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{- /* Egress rule to peers from the values: networkPolicy.apiServer or networkPolicy.outside. */ -}}
{{- define "atelier.egressTo" -}}
- to:
    {{- toYaml .to | nindent 4 }}
  ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{- /* Egress rule to a component of this chart: (list . "mlflow" (list 5000)). */ -}}
{{- define "atelier.egressPart" -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "atelier.selector" . | nindent 10 }}
  ports:
    {{- range index . 2 }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

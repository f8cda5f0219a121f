{{- define "adapter.labels" -}}
app.kubernetes.io/name: adapter
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Values.version | quote }}
app.kubernetes.io/part-of: atelier
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
atelier.dev/adapter: {{ .Values.adapter | quote }}
{{- end }}

{{- define "adapter.image" -}}
{{- $image := .Values.hook.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* The release as JSON for atelier/data/release.py, which has the defaults of missing fields. */ -}}
{{- define "adapter.release" -}}
{{- $release := pick .Values "adapter" "base" "digest" "previous" -}}
{{- $_ := set $release "version" (int .Values.version) -}}
{{- with .Values.vae }}{{ $_ := set $release "vae" . }}{{ end -}}
{{- with .Values.canary }}{{ $_ := set $release "canary" . }}{{ end -}}
{{ toJson $release }}
{{- end }}

{{- /* The manifests of all versions that the release names. A package's digest is the digest of its
manifest, so a modified manifest is refused. */ -}}
{{- define "adapter.manifests" -}}
{{- $given := .Values.manifests -}}
{{- $named := list .Values.digest -}}
{{- with .Values.canary }}{{ $named = append $named .digest }}{{ end -}}
{{- range .Values.previous }}{{ $named = append $named .digest }}{{ end -}}
{{- $manifests := dict -}}
{{- range uniq $named -}}
{{- $text := get $given . -}}
{{- if not $text -}}
{{- fail (printf "manifests: %s is missing; add the text of that package's manifest.json" .) -}}
{{- end -}}
{{- if ne . (printf "sha256:%s" (sha256sum $text)) -}}
{{- fail (printf "manifests: the text of %s has another digest; copy that package's manifest.json byte for byte" .) -}}
{{- end -}}
{{- $_ := set $manifests . $text -}}
{{- end -}}
{{ toJson $manifests }}
{{- end }}

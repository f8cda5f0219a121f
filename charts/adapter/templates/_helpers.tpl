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

{{- /* The release as atelier/data/release.py reads it; what is not said has its defaults there. */ -}}
{{- define "adapter.release" -}}
{{- $release := pick .Values "adapter" "base" "digest" "previous" -}}
{{- $_ := set $release "version" (int .Values.version) -}}
{{- with .Values.vae }}{{ $_ := set $release "vae" . }}{{ end -}}
{{- with .Values.canary }}{{ $_ := set $release "canary" . }}{{ end -}}
{{ toJson $release }}
{{- end }}

{{- /* The manifests of every version that the release names. A package's digest is that of its
manifest, so one that was changed on its way here is refused. */ -}}
{{- define "adapter.manifests" -}}
{{- $given := .Values.manifests -}}
{{- $named := list .Values.digest -}}
{{- with .Values.canary }}{{ $named = append $named .digest }}{{ end -}}
{{- range .Values.previous }}{{ $named = append $named .digest }}{{ end -}}
{{- $manifests := dict -}}
{{- range uniq $named -}}
{{- $text := get $given . -}}
{{- if not $text -}}
{{- fail (printf "manifests: there is none for %s; give the text of that package's manifest.json" .) -}}
{{- end -}}
{{- if ne . (printf "sha256:%s" (sha256sum $text)) -}}
{{- fail (printf "manifests: the text for %s has another digest, so it is not that package's manifest.json byte for byte" .) -}}
{{- end -}}
{{- $_ := set $manifests . $text -}}
{{- end -}}
{{ toJson $manifests }}
{{- end }}

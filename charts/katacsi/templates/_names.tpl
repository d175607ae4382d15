{{/* What things are called, and the labels that they carry. */}}

{{- define "katacsi.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "katacsi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "katacsi.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "katacsi.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "katacsi.labels" -}}
{{ include "katacsi.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "katacsi.selector" -}}
app.kubernetes.io/name: {{ include "katacsi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "katacsi.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "katacsi.topologyKey" -}}
topology.{{ .Values.driverName }}/node
{{- end }}

{{- define "katacsi.pluginFolder" -}}
{{ .Values.kubelet.root }}/plugins/{{ .Values.driverName }}
{{- end }}

{{- define "katacsi.priorityClass" -}}
{{ .Values.priorityClass.name | default (printf "%s-node" (include "katacsi.fullname" .)) }}
{{- end }}

{{- define "katacsi.registrationSocket" -}}
{{ .Values.kubelet.root }}/plugins_registry/{{ .Values.driverName }}-reg.sock
{{- end }}

{{/*
A ClusterRole or Role with its binding. Arguments: root, account, role, rules (a list), kind (ClusterRole by
default). docs/kubernetes.md has the reason of each rule, and a test that none is missing there.
*/}}
{{- define "katacsi.role" -}}
{{- $kind := .kind | default "ClusterRole" -}}
{{- $name := printf "%s-%s" (include "katacsi.fullname" .root) .role -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- if eq $kind "Role" }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
  labels: {{- include "katacsi.labels" .root | nindent 4 }}
rules:
  {{- range .rules }}
  - {apiGroups: [{{ index . 0 | quote }}], resources: [{{ index . 1 }}], verbs: [{{ index . 2 }}]}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- if eq $kind "Role" }}
  namespace: {{ .root.Release.Namespace }}
  {{- end }}
  labels: {{- include "katacsi.labels" .root | nindent 4 }}
subjects:
  - kind: ServiceAccount
    name: {{ include "katacsi.fullname" .root }}-{{ .account }}
    namespace: {{ .root.Release.Namespace }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
{{ end }}

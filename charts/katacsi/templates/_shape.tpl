{{/* What follows from the pools: the shape of the release, and what the node has to show the driver. */}}

{{/* local or network; refuses a mix. */}}
{{- define "katacsi.shape" -}}
{{- $of := dict -}}
{{- range $name, $pool := .Values.pools -}}
{{- $backend := $pool.backend | default "" -}}
{{- $known := get $.Values.backends $backend -}}
{{- if not $known -}}
{{- fail (printf "\n\npools.%s.backend: %q is no backend that this release knows (%s); correct it, or add the backend of your own image under `backends`" $name $backend (keys $.Values.backends | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $_ := set $of $known.scope (append (get $of $known.scope | default list) $name) -}}
{{- end -}}
{{- if not $of -}}
{{- fail "\n\npools: there is none; name at least one, such as\n  pools:\n    default: {backend: loopfile, directory: /var/lib/katacsi/default}" -}}
{{- end -}}
{{- if gt (len $of) 1 -}}
{{- fail (printf "\n\npools: %s live on a node and %s on the network; a release has one kind. Install the chart twice, with two names of `driverName`" (get $of "local" | join ", ") (get $of "network" | join ", ")) -}}
{{- end -}}
{{- keys $of | first -}}
{{- end }}

{{/* Whether the snapshot sidecar runs; empty for no. */}}
{{- define "katacsi.snapshots" -}}
{{- $wanted := toString .Values.snapshots.enabled -}}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") (.Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1")) -}}
true
{{- end -}}
{{- end }}

{{/* Whether a pool has the node's own LVM run, by nsenter; empty for no. */}}
{{- define "katacsi.hostPID" -}}
{{- range .Values.pools -}}
{{- if and (eq .backend "lvm") (eq (.exec | default "auto") "host") }}true{{ end -}}
{{- end -}}
{{- end }}

{{- define "katacsi.hasLVM" -}}
{{- range .Values.pools -}}
{{- if eq .backend "lvm" }}true{{ end -}}
{{- end -}}
{{- end }}

{{/*
The folders of the pools, as a JSON list. A folder that is mounted into a container is a mount point there,
always; so one that has to be a mount point on the node is seen through the folder above it.
*/}}
{{- define "katacsi.poolFolders" -}}
{{- $all := list -}}
{{- range $name, $pool := .Values.pools -}}
{{- if eq $pool.backend "loopfile" -}}
{{- $all = append $all (ternary (dir $pool.directory) $pool.directory (eq (toString $pool.require_mount) "true")) -}}
{{- end -}}
{{- if eq $pool.backend "lvm" -}}
{{- $all = append $all ($pool.lock_directory | default "/run/lock/lvm") -}}
{{- with $pool.archive_directory }}{{ $all = append $all . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $all = $all | uniq | sortAlpha -}}
{{- $least := list -}}
{{- range $folder := $all -}}
{{- $inside := false -}}
{{- range $other := $all -}}
{{- if hasPrefix (printf "%s/" $other) $folder }}{{ $inside = true }}{{ end -}}
{{- end -}}
{{- if not $inside }}{{ $least = append $least $folder }}{{ end -}}
{{- end -}}
{{- $least | toJson -}}
{{- end }}

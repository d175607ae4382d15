{{/* Values that fit the schema and make no sense, refused in words. */}}

{{- define "katacsi.check" -}}
{{- $shape := include "katacsi.shape" . -}}

{{- /* Folders of pools. */ -}}
{{- $system := list "/" "/bin" "/boot" "/dev" "/etc" "/lib" "/lib64" "/opt" "/proc" "/root" "/run" "/sbin" "/sys" "/tmp" "/usr" "/var" "/var/lib" -}}
{{- $taken := dict -}}
{{- range $name, $pool := .Values.pools -}}
{{- with $pool.directory -}}
{{- with get $taken . -}}
{{- fail (printf "\n\npools.%s.directory: %s is the folder of pool %s already; a pool has a folder of its own" $name $pool.directory .) -}}
{{- end -}}
{{- $_ := set $taken . $name -}}
{{- if ne . (clean .) -}}
{{- fail (printf "\n\npools.%s.directory: write %s, without slashes at the end and without dots" $name (clean .)) -}}
{{- end -}}
{{- if or (eq . $.Values.kubelet.root) (hasPrefix (printf "%s/" $.Values.kubelet.root) .) -}}
{{- fail (printf "\n\npools.%s.directory: %s lies in the kubelet's own folder (kubelet.root: %s), which the kubelet cleans up; choose a folder outside, such as /var/lib/katacsi/%s" $name . $.Values.kubelet.root $name) -}}
{{- end -}}
{{- $seen := ternary (dir .) . (eq (toString $pool.require_mount) "true") -}}
{{- if has $seen $system -}}
{{- if eq $seen . -}}
{{- fail (printf "\n\npools.%s.directory: %s is a folder of the system; give the pool one of its own, such as /var/lib/katacsi/%s" $name . $name) -}}
{{- else -}}
{{- fail (printf "\n\npools.%s.directory: with require_mount the driver has to see the folder above %s, and %s would hide its own system; mount the disk one level deeper, such as at /srv/katacsi/%s" $name . $seen $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Time to drain. */ -}}
{{- $drain := dig "timeouts" "drain" 25 .Values.config -}}
{{- if le (float64 .Values.node.terminationGracePeriodSeconds) (float64 $drain) -}}
{{- fail (printf "\n\nnode.terminationGracePeriodSeconds: %v leaves no time for config.timeouts.drain (%v), in which running calls end; make it longer" .Values.node.terminationGracePeriodSeconds $drain) -}}
{{- end -}}

{{- if and .Values.metrics.enabled .Values.metrics.serviceMonitor.enabled (eq .Values.metrics.inventory "Loopback") -}}
{{- fail "\n\nmetrics.inventory: Loopback keeps Prometheus away from the page as well, and metrics.serviceMonitor.enabled asks for it; choose Off, or Anywhere where everybody may read the names of pods and volumes" -}}
{{- end -}}

{{- /* Classes. */ -}}
{{- range $name, $class := .Values.storageClasses -}}
{{- if $class -}}
{{- if $class.pool -}}
{{- if not (hasKey $.Values.pools $class.pool) -}}
{{- fail (printf "\n\nstorageClasses.%s.pool: there is no pool %q; there are: %s" $name $class.pool (keys $.Values.pools | sortAlpha | join ", ")) -}}
{{- end -}}
{{- else if and (gt (len $.Values.pools) 1) (not (hasKey $.Values.pools "default")) (ne (toString $class.enabled) "false") -}}
{{- fail (printf "\n\nstorageClasses.%s: there are several pools and none is named default; set storageClasses.%s.pool to one of %s" $name $name (keys $.Values.pools | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if and (eq (toString $class.direct) "true") (eq ($class.fsType | default "ext4") "btrfs") -}}
{{- fail (printf "\n\nstorageClasses.%s.fsType: btrfs is not in Kata's guest kernel, and the class is direct; use ext4 or xfs" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* One release, one name. */ -}}
{{- $other := lookup "storage.k8s.io/v1" "CSIDriver" "" .Values.driverName -}}
{{- if $other -}}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" "" $other -}}
{{- $space := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" $other -}}
{{- if or (ne $owner .Release.Name) (ne $space .Release.Namespace) -}}
{{- fail (printf "\n\ndriverName: the cluster has a driver %s already (%s). A name is one driver: choose another name here, or remove the other one after its volumes" .Values.driverName (ternary (printf "of the release %s in namespace %s" $owner $space) "not installed by helm" (ne $owner ""))) -}}
{{- end -}}
{{- end -}}
{{- end }}

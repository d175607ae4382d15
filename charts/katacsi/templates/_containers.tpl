{{/* The containers: the driver, and the sidecars, which have no rights on the node. */}}

{{/* Arguments: root, mode. */}}
{{- define "katacsi.driver" -}}
{{- $root := .root -}}
{{- with .root -}}
- name: katacsi
  image: {{ include "katacsi.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - serve
    - --config=/etc/katacsi/config.yaml
    {{- if eq $.mode "controller" }}
    - --endpoint=unix:///csi/csi.sock
    {{- else }}
    - --endpoint=unix://{{ include "katacsi.pluginFolder" . }}/csi.sock
    {{- end }}
    - --node-id=$(NODE_NAME)
    - --mode={{ $.mode }}
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    {{- if ne $.mode "controller" }}
    {{- with .Values.node.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if eq $.mode "controller" }}
    # It shares its configuration with the driver of the nodes, sees no node, and registers with no kubelet.
    - {name: KATACSI_HOST_PROC, value: /proc}
    {{- if eq .Values.kubelet.registration "driver" }}
    - {name: KATACSI_KUBELET__REGISTRATION_SOCKET, value: "null"}
    {{- end }}
    {{- end }}
  {{- if .Values.metrics.enabled }}
  ports:
    - {name: metrics, containerPort: {{ .Values.metrics.port }}}
  {{- end }}
  {{- if ne .Values.liveness "none" }}
  # Pools are tried and leftovers cleared up before the driver answers. A restart mends no disk, so there is time.
  startupProbe: {httpGet: {path: /healthz, port: {{ .Values.healthPort }}}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 150}
  readinessProbe: {httpGet: {path: /healthz, port: {{ .Values.healthPort }}}, periodSeconds: 10, timeoutSeconds: 5}
  livenessProbe: {httpGet: {path: /healthz, port: {{ .Values.healthPort }}}, periodSeconds: 20, timeoutSeconds: 5, failureThreshold: 6}
  {{- end }}
  {{- if eq $.mode "controller" }}
  securityContext: {{- include "katacsi.locked" . | nindent 4 }}
  {{- else }}
  securityContext:
    privileged: true
    readOnlyRootFilesystem: true
  {{- end }}
{{- end -}}
{{- end }}

{{/* What a sidecar may do on the node: nothing. It is root to connect to the driver's socket, without capabilities. */}}
{{- define "katacsi.locked" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsGroup: 0
runAsUser: 0
seccompProfile: {type: RuntimeDefault}
{{- with .Values.sidecars.seLinuxOptions }}
seLinuxOptions: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Arguments: root, name (as in values), container, args. */}}
{{- define "katacsi.sidecar" -}}
{{- $own := get .root.Values.sidecars .name -}}
- name: {{ .container }}
  image: {{ $own.image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    {{- range concat .args (list (printf "--v=%v" .root.Values.sidecars.logLevel)) $own.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: NAMESPACE
      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  {{- with .root.Values.sidecars.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "katacsi.locked" .root | nindent 4 }}
  volumeMounts:
    - {name: socket, mountPath: /csi, readOnly: true}
    {{- with .mounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "katacsi.provisioner" -}}
{{- $local := eq (include "katacsi.shape" .) "local" -}}
{{- $own := .Values.sidecars.provisioner -}}
{{- $args := list "--csi-address=/csi/csi.sock" "--extra-create-metadata" -}}
{{- if $local -}}
{{- $args = concat $args (list "--node-deployment" "--node-deployment-immediate-binding=false" "--strict-topology" "--immediate-topology=false" "--enable-capacity" "--capacity-ownerref-level=1" (printf "--capacity-poll-interval=%s" $own.capacityPollInterval)) -}}
{{- else -}}
{{- $args = append $args "--leader-election" -}}
{{- end -}}
{{- $args = concat $args (list (printf "--timeout=%s" $own.timeout) (printf "--worker-threads=%v" $own.workers) (printf "--retry-interval-max=%s" $own.retryIntervalMax)) -}}
{{- include "katacsi.sidecar" (dict "root" . "name" "provisioner" "container" "csi-provisioner" "args" $args) -}}
{{- end }}

{{- define "katacsi.snapshotter" -}}
{{- $own := .Values.sidecars.snapshotter -}}
{{- $args := list "--csi-address=/csi/csi.sock" (ternary "--node-deployment" "--leader-election" (eq (include "katacsi.shape" .) "local")) "--extra-create-metadata" "--feature-gates=CSIVolumeGroupSnapshot=false" (printf "--timeout=%s" $own.timeout) (printf "--worker-threads=%v" $own.workers) (printf "--retry-interval-max=%s" $own.retryIntervalMax) -}}
{{- include "katacsi.sidecar" (dict "root" . "name" "snapshotter" "container" "csi-snapshotter" "args" $args) -}}
{{- end }}

{{- define "katacsi.resizer" -}}
{{- $own := .Values.sidecars.resizer -}}
{{- $args := list "--csi-address=/csi/csi.sock" "--leader-election" "--handle-volume-inuse-error=false" (printf "--workers=%v" $own.workers) (printf "--retry-interval-max=%s" $own.retryIntervalMax) -}}
{{- include "katacsi.sidecar" (dict "root" . "name" "resizer" "container" "csi-resizer" "args" $args) -}}
{{- end }}

{{- define "katacsi.attacher" -}}
{{- $own := .Values.sidecars.attacher -}}
{{- $args := list "--csi-address=/csi/csi.sock" "--leader-election" (printf "--timeout=%s" $own.timeout) (printf "--worker-threads=%v" $own.workers) -}}
{{- include "katacsi.sidecar" (dict "root" . "name" "attacher" "container" "csi-attacher" "args" $args) -}}
{{- end }}

{{- define "katacsi.registrar" -}}
{{- $args := list "--csi-address=/csi/csi.sock" (printf "--kubelet-registration-path=%s/csi.sock" (include "katacsi.pluginFolder" .)) "--plugin-registration-path=/registration" -}}
{{- include "katacsi.sidecar" (dict "root" . "name" "registrar" "container" "node-driver-registrar" "args" $args "mounts" (list (dict "name" "registration" "mountPath" "/registration"))) -}}
{{- end }}

{{- define "katacsi.livenessprobe" -}}
{{- $args := list "--csi-address=/csi/csi.sock" (printf "--health-port=%v" .Values.healthPort) -}}
{{- include "katacsi.sidecar" (dict "root" . "name" "livenessprobe" "container" "livenessprobe" "args" $args) -}}
{{- end }}

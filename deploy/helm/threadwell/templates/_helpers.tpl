{{- define "threadwell.name" -}}
{{- printf "%s-threadwell" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "threadwell.selector" -}}
app.kubernetes.io/name: threadwell
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "threadwell.labels" -}}
{{ include "threadwell.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* A pod: of (root, component, command, resources). */ -}}
{{- define "threadwell.pod" -}}
{{- $root := .root -}}
automountServiceAccountToken: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $root.Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
{{- end -}}

{{- define "threadwell.container" -}}
{{- $root := .root -}}
name: threadwell
image: "{{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}"
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: {{ toJson .args }}
envFrom:
  - secretRef:
      name: {{ $root.Values.existingSecret }}
env:
  - name: BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS
    value: {{ $root.Values.graceSeconds | quote }}
{{- range $name, $value := $root.Values.environment }}
  - name: {{ $name }}
    value: {{ $value | quote }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end -}}

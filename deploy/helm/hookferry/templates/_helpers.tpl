{{- define "hookferry.labels" -}}
app.kubernetes.io/name: hookferry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "hookferry.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: HOOKFERRY_CONFIG
    value: /etc/hookferry/hookferry.yml
  - name: HOOKFERRY_SECRETS_KEY_FILE
    value: /etc/hookferry-keys/keys
{{- with .Values.secret.env }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: config, mountPath: /etc/hookferry, readOnly: true}
  - {name: keys, mountPath: /etc/hookferry-keys, readOnly: true}
{{- end }}

{{- define "hookferry.volumes" -}}
- name: config
  configMap:
    name: {{ .Release.Name }}-hookferry
- name: keys
  secret:
    secretName: {{ .Values.secret.keys }}
{{- end }}

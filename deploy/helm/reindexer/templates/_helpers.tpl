{{- define "reindexer.fullname" -}}
{{- default (printf "%s-%s" .Release.Name (default .Chart.Name .Values.nameOverride) | replace "reindexer-reindexer" "reindexer") .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "reindexer.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "reindexer.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Every pod of the namespaces that are listed. */}}
{{- define "reindexer.namespaces" -}}
- namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values:
          {{- toYaml . | nindent 10 }}
{{- end -}}

{{- define "reindexer.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "reindexer.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The rules ask for this job, whatever the release is called. */}}
{{- define "reindexer.jobLabel" -}}
- targetLabel: job
  replacement: reindexer
{{- end -}}

{{- define "reindexer.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "reindexer.claim" -}}
{{- default (include "reindexer.fullname" .) .Values.persistence.existingClaim -}}
{{- end -}}

{{/* Settings from the ConfigMap, secrets from the Secret: both by environment variable. */}}
{{- define "reindexer.environment" -}}
envFrom:
  - configMapRef:
      name: {{ include "reindexer.fullname" . }}
  {{- with .credentials }}
  - secretRef:
      name: {{ . }}
  {{- end }}
env:
  - name: REINDEXER_DATABASE_URL
    valueFrom:
      secretKeyRef:
        name: {{ .Values.existingSecret }}
        key: database-url
  - name: REINDEXER_STORE_API_KEY
    valueFrom:
      secretKeyRef:
        name: {{ .Values.existingSecret }}
        key: store-api-key
        optional: true
{{- end -}}

{{- define "reindexer.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "reindexer.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "reindexer.volumeMounts" -}}
volumeMounts:
  - name: data
    mountPath: /data
  - name: tmp
    mountPath: /tmp
{{- end -}}

{{- define "reindexer.volumes" -}}
volumes:
  - name: data
    persistentVolumeClaim:
      claimName: {{ include "reindexer.claim" . }}
  - name: tmp
    emptyDir: {}
{{- end -}}

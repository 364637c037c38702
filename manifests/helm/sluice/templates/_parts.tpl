{{- define "sluice.tools" -}}
{{- if or .Values.iptables.tools (eq .Values.mode "iptables") }}true{{ end -}}
{{- end }}

{{- define "sluice.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.repository }}:{{ $tag }}{{ if include "sluice.tools" . }}-iptables{{ end }}
{{- end }}

{{- define "sluice.labels" -}}
k8s-app: kube-proxy
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sluice.configuration" -}}
{{- $base := dict
    "apiVersion" "kubeproxy.config.k8s.io/v1alpha1"
    "kind" "KubeProxyConfiguration"
    "mode" .Values.mode
    "clusterCIDR" .Values.clusterCIDR
    "clientConnection" (dict "kubeconfig" "/var/lib/kube-proxy/kubeconfig.conf") -}}
{{- toYaml (merge $base .Values.configuration) -}}
{{- end }}

{{- define "sluice.container" -}}
image: {{ include "sluice.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
{{- end }}

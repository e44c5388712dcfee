{{- /* A federation certificate says exactly one grant and one subject user. Everything comes from the broker's signed token (.Token);
       .Insecure is what the requester wrote and is never read. An unguarded absent claim would be signed as the text %!s(<nil>). */ -}}
{{- range $claim := list "mosaic_grant_id" "mosaic_subject_user_id" "mosaic_serial" }}
{{- if not (hasKey $.Token $claim) }}{{ fail (printf "the claim %s is absent" $claim) }}{{ end }}
{{- if not (kindIs "string" (get $.Token $claim)) }}{{ fail (printf "the claim %s is not text" $claim) }}{{ end }}
{{- end }}
{{- range $claim := list "mosaic_grant_id" "mosaic_subject_user_id" }}
{{- if not (regexMatch "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" (get $.Token $claim)) }}{{ fail (printf "the claim %s is not a canonical UUID" $claim) }}{{ end }}
{{- end }}
{{- if not (regexMatch "^[1-9][0-9]{0,38}$" .Token.mosaic_serial) }}{{ fail "the claim mosaic_serial is not a decimal serial of at most 39 digits" }}{{ end -}}
{
  "subject": {"commonName": {{ toJson .Subject.CommonName }}},
  "serialNumber": {{ toJson .Token.mosaic_serial }},
  "keyUsage": ["digitalSignature"],
  "extKeyUsage": ["clientAuth"],
  "basicConstraints": {"isCA": false},
{{- with .crlDistributionPoint }}
  "crlDistributionPoints": [{{ toJson . }}],
{{- end }}
  "extensions": [
    {"id": "1.3.6.1.4.1.99999.1", "critical": false, "value": {{ toJson (asn1Enc (printf "utf8:%s" .Token.mosaic_grant_id)) }}},
    {"id": "1.3.6.1.4.1.99999.2", "critical": false, "value": {{ toJson (asn1Enc (printf "utf8:%s" .Token.mosaic_subject_user_id)) }}}
  ]
}

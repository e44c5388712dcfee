#!/bin/sh
# First boot of the federation authority; on every later boot it only renders the configuration again.
#
#   STEPPATH                         folder (volume) that holds everything             required
#   STEP_CA_PASSWORD_FILE            password of the root and intermediate keys        required
#   STEP_CA_ADDRESS                  host:port to listen on                            127.0.0.1:9000
#   STEP_CA_DNS_NAMES                names in its own TLS certificate, by comma        localhost,127.0.0.1
#   STEP_CA_PROVISIONER_PASSWORD_FILE  encrypts the exported provisioner key (JWE)     absent: plain JWK, mode 0600
#   CRL_DISTRIBUTION_POINT           http(s) address of the revocation list, put into  absent: no address
#                                    every certificate; whoever serves it fetches /1.0/crl
#
# Afterwards:  step-ca "$STEPPATH/config/ca.json" --password-file "$STEP_CA_PASSWORD_FILE"
# The broker gets certs/root_ca.crt, certs/root_ca.sha256 and secrets/mosaic-fed.json, and never the password of the authority's own keys.
set -eu
umask 077

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
: "${STEPPATH:?names the folder of the authority}" "${STEP_CA_PASSWORD_FILE:?names the file with the password of its keys}"
export STEPPATH
address=${STEP_CA_ADDRESS:-127.0.0.1:9000}
dns_names=${STEP_CA_DNS_NAMES:-localhost,127.0.0.1}
distribution_point=${CRL_DISTRIBUTION_POINT:-}

refuse() {
    echo "step-ca init: $1" >&2
    exit 1
}

verify_password() { # variable, file
    [ -s "$2" ] || refuse "$1 names no readable file with a password in it."
    # step trims what it reads, so a copy without the line break is the example too.
    if [ "${MOSAIC_ENV:-production}" != dev ] && [ "$(tr -d '[:space:]' <"$2")" = "$(tr -d '[:space:]' <"$here/dev-password.example")" ]; then
        refuse "$1 holds the shipped example: write your own, or set MOSAIC_ENV=dev on a machine that serves nobody else."
    fi
}

verify_text() { # variable, value
    case $2 in *[\"\\[:cntrl:]]*) refuse "$1 holds a quote, a backslash or a line break, and goes into ca.json as it is." ;; esac
}

verify_password STEP_CA_PASSWORD_FILE "$STEP_CA_PASSWORD_FILE"
[ -z "${STEP_CA_PROVISIONER_PASSWORD_FILE:-}" ] || verify_password STEP_CA_PROVISIONER_PASSWORD_FILE "$STEP_CA_PROVISIONER_PASSWORD_FILE"
verify_text STEPPATH "$STEPPATH"
verify_text STEP_CA_ADDRESS "$address"
verify_text STEP_CA_DNS_NAMES "$dns_names"
verify_text CRL_DISTRIBUTION_POINT "$distribution_point"
case $distribution_point in
"" | http://?* | https://?*) ;;
*) refuse "CRL_DISTRIBUTION_POINT has to begin with http:// or https://." ;;
esac

make_provisioner_key() { # directory
    # Made beside the authority, not inside it: 'step ca init' would leave the private key in ca.json as encryptedKey, which is served to anyone.
    if [ -n "${STEP_CA_PROVISIONER_PASSWORD_FILE:-}" ]; then
        step crypto jwk create "$1/mosaic-fed.pub.json" "$1/mosaic-fed.json" --kty EC --crv P-256 --use sig --alg ES256 \
            --password-file "$STEP_CA_PROVISIONER_PASSWORD_FILE"
    else
        step crypto jwk create "$1/mosaic-fed.pub.json" "$1/mosaic-fed.json" --kty EC --crv P-256 --use sig --alg ES256 --no-password --insecure
    fi
    chmod 0600 "$1/mosaic-fed.json"
}

make_secrets() { # directory
    step certificate create "Mosaic Federation Root" "$1/root_ca.crt" "$1/root_ca_key" --profile root-ca \
        --kty EC --crv P-256 --not-after 87600h --password-file "$STEP_CA_PASSWORD_FILE"
    step certificate create "Mosaic Federation Intermediate" "$1/intermediate_ca.crt" "$1/intermediate_ca_key" --profile intermediate-ca \
        --kty EC --crv P-256 --not-after 43800h --password-file "$STEP_CA_PASSWORD_FILE" \
        --ca "$1/root_ca.crt" --ca-key "$1/root_ca_key" --ca-password-file "$STEP_CA_PASSWORD_FILE"
    make_provisioner_key "$1"
}

# 1. Keys: all of them or none, by one rename. A boot that is cut short leaves nothing that the next one could take for an authority.
if [ ! -d "$STEPPATH/secrets" ]; then
    [ ! -e "$STEPPATH/db" ] || refuse "$STEPPATH has a database but no keys: restore secrets/, a new root would orphan every certificate."
    rm -rf "$STEPPATH/.first-boot"
    mkdir -p "$STEPPATH/.first-boot"
    make_secrets "$STEPPATH/.first-boot"
    sync # a power cut must not leave the new name on empty files
    mv "$STEPPATH/.first-boot" "$STEPPATH/secrets"
fi
# Neither root_ca_key nor mosaic-fed.json: both may have been taken off the volume.
for name in root_ca.crt intermediate_ca.crt intermediate_ca_key mosaic-fed.pub.json; do
    [ -s "$STEPPATH/secrets/$name" ] || refuse "$STEPPATH/secrets has no $name: restore it from the backup of this volume."
done

# 2. What is public, and what follows from this release: rendered on every boot.
render() { # target; content on stdin; whole or not at all
    cat >"$1.new"
    chmod 0644 "$1.new"
    mv "$1.new" "$1"
}

mkdir -p "$STEPPATH/certs" "$STEPPATH/config" "$STEPPATH/templates"
render "$STEPPATH/certs/root_ca.crt" <"$STEPPATH/secrets/root_ca.crt"
render "$STEPPATH/certs/intermediate_ca.crt" <"$STEPPATH/secrets/intermediate_ca.crt"
fingerprint=$(step certificate fingerprint "$STEPPATH/secrets/root_ca.crt")
provisioner_key=$(cat "$STEPPATH/secrets/mosaic-fed.pub.json")
echo "$fingerprint" | render "$STEPPATH/certs/root_ca.sha256"
render "$STEPPATH/templates/federation-leaf.tpl" <"$here/federation-leaf.tpl"

# disableIssuedAtCheck: a token from before this start is still single-use, because the database remembers its jti.
# maxTLSCertDuration: the longest that the system issues; the requester chooses below it.
# renewPeriod: a revocation that was stored when step-ca died before it wrote the list is on it a quarter of an hour later.
# idpURL: the list names itself as the certificates name it (RFC 5280 §6.3.3), or a strict reader takes it for another one.
render "$STEPPATH/config/ca.json" <<JSON
{
  "root": "$STEPPATH/certs/root_ca.crt",
  "crt": "$STEPPATH/certs/intermediate_ca.crt",
  "key": "$STEPPATH/secrets/intermediate_ca_key",
  "address": "$address",
  "dnsNames": ["$(echo "$dns_names" | sed 's/,/", "/g')"],
  "logger": {"format": "json"},
  "db": {"type": "badgerv2", "dataSource": "$STEPPATH/db"},
  "crl": {"enabled": true, "generateOnRevoke": true, "cacheDuration": "24h", "renewPeriod": "15m", "idpURL": "$distribution_point"},
  "tls": {"minVersion": 1.3, "maxVersion": 1.3, "renegotiation": false},
  "authority": {
    "disableIssuedAtCheck": true,
    "provisioners": [
      {
        "type": "JWK",
        "name": "mosaic-fed",
        "key": $provisioner_key,
        "claims": {
          "minTLSCertDuration": "1s",
          "defaultTLSCertDuration": "720h",
          "maxTLSCertDuration": "720h",
          "disableRenewal": true,
          "allowRenewalAfterExpiry": false,
          "disableSmallstepExtensions": true,
          "enableSSHCA": false
        },
        "options": {
          "x509": {
            "templateFile": "$STEPPATH/templates/federation-leaf.tpl",
            "templateData": {"crlDistributionPoint": "$distribution_point"}
          }
        }
      }
    ]
  }
}
JSON
echo "step-ca init: the SHA-256 of the root, STEP_CA_ROOT_FINGERPRINT of the broker, is $fingerprint"

#!/bin/sh
# Reads what send.sh sent in the last hour.
set -eu
url=${LOKI_URL:-http://127.0.0.1:3100}
curl -sS --fail-with-body -G "$url/loki/api/v1/query_range" \
	--data-urlencode 'query={job=~"example|json|logstash"} |= "hello"' \
	--data-urlencode 'since=1h'
echo

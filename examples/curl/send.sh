#!/bin/sh
# Sends one line over each of the three HTTP ways in. An answer of 204 means
# that the line is on disk.
set -eu
url=${LOKI_URL:-http://127.0.0.1:3100}
now=$(date +%s%N)

# Loki's push API.
curl -sS --fail-with-body -o /dev/null -w 'push: %{http_code}\n' "$url/loki/api/v1/push" \
	-H 'Content-Type: application/json' \
	-d '{"streams":[{"stream":{"job":"example","host":"laptop"},"values":[["'"$now"'","hello from curl",{"trace_id":"0af7651916cd43dd"}]]}]}'

# JSON events: one object, an array, or one object per line.
curl -sS --fail-with-body -o /dev/null -w 'json: %{http_code}\n' "$url/ingest/json" \
	-H 'Content-Type: application/json' \
	-d '[{"message":"hello from an event","service":"example","user":"alice"}]'

# What Logstash's http output sends.
curl -sS --fail-with-body -o /dev/null -w 'logstash: %{http_code}\n' "$url/ingest/logstash" \
	-H 'Content-Type: application/json' \
	-d '{"@timestamp":"'"$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)"'","@version":"1","message":"hello from logstash","host":{"name":"laptop"}}'

#!/bin/sh
# Reads with Loki's command line client. `make tools` builds one as
# bin/tools/logcli.
set -eu
export LOKI_ADDR="${LOKI_URL:-http://127.0.0.1:3100}"
logcli labels
logcli labels job
logcli query --since=1h --limit=20 '{job=~".+"}'
logcli query --since=1h --limit=20 '{job=~".+"} |= "hello"'

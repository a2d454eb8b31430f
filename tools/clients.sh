#!/bin/sh
# Installs the real clients and servers that integration tests run:
#
#   sh tools/clients.sh DIR
#
# Debian packages are installed if they are missing; what cannot be installed,
# or not from there, goes to DIR.
set -eu
cd "$(dirname "$0")/.."
dir=${1:?usage: clients.sh DIR}
export DEBIAN_FRONTEND=noninteractive

missing=""
need() { dpkg -s "$1" >/dev/null 2>&1 || missing="$missing $1"; }
for p in python3 python3-fluent-logger rsyslog rsyslog-gnutls rsyslog-openssl rsyslog-elasticsearch bsdutils iproute2 memcached redis-server chromium fonts-dejavu-core; do need $p; done
command -v npm >/dev/null || missing="$missing nodejs npm"
if [ -n "$missing" ]; then
	apt-get update -q
	# shellcheck disable=SC2086 # one word per package
	apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 $missing
fi

[ -x "$dir/syslog-ng/usr/sbin/syslog-ng" ] || sh plugins/syslog/testdata/clients.sh "$dir"

[ -d "$dir/node_modules/@fluent-org/logger" ] || npm install --silent --no-audit --no-fund --prefix "$dir" @fluent-org/logger@1.0.10

# An emulator of Azure Blob Storage. Later versions need more than Debian's Node.js.
[ -d "$dir/node_modules/azurite" ] || npm install --silent --no-audit --no-fund --prefix "$dir" azurite@3.35.0

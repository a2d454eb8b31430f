#!/bin/sh
# Installs what the integration tests of plugins/syslog run, on Debian:
#
#   sh plugins/syslog/testdata/clients.sh DIR
#
# rsyslog and syslog-ng cannot be installed side by side, so syslog-ng is
# unpacked to DIR/syslog-ng; the tests find it there if LOKI_GO_TOOLS is DIR.
set -eu
dir=${1:?usage: clients.sh DIR}
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
	bsdutils rsyslog rsyslog-gnutls rsyslog-openssl \
	libcap2 libglib2.0-0 libivykis0 libjson-c5 libnet1 libpcre3 libssl3 libsystemd0 libwrap0
mkdir -p "$dir/syslog-ng"
dir=$(cd "$dir/syslog-ng" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
(cd "$tmp" && apt-get download syslog-ng-core)
dpkg -x "$tmp"/syslog-ng-core_*.deb "$dir"
LD_LIBRARY_PATH="$dir/usr/lib/syslog-ng" "$dir/usr/sbin/syslog-ng" --version >/dev/null

#!/bin/sh
# A cluster on this machine: Consul, an S3 server, two gateways, three ingesters.
# It sends lines through both gateways, kills an ingester with SIGKILL in the
# middle, and counts what a query finds. Needs `make build tools` and curl.
set -eu
cd "$(dirname "$0")/../.."

lines=${LINES_TO_SEND:-300}
dir=$(mktemp -d)
pids="" services=""
finish() {
	# What ends stores what it has, which needs the services.
	# shellcheck disable=SC2086 # one word per process
	for group in "$pids" "$services"; do
		kill $group 2>/dev/null || true
		wait $group 2>/dev/null || true
	done
	rm -rf "$dir"
}
trap finish EXIT INT TERM

start() { # NAME COMMAND...
	name=$1
	shift
	"$@" >"$dir/$name.log" 2>&1 &
	pids="$pids $!"
	eval "pid_$name=$!"
}

await() { # URL
	for _ in $(seq 300); do
		curl -fs "$1" >/dev/null 2>&1 && return
		sleep 0.1
	done
	echo "$1 does not answer; the logs:" >&2
	tail -n 5 "$dir"/*.log >&2
	exit 1
}

echo "Consul at 127.0.0.1:18500, S3 at 127.0.0.1:17070"
start consul bin/tools/consul agent -dev -bind=127.0.0.1 -http-port=18500 -grpc-port=-1 -grpc-tls-port=-1 -dns-port=-1 -serf-lan-port=18301 -serf-wan-port=-1 -server-port=18300
mkdir -p "$dir/s3/logs"
ROOT_ACCESS_KEY=example ROOT_SECRET_KEY=example-secret start s3 bin/tools/versitygw --port 127.0.0.1:17070 --region us-east-1 --quiet posix "$dir/s3"
services=$pids pids=""
await http://127.0.0.1:18500/v1/status/leader

loki_go() { # TARGET NUMBER PORT
	start "$1_$2" bin/loki-go -target="$1" -data-dir="$dir/$1-$2" -server.http-listen="127.0.0.1:$3" \
		-server.grpc-listen="127.0.0.1:$(($3 + 1))" -forward.listen= -otlp.grpc-listen= -ingester.id="ingester-$2" \
		-ring.store=consul -ring.consul.address=127.0.0.1:18500 -ring.replication-factor=3 \
		-storage.type=s3 -storage.s3.endpoint=http://127.0.0.1:17070 -storage.s3.region=us-east-1 -storage.s3.bucket=logs \
		-storage.s3.path-style=true -storage.s3.access-key=example -storage.s3.secret-key=example-secret \
		-cluster.secret=example
}

echo "Three ingesters at 127.0.0.1:13110, 13120, 13130, two gateways at 13100 and 13200"
for i in 1 2 3; do loki_go ingester $i 131${i}0; done
for i in 1 2; do loki_go gateway $i 13${i}00; done
for port in 13110 13120 13130 13100 13200; do await http://127.0.0.1:$port/ready; done
for port in 13100 13200; do
	until [ "$(curl -s http://127.0.0.1:$port/ring?format=json | grep -o ACTIVE | wc -l)" -ge 3 ]; do sleep 0.1; done
done
echo "The ring is at http://127.0.0.1:13100/ring"

echo "Sending $lines lines; ingester 2 is killed after half of them"
begin=$(date +%s%N)
sent=0
while [ $sent -lt "$lines" ]; do
	[ $sent -eq $((lines / 2)) ] && kill -9 "$pid_ingester_2"
	port=13$((sent % 2 + 1))00
	status=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/loki/api/v1/push" -H 'Content-Type: application/json' \
		-d '{"streams":[{"stream":{"job":"cluster","n":"'$((sent % 10))'"},"values":[["'"$(date +%s%N)"'","line '$sent'"]]}]}')
	[ "$status" = 204 ] || { echo "line $sent was answered with $status" >&2; exit 1; }
	sent=$((sent + 1))
done

count() { # of lines that a query by way of gateway $1 finds
	curl -fsG "http://127.0.0.1:13${1}00/loki/api/v1/query_range" --data-urlencode 'query={job="cluster"}' \
		--data-urlencode "start=$begin" --data-urlencode "limit=5000" | grep -o '"line [0-9]*"' | sort -u | wc -l
}

echo "Acknowledged: $sent. Found without ingester 2: $(count 1) by gateway 1, $(count 2) by gateway 2"
echo "Ingester 2 comes back"
loki_go ingester 2 13120
await http://127.0.0.1:13120/ready
found=$(count 1)
echo "Found with it: $found"
[ "$found" -eq "$sent" ]

package loglines

import "strings"

type app struct {
	name  string
	lines []string
}

// fields turns {x} into the form that expand reads, which no line contains.
func fields(lines ...string) []string {
	for i, l := range lines {
		var b strings.Builder
		for j := 0; j < len(l); j++ {
			if l[j] == '{' && j+2 < len(l) && l[j+2] == '}' {
				b.WriteByte(1)
				b.WriteByte(l[j+1])
				j += 2
				continue
			}
			b.WriteByte(l[j])
		}
		lines[i] = b.String()
	}
	return lines
}

var apps = []app{
	{"nginx", fields(
		`{I} - - [{C}] "{m} {p} HTTP/1.1" {c} {n} "https://shop.example.com{p}" "{a}"`,
		`{I} - {w} [{C}] "{m} {p} HTTP/2.0" {c} {n} "-" "{a}" rt={f} uct=0.001 urt={f}`,
		`{T} [error] {d}#{d}: *{q} connect() failed (111: Connection refused) while connecting to upstream, client: {I}, server: shop.example.com, request: "{m} {p} HTTP/1.1", upstream: "http://{I}:8080{p}"`,
	)},
	{"checkout", fields(
		`{"ts":"{N}","level":"{l}","caller":"handler/order.go:{d}","msg":"request completed","method":"{m}","path":"{p}","status":{c},"duration_ms":{f},"trace_id":"{t}","user":"{w}"}`,
		`{"ts":"{N}","level":"info","caller":"payment/client.go:118","msg":"payment authorised","order":"{u}","provider":"stripe","amount_cents":{n},"attempt":1,"trace_id":"{t}"}`,
		`{"ts":"{N}","level":"warn","caller":"inventory/reserve.go:77","msg":"retrying after conflict","sku":"SKU-{q}","warehouse":"{h}","backoff_ms":{d},"error":"{e}"}`,
		`{"ts":"{N}","level":"error","caller":"payment/client.go:141","msg":"payment failed","order":"{u}","error":"{e}","trace_id":"{t}","stack":"payment.(*Client).Charge\n\tpayment/client.go:141\nhandler.(*Order).Submit\n\thandler/order.go:212"}`,
	)},
	{"catalog", fields(
		`level={l} ts={N} caller=server.go:{d} method={m} route={p} status={c} duration={f}ms bytes={n} trace={t} remote={I}:{P} msg="served request"`,
		`level=debug ts={N} caller=gc.go:31 msg="evicted {d} entries"`,
		`level=debug ts={N} caller=cache.go:88 component=cache key=product:{q} hit=true age={d}s shard={d} msg="cache lookup"`,
		`level=warn ts={N} caller=db.go:215 component=store query="SELECT * FROM {o} WHERE id = $1" took={f}ms rows={d} msg="slow query"`,
		`level=error ts={N} caller=db.go:231 component=store host={h} err="{e}" attempt={d} msg="query failed"`,
	)},
	{"kafka", fields(
		`[{J}] INFO [GroupCoordinator {d}]: Preparing to rebalance group {v}-consumers in state PreparingRebalance with old generation {d} (reason: Adding new member consumer-{v}-{d}-{u} with group instance id None) (kafka.coordinator.group.GroupCoordinator)`,
		`[{J}] INFO [ReplicaFetcher replicaId={d}, leaderId={d}, fetcherId=0] Truncating partition {v}.events-{d} with TruncationState(offset={q}, completed=true) due to leader epoch and offset EpochEndOffset(errorCode=0, partition={d}, leaderEpoch={d}, endOffset={q}) (kafka.server.ReplicaFetcherThread)`,
		`[{J}] INFO [Log partition={v}.events-{d}, dir=/var/lib/kafka/data] Rolled new log segment at offset {q} in {d} ms. (kafka.log.Log)`,
		`[{J}] WARN [RequestSendThread controllerId={d}] Controller {d}'s connection to broker {h}:9092 (id: {d} rack: null) was unsuccessful (kafka.controller.RequestSendThread)`,
	)},
	{"datanode", fields(
		`{J} INFO dfs.DataNode$PacketResponder: PacketResponder {d} for block blk_-{q}{d} terminating`,
		`{J} INFO dfs.DataNode$DataXceiver: Receiving block blk_{q}{q} src: /{I}:{P} dest: /{I}:50010`,
		`{J} INFO dfs.FSNamesystem: BLOCK* NameSystem.addStoredBlock: blockMap updated: {I}:50010 is added to blk_{q}{q} size 67108864`,
		`{J} WARN dfs.DataNode$DataXceiver: {I}:50010:Got exception while serving blk_{q}{q} to /{I}: {e}`,
	)},
	{"sshd", fields(
		`{S} {h} sshd[{n}]: Failed password for invalid user {w} from {I} port {P} ssh2`,
		`{S} {h} sshd[{n}]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={I} user={w}`,
		`{S} {h} sshd[{n}]: Accepted publickey for {w} from {I} port {P} ssh2: ED25519 SHA256:{t}`,
		`{S} {h} sshd[{n}]: Connection closed by {I} port {P} [preauth]`,
		`{S} {h} sshd[{n}]: Received disconnect from {I} port {P}:11: Bye Bye [preauth]`,
	)},
	{"kubelet", fields(
		`I{K}    {n} kubelet.go:2453] "SyncLoop (PLEG): event for pod" pod="shop/{h}" event={"ID":"{u}","Type":"ContainerStarted","Data":"{t}{t}"}`,
		`I{K}    {n} prober.go:107] "Probe failed" probeType="Readiness" pod="shop/{h}" podUID="{u}" containerName="{v}" probeResult="failure" output="HTTP probe failed with statuscode: {c}"`,
		`E{K}    {n} pod_workers.go:1298] "Error syncing pod, skipping" err="failed to \"StartContainer\" for \"{v}\" with CrashLoopBackOff: \"back-off 5m0s restarting failed container={v} pod={h}_shop({u})\"" pod="shop/{h}" podUID="{u}"`,
		`W{K}    {n} reflector.go:539] object-"shop"/"{v}-config": failed to list *v1.ConfigMap: Get "https://{I}:6443/api/v1/namespaces/shop/configmaps": {e}`,
	)},
	{"postgres", fields(
		`{J} UTC [{n}] {w}@shop LOG:  duration: {f} ms  execute S_{d}: SELECT id, status, total_cents, created_at FROM {o} WHERE customer_id = $1 AND status = $2 ORDER BY created_at DESC LIMIT 50`,
		`{J} UTC [{n}] LOG:  checkpoint complete: wrote {d} buffers (0.{d}%); 0 WAL file(s) added, 0 removed, {d} recycled; write={f} s, sync={f} s, total={f} s; sync files={d}, longest={f} s, average={f} s; distance={n} kB, estimate={n} kB`,
		`{J} UTC [{n}] {w}@shop ERROR:  duplicate key value violates unique constraint "{o}_pkey" DETAIL:  Key (id)=({q}) already exists. STATEMENT:  INSERT INTO {o} (id, payload) VALUES ($1, $2)`,
	)},
	{"envoy", fields(
		`[{T}] "{m} {p} HTTP/1.1" {c} - via_upstream - "-" {n} {n} {d} {d} "{I}" "{a}" "{u}" "{v}.shop.svc.cluster.local" "{I}:8080" outbound|80||{v}.shop.svc.cluster.local {I}:{P} {I}:80 {I}:{P} - default`,
		`[{T}] "{m} {p} HTTP/2" {c} UF upstream_reset_before_response_started{connection_failure} - "{e}" 0 {n} {d} - "{I}" "grpc-go/1.60.1" "{u}" "{v}:9000" "{I}:9000" outbound|9000||{v}.shop.svc.cluster.local - {I}:9000 {I}:{P} - default`,
	)},
	{"redis", fields(
		`{n}:M {J} * {d} changes in 60 seconds. Saving...`,
		`{n}:C {J} * RDB: {d} MB of memory used by copy-on-write`,
		`{n}:M {J} # Client id={q} addr={I}:{P} scheduled to be closed ASAP for overcoming of output buffer limits.`,
	)},
	{"batch", fields(
		`{J} [DEBUG] [worker-{d}] c.e.shop.batch.Pool - {d} of 64 workers busy`,
		`{J} [{L}] [worker-{d}] c.e.shop.batch.ReportJob - processed chunk {q} of report {u} in {f} ms ({d} rows, {d} skipped)`,
		`{J} [INFO] [worker-{d}] c.e.shop.batch.Uploader - uploaded s3://reports/{v}/{x}/part-{q}.parquet ({n} bytes) in {f} ms, etag={t}`,
		`{J} [WARN] [scheduler] c.e.shop.batch.Scheduler - job {v}-nightly is {d} minutes late, {d} jobs are waiting, oldest was submitted by {w}`,
		`{J} [ERROR] [worker-{d}] c.e.shop.batch.ReportJob - chunk {q} failed: {e} at com.example.shop.batch.ReportJob.run(ReportJob.java:{d}) at java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)`,
	)},
}

var (
	methods     = []string{"GET", "GET", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"}
	statuses    = []string{"200", "200", "200", "200", "204", "301", "304", "404", "400", "401", "403", "429", "500", "502", "503"}
	levels      = []string{"INFO", "INFO", "DEBUG", "WARN", "ERROR"}
	lowLevels   = []string{"info", "info", "debug", "warn", "error"}
	services    = []string{"checkout", "catalog", "cart", "payment", "inventory", "search", "recommendation", "shipping", "email", "frontend", "auth", "ledger"}
	podSuffixes = []string{"7d9f8b6c5d-x2x4q", "7d9f8b6c5d-9hk2m", "6b7c9d5f4-qqw8z", "5f6d7c8b9-lm4np", "84c5d6f7b-tv7rs", "0", "1", "2"}
	users       = []string{"root", "admin", "alice", "bob", "carol", "dave", "deploy", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory", "oscar", "peggy", "svc-report", "trent", "victor", "wendy"}
	tables      = []string{"orders", "order_items", "customers", "products", "payments", "shipments", "events", "sessions"}
	paths       = []string{"/api/v1/products", "/api/v1/cart/items", "/api/v1/orders", "/healthz", "/static/js/main.8f3a1c.js", "/api/v2/search", "/login", "/api/v1/recommendations", "/static/img/logo.svg", "/metrics", "/api/v1/users/me/addresses"}
	agents      = []string{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
		"kube-probe/1.31", "Go-http-client/2.0", "curl/8.5.0",
		"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
	}
	errorTexts = []string{
		"context deadline exceeded", "connection refused", "read: connection reset by peer", "pq: deadlock detected",
		"i/o timeout", "rpc error: code = Unavailable desc = transport is closing", "unexpected EOF", "no such host",
		"TLS handshake timeout", "too many open files", "java.io.IOException: Broken pipe", "etcdserver: request timed out",
	}
)

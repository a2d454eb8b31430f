package syslog

import "github.com/loki-go/loki-go/plugins/mapping"

// names are those of a keyword's values: Promtail's, and so those of many
// dashboards.
var (
	severityNames = [8]string{"emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug"}
	// levelNames are the words that Loki and Grafana have for levels.
	levelNames    = [8]string{"fatal", "critical", "critical", "error", "warn", "info", "info", "debug"}
	facilityNames = [24]string{
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
		"ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
	}
)

// keys of a record's fields.
var (
	keyMessage     = []byte("message")
	keyServiceName = []byte("service_name")
	keyLevel       = []byte("level")
	keySeverity    = []byte("severity")
	keyFacility    = []byte("facility")
	keyHostname    = []byte("hostname")
	keyAppName     = []byte("app_name")
	keyProcID      = []byte("proc_id")
	keyMsgID       = []byte("msg_id")
	keySequence    = []byte("sequence")
	keyPeer        = []byte("connection_ip_address")
	keySD          = []byte("sd")
	keyNone        = []byte("")
)

// keywords are the names above as bytes.
type keywords struct {
	severity, level [8][]byte
	facility        [24][]byte
}

func newKeywords() *keywords {
	k := new(keywords)
	for i := range k.severity {
		k.severity[i], k.level[i] = []byte(severityNames[i]), []byte(levelNames[i])
	}
	for i := range k.facility {
		k.facility[i] = []byte(facilityNames[i])
	}
	return k
}

// maxServiceName is the longest name of a program that becomes a label.
const maxServiceName = 128

// recorder makes records of messages, in memory that is used again.
type recorder struct {
	words *keywords
	rec   mapping.Record
	text  []byte // values that had to be changed
}

// record returns m, which came from peer (nil: not known), as a record. It is
// good until the next call, and as long as m's bytes.
func (r *recorder) record(m *message, peer []byte) *mapping.Record {
	r.rec.Reset()
	r.text = r.text[:0]
	nodes := append(r.rec.Nodes, mapping.Node{Kind: mapping.Map})
	add := func(key, value []byte) {
		if value != nil {
			nodes = append(nodes, mapping.Node{Kind: mapping.String, Key: key, Str: value})
		}
	}
	nodes = append(nodes, mapping.Node{Kind: mapping.String, Key: keyMessage, Str: m.text})
	if n := len(m.appName); n > 0 && n <= maxServiceName {
		// The label only: as metadata it is app_name.
		nodes = append(nodes, mapping.Node{Kind: mapping.String, Key: keyServiceName, Str: m.appName, Used: true})
	}
	add(keyLevel, r.words.level[m.severity()])
	add(keySeverity, r.words.severity[m.severity()])
	add(keyFacility, r.words.facility[m.facility()])
	add(keyHostname, m.hostname)
	add(keyAppName, m.appName)
	add(keyProcID, m.procID)
	add(keyMsgID, m.msgID)
	add(keySequence, m.sequence)
	add(keyPeer, peer)
	r.rec.Nodes = nodes
	if len(m.params) > 0 {
		r.structuredData(m.params)
	}
	r.rec.Nodes[0].End = int32(len(r.rec.Nodes))
	return &r.rec
}

// structuredData adds a map of the elements, each of which is a map.
func (r *recorder) structuredData(params []param) {
	nodes := append(r.rec.Nodes, mapping.Node{Kind: mapping.Map, Key: keySD})
	top, element := len(nodes)-1, 0
	var id []byte
	for i := range params {
		p := &params[i]
		// Elements are told apart by where their id is, as two may have one.
		if i == 0 || &p.id[0] != &id[0] {
			if element > 0 {
				nodes[element].End = int32(len(nodes))
			}
			id, element = p.id, len(nodes)
			nodes = append(nodes, mapping.Node{Kind: mapping.Map, Key: id})
		}
		if p.name == nil {
			// An element says something by being there.
			nodes[element] = mapping.Node{Kind: mapping.String, Key: id, Str: keyNone}
			element = 0
			continue
		}
		value := p.value
		if p.escaped {
			from := len(r.text)
			r.text = unescape(r.text, value)
			value = r.text[from:]
		}
		nodes = append(nodes, mapping.Node{Kind: mapping.String, Key: p.name, Str: value})
	}
	if element > 0 {
		nodes[element].End = int32(len(nodes))
	}
	nodes[top].End = int32(len(nodes))
	r.rec.Nodes = nodes
}

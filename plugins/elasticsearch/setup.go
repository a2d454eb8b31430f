package elasticsearch

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// The calls that clients make before they send documents. Each wants to find
// what it needs: Logstash does not start when its ILM policy is missing, and
// Beats send their templates, of a megabyte, after every broken connection
// unless they are there. So all names exist, with nothing in them, and all that
// is put is acknowledged.

type object map[string]any

const (
	clusterName = "loki-go"
	clusterUUID = "bG9raS1nby1jbHVzdGVyLQ"
	licenseUUID = "6c6f6b69-2d67-6f00-0000-000000000000"
	nodeID      = "bG9raS1nby1ub2RlLTAwMA"
)

func clusterInfo(version string) []byte {
	return encode(object{
		"name":         clusterName,
		"cluster_name": clusterName,
		"cluster_uuid": clusterUUID,
		"version": object{
			"number":                              version,
			"build_flavor":                        "default",
			"build_type":                          "tar",
			"build_hash":                          "0000000000000000000000000000000000000000",
			"build_date":                          "2025-01-01T00:00:00.000000000Z",
			"build_snapshot":                      false,
			"lucene_version":                      "9.12.2",
			"minimum_wire_compatibility_version":  "7.17.0",
			"minimum_index_compatibility_version": "7.0.0",
		},
		// Clients before 7.14's product header compare it.
		"tagline": "You Know, for Search",
	})
}

var license = object{"license": object{
	"status": "active", "uid": licenseUUID, "type": "basic", "mode": "basic",
	"issue_date": "2025-01-01T00:00:00.000Z", "issue_date_in_millis": 1735689600000,
	"max_nodes": 1000, "max_resource_units": nil, "issued_to": clusterName, "issuer": clusterName,
	"start_date_in_millis": -1,
}}

var xpack = object{
	"license": license["license"],
	"features": object{
		"ilm":          object{"available": true, "enabled": true},
		"data_streams": object{"available": true, "enabled": true},
		"security":     object{"available": true, "enabled": false},
	},
}

var health = object{
	"cluster_name": clusterName, "status": "green", "timed_out": false,
	"number_of_nodes": 1, "number_of_data_nodes": 1, "active_primary_shards": 0, "active_shards": 0,
	"relocating_shards": 0, "initializing_shards": 0, "unassigned_shards": 0, "delayed_unassigned_shards": 0,
	"number_of_pending_tasks": 0, "number_of_in_flight_fetch": 0, "task_max_waiting_in_queue_millis": 0,
	"active_shards_percent_as_number": 100.0,
}

// things are what clients put under a name; the functions say what is there.
var things = map[string]func(name string) object{
	"_index_template": func(name string) object {
		return object{"index_templates": []object{{"name": name, "index_template": object{
			"index_patterns": []string{name + "*"}, "composed_of": []string{}, "priority": 100, "data_stream": object{},
		}}}}
	},
	"_component_template": func(name string) object {
		return object{"component_templates": []object{{"name": name, "component_template": object{"template": object{}}}}}
	},
	"_template": func(name string) object {
		return object{name: object{"order": 0, "index_patterns": []string{name + "*"}, "settings": object{}, "mappings": object{}, "aliases": object{}}}
	},
	"_ilm/policy": func(name string) object {
		return object{name: object{"version": 1, "policy": object{"phases": object{}}}}
	},
	"_ingest/pipeline": func(name string) object {
		return object{name: object{"processors": []object{}}}
	},
	"_alias": func(name string) object {
		return object{name: object{"aliases": object{name: object{}}}}
	},
	"_data_stream": func(name string) object {
		return object{"data_streams": []object{{
			"name": name, "timestamp_field": object{"name": "@timestamp"}, "indices": []object{},
			"generation": 1, "status": "GREEN", "template": name,
		}}}
	},
}

// setup answers a set-up call. It reports false for what is none.
func (r *Receiver) setup(w http.ResponseWriter, req *http.Request, path []string) bool {
	read := req.Method == http.MethodGet || req.Method == http.MethodHead
	if !strings.HasPrefix(path[0], "_") {
		return r.setupIndex(w, req, path)
	}
	first, rest := path[0], path[1:]
	if len(rest) > 0 && (first == "_ilm" || first == "_ingest") {
		first, rest = first+"/"+rest[0], rest[1:]
	}
	if of, ok := things[first]; ok {
		return r.thing(w, req, of, rest)
	}
	if !read {
		switch first {
		case "_aliases", "_refresh", "_flush", "_cluster":
			r.acknowledge(w, req)
			return true
		}
		return false
	}
	switch first {
	case "_license":
		replyObject(w, license)
	case "_xpack":
		if len(rest) > 0 && rest[0] == "license" {
			replyObject(w, license)
		} else {
			replyObject(w, xpack)
		}
	case "_cluster":
		return r.cluster(w, rest)
	case "_cat":
		r.cat(w, req, rest)
	case "_nodes":
		replyObject(w, r.nodes(req))
	case "_ilm/status":
		replyObject(w, object{"operation_mode": "RUNNING"})
	case "_aliases":
		replyObject(w, object{})
	default:
		return false
	}
	return true
}

// putIndex answers the creation of an index. There is none afterwards either: a
// HEAD for any path would find one otherwise.
func (r *Receiver) putIndex(w http.ResponseWriter, req *http.Request, index string) bool {
	if req.Method != http.MethodPut {
		return false
	}
	r.discard(req)
	replyObject(w, object{"acknowledged": true, "shards_acknowledged": true, "index": index})
	return true
}

// setupIndex answers calls for something of an index.
func (r *Receiver) setupIndex(w http.ResponseWriter, req *http.Request, path []string) bool {
	switch sub := path[1]; {
	case sub == "_alias" || sub == "_aliases" || sub == "_mapping" || sub == "_settings":
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			field := map[string]string{"_mapping": "mappings", "_settings": "settings"}[sub]
			if field == "" {
				field = "aliases"
			}
			replyObject(w, object{path[0]: object{field: object{}}})
		} else {
			r.acknowledge(w, req)
		}
	case (sub == "_refresh" || sub == "_flush" || sub == "_rollover") && req.Method == http.MethodPost:
		r.acknowledge(w, req)
	default:
		return false
	}
	return true
}

// thing answers a call for what clients keep under a name.
func (r *Receiver) thing(w http.ResponseWriter, req *http.Request, of func(string) object, rest []string) bool {
	switch {
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		r.acknowledge(w, req)
	case len(rest) == 0 || rest[0] == "" || strings.ContainsAny(rest[0], "*,"):
		// A list, or a pattern: there is nothing to be found by looking around.
		empty := of("")
		for k := range empty {
			if k == "" {
				delete(empty, k)
			} else {
				empty[k] = []object{}
			}
		}
		replyObject(w, empty)
	default:
		replyObject(w, of(rest[0]))
	}
	return true
}

// acknowledge says that all is done.
func (r *Receiver) acknowledge(w http.ResponseWriter, req *http.Request) {
	r.discard(req)
	replyObject(w, object{"acknowledged": true})
}

// discard reads the body, so that the client comes to see the answer.
func (r *Receiver) discard(req *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(req.Body, int64(r.cfg.MaxBody)))
}

func (r *Receiver) cluster(w http.ResponseWriter, rest []string) bool {
	what := ""
	if len(rest) > 0 {
		what = rest[0]
	}
	switch what {
	case "health":
		replyObject(w, health)
	case "state":
		// Vector takes the version of the state for that of the server.
		major := 0
		for _, c := range r.cfg.Version {
			if c == '.' {
				break
			}
			major = major*10 + int(c-'0')
		}
		replyObject(w, object{"cluster_name": clusterName, "cluster_uuid": clusterUUID, "version": major, "state_uuid": clusterUUID})
	case "settings":
		replyObject(w, object{"persistent": object{}, "transient": object{}})
	default:
		return false
	}
	return true
}

// cat answers with tables for people; only that of health has a row.
func (r *Receiver) cat(w http.ResponseWriter, req *http.Request, rest []string) {
	isHealth := len(rest) > 0 && rest[0] == "health"
	if req.URL.Query().Get("format") == "json" || strings.Contains(req.Header.Get("Accept"), "json") {
		rows := []object{}
		if isHealth {
			rows = append(rows, object{"cluster": clusterName, "status": "green", "node.total": "1", "node.data": "1"})
		}
		reply(w, http.StatusOK, encode(rows))
		return
	}
	text := ""
	if isHealth {
		now := r.d.Now().UTC()
		text = strconv.FormatInt(now.Unix(), 10) + now.Format(" 15:04:05 ") + clusterName + " green 1 1 0 0 0 0 0 0 - 100.0%\n"
	}
	w.Header().Set(productHeader, product)
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, text) // a client that is gone does not matter here
}

// nodes answers a client that looks for other nodes with the address that it
// has used.
func (r *Receiver) nodes(req *http.Request) object {
	nodes := object{}
	if host, port, err := net.SplitHostPort(req.Host); err == nil && port != "" {
		nodes[nodeID] = object{
			"name": clusterName, "host": host, "ip": host, "transport_address": req.Host, "version": r.cfg.Version,
			"build_flavor": "default", "roles": []string{"data", "ingest"},
			"http": object{
				"bound_address": []string{req.Host}, "publish_address": req.Host,
				"max_content_length_in_bytes": int64(r.cfg.MaxBody),
			},
		}
	}
	return object{
		"_nodes":       object{"total": len(nodes), "successful": len(nodes), "failed": 0},
		"cluster_name": clusterName, "nodes": nodes,
	}
}

func encode(v any) []byte {
	p, _ := json.Marshal(v) // maps, slices and plain values: there is nothing that could fail
	return p
}

func replyObject(w http.ResponseWriter, o object) { reply(w, http.StatusOK, encode(o)) }

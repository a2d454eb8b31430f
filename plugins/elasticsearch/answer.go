package elasticsearch

import (
	"net/http"
	"strconv"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// product is what clients since 7.14 look for in every answer.
const (
	productHeader = "X-Elastic-Product"
	product       = "Elasticsearch"
)

func reply(w http.ResponseWriter, code int, body []byte) {
	h := w.Header()
	h.Set(productHeader, product)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that is gone does not matter here
}

// maxReason bounds the text of an error.
const maxReason = 4 << 10

func replyError(w http.ResponseWriter, code int, typ, reason string) {
	cause := object{"type": typ, "reason": clip(reason, maxReason)}
	reply(w, code, encode(object{
		"error":  object{"root_cause": []object{cause}, "type": typ, "reason": cause["reason"]},
		"status": code,
	}))
}

func retryAfter(wait time.Duration) string {
	return strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
}

// flushAt is how much of an answer is held before it is written.
const flushAt = 32 << 10

// answer writes the answer to a bulk request and returns its status.
func (w *work) answer(rw http.ResponseWriter, f filter, took time.Duration) int {
	failed := false
	for i := range w.items {
		if w.items[i].state == refused {
			failed = true
			break
		}
	}
	h := rw.Header()
	h.Set(productHeader, product)
	h.Set("Content-Type", "application/json")
	out := append(w.out[:0], '{')
	if f.took {
		out = append(out, `"took":`...)
		out = strconv.AppendInt(out, took.Milliseconds(), 10)
		out = append(out, ',')
	}
	if f.errors {
		// Fluent Bit looks for errors and items as they stand here if it could
		// not hold the whole answer.
		out = append(out, `"errors":`...)
		out = strconv.AppendBool(out, failed)
		out = append(out, ',')
	}
	if f.items {
		out = append(out, `"items":[`...)
		for i := range w.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = w.appendItem(out, i, f)
			if len(out) >= flushAt {
				_, _ = rw.Write(out) // a client that is gone does not matter here
				out = out[:0]
			}
		}
		out = append(out, ']', ',')
	}
	if n := len(out) - 1; out[n] == ',' {
		out = out[:n]
	}
	out = append(out, '}')
	_, _ = rw.Write(out)
	w.out = out
	return http.StatusOK
}

func (w *work) appendItem(out []byte, i int, f filter) []byte {
	it := &w.items[i]
	out = append(out, `{"`...)
	out = append(out, it.op.String()...)
	out = append(out, `":{`...)
	if f.names {
		out = append(out, `"_index":`...)
		out = w.appendString(out, w.bytes(it.index))
		out = append(out, `,"_id":`...)
		out = w.appendID(out, i)
		out = append(out, ',')
	}
	code, result := http.StatusCreated, `"_version":1,"result":"created",`
	switch it.state {
	case refused:
		var typ string
		code, typ = itemStatus(it.reason)
		result = ""
		if f.error {
			out = append(out, `"error":{"type":"`...)
			out = append(out, typ...)
			out = append(out, `","reason":`...)
			out = w.appendString(out, []byte(clip(w.texts[it.text], maxReason)))
			out = append(out, '}', ',')
		}
	case ignored:
		code, result = http.StatusNotFound, `"_version":1,"result":"not_found",`
	}
	if f.result {
		out = append(out, result...)
	}
	if f.status {
		out = append(out, `"status":`...)
		out = strconv.AppendInt(out, int64(code), 10)
		out = append(out, ',')
	}
	if n := len(out) - 1; out[n] == ',' {
		out = out[:n]
	}
	return append(out, '}', '}')
}

// appendID appends the id of an item, which may have none of its own.
func (w *work) appendID(out []byte, i int) []byte {
	if id := w.items[i].id; !id.empty() {
		return w.appendString(out, w.bytes(id))
	}
	out = append(out, '"')
	out = strconv.AppendInt(out, w.arrival, 36)
	out = append(out, '-')
	out = strconv.AppendInt(out, int64(i), 10)
	return append(out, '"')
}

func (w *work) appendString(out, s []byte) []byte {
	w.node.Nodes = append(w.node.Nodes[:0], mapping.Node{Kind: mapping.String, Str: s})
	return mapping.AppendJSON(out, &w.node, 0)
}

// answerDocument writes the answer to a request with one document.
func (w *work) answerDocument(rw http.ResponseWriter) int {
	it := &w.items[0]
	if it.state == refused {
		code, typ := itemStatus(it.reason)
		replyError(rw, code, typ, w.texts[it.text])
		return code
	}
	out := append(w.out[:0], `{"_index":`...)
	out = w.appendString(out, w.bytes(it.index))
	out = append(out, `,"_id":`...)
	out = w.appendID(out, 0)
	out = append(out, `,"_version":1,"result":"created","_shards":{"total":1,"successful":1,"failed":0},"_seq_no":0,"_primary_term":1}`...)
	reply(rw, http.StatusCreated, out)
	w.out = out
	return http.StatusCreated
}

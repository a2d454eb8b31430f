package forward

import (
	"fmt"

	"github.com/ugorji/go/codec"

	"github.com/loki-go/loki-go/plugins/msgpack"
)

// options reads the option maps of messages. The zero value is not ready; it is
// for one goroutine.
type options struct {
	handle codec.MsgpackHandle
	dec    *codec.Decoder
	pairs  optionPairs
}

// optionPairs holds an option map as its keys and values, in turn, each as its
// bytes in the message: an ack has to have those of the chunk id, and a key may
// be of any type. Of nil there are no bytes.
type optionPairs []codec.Raw

// MapBySlice tells the codec that the slice stands for a map.
func (optionPairs) MapBySlice() {}

func newOptions() *options {
	o := &options{}
	o.handle.Raw, o.handle.ZeroCopy = true, true
	o.dec = codec.NewDecoderBytes(nil, &o.handle)
	return o
}

// maxOption bounds option maps. The codec calls itself for each level of
// nesting, of which this many bytes can have as many.
const maxOption = 128 << 10

// read fills m with what p, a whole value, has: a map, or nil for none. Keys
// that mean nothing here are passed over; the last of several equal ones counts.
func (o *options) read(m *message, p []byte) error {
	if p[0] == 0xc0 {
		return nil
	}
	if _, _, ok := msgpack.ReadMap(p, 0); !ok {
		return errOption
	}
	if len(p) > maxOption {
		return fmt.Errorf("its option has %d bytes, more than %d", len(p), maxOption)
	}
	o.dec.ResetBytes(p)
	o.pairs = o.pairs[:0]
	if err := o.dec.Decode(&o.pairs); err != nil {
		return fmt.Errorf("its option cannot be read: %w", err)
	}
	for i := 0; i+1 < len(o.pairs); i += 2 {
		if key, _, ok := msgpack.ReadString(o.pairs[i], 0); ok {
			if err := m.option(string(key), o.pairs[i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *message) option(key string, value []byte) error {
	switch key {
	case "chunk":
		switch {
		case len(value) > maxChunk:
			return errChunk
		case len(value) == 0 || value[0] == 0xc2: // Ruby's nil and false are no chunk to Fluentd
			m.chunk = nil
		default:
			m.chunk = value
		}
	case "compressed":
		m.compressed, _, _ = msgpack.ReadString(value, 0)
	case "fluent_signal":
		m.signal, _, _ = msgpack.ReadInt(value, 0)
	case "metadata":
		m.meta = value
	}
	return nil
}

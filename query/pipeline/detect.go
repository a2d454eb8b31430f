package pipeline

import "github.com/loki-go/loki-go/internal/labels"

// Detector looks for fields in lines of which the format is not known.
type Detector struct {
	state  state
	json   *jsonStage
	logfmt *logfmtStage
}

// NewDetector returns a detector.
func NewDetector() *Detector {
	d := &Detector{json: newJSON().(*jsonStage), logfmt: &logfmtStage{}}
	d.state.hints = &hints{}
	return d
}

// For sets the stream of the lines to come.
func (d *Detector) For(stream labels.Labels) { d.state.base = borrowed(stream) }

// Parse returns the fields of a line, read as JSON (with the keys on the way to
// them), or else as logfmt.
func (d *Detector) Parse(line []byte) (fields labels.Labels, parser string, paths map[string][]string) {
	d.state.reset()
	d.json.paths = map[string][]string{}
	d.json.run(0, line, &d.state)
	if d.state.err == "" {
		return own(d.state.parsed), "json", d.json.paths
	}
	d.state.reset()
	d.logfmt.run(0, line, &d.state)
	return own(d.state.parsed), "logfmt", nil
}

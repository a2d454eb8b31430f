package mapping

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// maxLabelMap is the largest label map file.
const maxLabelMap = 1 << 20

// labelMap returns what the label map of c says, in its order: from LabelMap,
// else from LabelMapFile.
func (c *Config) labelMap() ([]keyed, error) {
	if len(c.LabelMap) > 0 {
		return parseLabelMap(c.LabelMap)
	}
	if c.LabelMapFile == "" {
		return nil, nil
	}
	f, err := os.Open(c.LabelMapFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLabelMap+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxLabelMap {
		return nil, fmt.Errorf("%s is larger than %d bytes", c.LabelMapFile, maxLabelMap)
	}
	keys, err := parseLabelMap(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.LabelMapFile, err)
	}
	return keys, nil
}

// parseLabelMap reads a label map: a JSON object as deep as the records are,
// with the name of a label where the record has the value.
//
//	{"kubernetes": {"namespace_name": "namespace", "labels": {"app": "app"}}, "stream": "stream"}
func parseLabelMap(data []byte) ([]keyed, error) {
	var s Stream
	var rec Record
	s.Reset(data, false)
	if err := s.Next(&rec); err == io.EOF {
		return nil, errors.New("no JSON object")
	} else if err != nil {
		return nil, err
	}
	if rec.Nodes[0].Kind != Map || s.inArray {
		return nil, errors.New("not a JSON object")
	}
	keys, err := appendLabelMap(nil, &rec, 0, nil)
	if err != nil {
		return nil, err
	}
	if space(data, s.Offset()) < len(data) {
		return nil, fmt.Errorf("more text behind the object, at offset %d", s.Offset())
	}
	return keys, nil
}

func appendLabelMap(keys []keyed, rec *Record, i int, path []byte) ([]keyed, error) {
	for j, end := i+1, int(rec.Nodes[i].End); j < end; j = rec.Next(j) {
		n := &rec.Nodes[j]
		at := path
		if i > 0 {
			at = append(at, '.')
		}
		at = append(at, n.Key...)
		switch n.Kind {
		case Map:
			var err error
			if keys, err = appendLabelMap(keys, rec, j, at); err != nil {
				return nil, err
			}
		case String:
			k := keyed{string(n.Str), ref{path: string(at)}}
			if _, err := checkRef(k.ref); err != nil {
				return nil, err
			}
			if err := checkLabelName(k.name); err != nil {
				return nil, fmt.Errorf("%q: %w", clip(k.path), err)
			}
			keys = append(keys, k)
		default:
			return nil, fmt.Errorf("%q: neither the name of a label nor an object", clip(string(at)))
		}
	}
	return keys, nil
}

func checkLabelName(name string) error {
	if good := string(AppendLabelName(nil, []byte(name))); good != name {
		return fmt.Errorf("%q is not a label name, %q would be one", clip(name), clip(good))
	}
	return nil
}

package gateway

import "github.com/loki-go/loki-go/proto/push"

// metaSize returns how many pairs an entry's metadata has, and the bytes of
// their names and values. It is what push.PairsOf would find, but steps over
// pairs in the form that every writer gives short ones without taking them
// apart:
//
//	0x1a len  0x0a len name  0x12 len value
func metaSize(p []byte) (pairs, size int) {
	for len(p) >= 6 {
		end, name := 2+int(p[1]), int(p[3])
		at := 4 + name // the value's tag
		if p[0] != 0x1a || p[2] != 0x0a || p[1]|p[3] >= 0x80 || end > len(p) || at+1 >= end ||
			p[at] != 0x12 || p[at+1] >= 0x80 || at+2+int(p[at+1]) != end {
			break
		}
		pairs++
		size += name + int(p[at+1])
		p = p[end:]
	}
	for it := push.PairsOf(p); it.Next(); {
		pairs++
		size += len(it.Name) + len(it.Value)
	}
	return pairs, size
}

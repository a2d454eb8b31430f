package find

// pair returns the first place in b that has the byte first, and distance
// behind it the byte second; -1 if there is none. The distance is positive.
//
//go:noescape
func pair(b []byte, distance int, first, second byte) int

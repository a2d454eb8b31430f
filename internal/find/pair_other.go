//go:build !amd64

package find

// pair returns the first place in b that has the byte first, and distance
// behind it the byte second, with the bits of the folds set in what is there;
// -1 if there is none. The distance is not negative.
func pair(b []byte, distance int, first, second, firstFold, secondFold byte) int {
	return pairGeneric(b, distance, first, second, firstFold, secondFold)
}

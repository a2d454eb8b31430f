//go:build !integration

package coverage

// Sizes of simulated worlds.
const (
	smallWorld   = 1
	largeWorlds  = false
	randomWorlds = uint64(60)
)

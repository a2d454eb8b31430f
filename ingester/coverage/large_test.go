//go:build integration

package coverage

// Sizes of simulated worlds.
const (
	smallWorld   = 2
	largeWorlds  = true
	randomWorlds = uint64(2000)
)

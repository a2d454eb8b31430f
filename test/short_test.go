//go:build !integration

package test

import "time"

// The long versions run with the tag integration.
const (
	kills      = 3
	powerCuts  = 4
	killWithin = 700 * time.Millisecond
)

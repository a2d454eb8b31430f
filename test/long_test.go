//go:build integration

package test

import "time"

const (
	kills      = 20
	powerCuts  = 20
	killWithin = 2 * time.Second
)

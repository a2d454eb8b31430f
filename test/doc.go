// Package test holds the tests of the whole system: they start the binary as
// a user does, or wire its parts in one process over a file layer that fails.
package test

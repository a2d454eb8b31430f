package test

import (
	"os"
	"testing"

	"github.com/loki-go/loki-go/internal/testkit"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testkit.RemoveBinary()
	os.Exit(code)
}

package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/ring"
)

var _ ring.Membership = (*Membership)(nil)

// childEnv makes the test binary a process that is a member until it is killed.
const childEnv = "LOKI_GO_RING_TEST_CHILD"

type childJob struct {
	Config   Config
	Owner    string
	Instance ring.Instance
}

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		child(job)
	}
	goleak.VerifyTestMain(m)
}

func child(text string) {
	var job childJob
	err := json.Unmarshal([]byte(text), &job)
	if err == nil {
		var m *Membership
		if m, err = Open(job.Config, Deps{Owner: job.Owner}); err == nil {
			err = m.Register(context.Background(), job.Instance)
		}
	}
	fmt.Println("registered:", err)
	select {}
}

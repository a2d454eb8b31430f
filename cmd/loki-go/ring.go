package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/consul"
	"github.com/loki-go/loki-go/ring/status"
)

// ringFlags are those of ring beside all settings of the server.
type ringFlags struct {
	JSON   bool `yaml:"json" help:"show: print what /ring answers to programs"`
	DryRun bool `yaml:"dry-run" help:"forget: say what would be removed, and leave it"`
}

const ringUsage = `loki-go ring show [flags] [settings of the server]
loki-go ring forget INSTANCE [flags] [settings of the server]

show prints the members of a ring in Consul. forget removes one that cannot
leave by itself; one that lives enters again within a moment. The settings
ring.prefix, ring.cluster and ring.consul say where the ring is.

`

// ringTool looks at a ring in Consul, and mends it.
func ringTool(ctx context.Context, args []string, getenv config.Getenv, stdout, stderr io.Writer) int {
	var f ringFlags
	s, err := newSettings(&f)
	if err != nil {
		return fail(stderr, err)
	}
	var words []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		words, args = append(words, args[0]), args[1:]
	}
	// What else the settings say is of no interest here, right or wrong.
	errs := s.read(args, getenv)
	if s.cmd.Help || s.cmd.H {
		fmt.Fprint(stdout, ringUsage)
		s.cmdFlags[1].Usage(stdout)
		return 0
	}
	cfg := s.cfg.Ring.InConsul()
	for _, err := range cfg.Validate() {
		errs = append(errs, fmt.Errorf("ring.%w", err))
	}
	if len(errs) > 0 {
		return fail(stderr, errors.Join(errs...))
	}
	switch {
	case len(words) == 1 && words[0] == "show":
		err = f.show(ctx, cfg, s.cfg.Ring.ReplicationFactor, stdout)
	case len(words) == 2 && words[0] == "forget":
		err = f.forget(ctx, cfg, words[1], stdout)
	default:
		err = errors.New("usage: loki-go ring show, or loki-go ring forget INSTANCE; -help has the flags")
	}
	if err != nil {
		return fail(stderr, err)
	}
	return 0
}

func (f *ringFlags) show(ctx context.Context, cfg consul.Config, rf int, stdout io.Writer) error {
	st, err := consul.Show(ctx, cfg)
	if err != nil {
		return err
	}
	report := status.New(memberList{st}, status.Options{ReplicationFactor: rf}).Report()
	if f.JSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tADDRESS\tZONE\tSTATE\tAGE\tSHARE\tGENERATION\tVERSION")
	for _, in := range report.Instances {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.1f %%\t%d\t%s\n", in.ID, in.Addr, in.Zone, in.State, in.Age, 100*in.Share, in.Generation, in.Version)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, i := range report.Ignored {
		fmt.Fprintf(stdout, "ignored: %s: %s\n", i.Key, i.Reason)
	}
	_, err = fmt.Fprintf(stdout, "%d of %d instances are ACTIVE\n", report.Active, len(report.Instances))
	return err
}

func (f *ringFlags) forget(ctx context.Context, cfg consul.Config, id string, stdout io.Writer) error {
	gone, err := consul.Forget(ctx, cfg, id, f.DryRun)
	if err != nil {
		return err
	}
	verb, after := "removed", "; if it lives it enters again"
	if f.DryRun {
		verb, after = "would remove", ""
	}
	session := "no session"
	if gone.Session != "" {
		session = "session " + gone.Session
	}
	in := gone.Instance
	_, err = fmt.Fprintf(stdout, "%s %s: %s, %s, generation %d, %s%s\n", verb, gone.Key, in.Addr, in.State, in.Generation, session, after)
	return err
}

// memberList is a list that was read once.
type memberList struct{ s ring.Status }

func (m memberList) Status() ring.Status { return m.s }

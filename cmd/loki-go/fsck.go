package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/server"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/fsck"
)

// Exit codes of tools that look for damage.
const (
	exitClean    = 0
	exitFindings = 1
	exitFailed   = 2
)

// fsckFlags are those of fsck beside all settings of the server.
type fsckFlags struct {
	fsck.Config `yaml:",inline"`
	JSON        bool `yaml:"json" help:"print one JSON object a finding, and one at the end with the summary"`
}

// progressEvery is how often fsck tells how far it is.
const progressEvery = 5 * time.Second

func fsckBucket(ctx context.Context, args []string, getenv config.Getenv, stdout, stderr io.Writer) int {
	f := fsckFlags{Config: fsck.DefaultConfig()}
	s, err := newSettings(&f)
	if err != nil {
		return failWith(stderr, exitFailed, err)
	}
	errs := s.load(args, getenv)
	if s.cmd.Help || s.cmd.H {
		fmt.Fprint(stdout, "loki-go fsck [flags] [settings of the server]\n\n"+
			"Finds chunks without index, index entries without chunk, and what is damaged or\n"+
			"unknown, in the bucket that the settings name. It may run beside a server. Exit\n"+
			"code 0: all is well, 1: there are findings, 2: it could not look at everything.\n\n")
		s.cmdFlags[1].Usage(stdout)
		return exitClean
	}
	if errs = append(errs, f.Validate()...); len(errs) > 0 {
		return failWith(stderr, exitFailed, errors.Join(errs...))
	}
	bucket, closer, err := server.OpenBucket(ctx, s.cfg, vfs.OS)
	if err != nil {
		return failWith(stderr, exitFailed, err)
	}
	code, err := f.run(ctx, s, getenv, fsck.Deps{Bucket: bucket, FileKeys: s.cfg.FileKeys()}, stdout, stderr)
	if err = errors.Join(err, closer.Close()); err != nil {
		return failWith(stderr, exitFailed, err)
	}
	return code
}

func (f *fsckFlags) run(ctx context.Context, s *settings, getenv config.Getenv, d fsck.Deps, stdout, stderr io.Writer) (int, error) {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	var err error
	if d.Retention, err = server.Retention(s.cfg, getenv, log); err != nil {
		return exitFailed, err
	}
	p := &fsckPrinter{w: stdout, json: f.JSON}
	d.Report = p.finding
	c := fsck.New(f.Config, d)
	most := c.Progress()
	fmt.Fprintf(stderr, "memory is bounded by %d listings at a time (%s), the names of %d chunks, of index files and of one tenant's streams, and %d chunks and index files; more is looked at in parts\n",
		most.ListingsAtMost, f.MaxMemory, most.ChunkNamesAtMost, most.ObjectsAtMost)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { showProgress(c, stop, stderr) })
	sum, err := c.Run(ctx)
	close(stop)
	wg.Wait()
	p.summary(sum)
	switch {
	case err != nil:
		return exitFailed, err
	case p.err != nil:
		return exitFailed, fmt.Errorf("print: %w", p.err)
	case sum.Findings() > 0:
		return exitFindings, nil
	}
	return exitClean, nil
}

func showProgress(c *fsck.Checker, stop <-chan struct{}, w io.Writer) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			p := c.Progress()
			fmt.Fprintf(w, "%s: %d index files, %d chunks, %s of them read, %d findings\n",
				p.Phase, p.IndexFiles, p.Chunks, roughly(p.ChunkBytes), p.Findings)
		}
	}
}

// roughly is a number of bytes for people.
func roughly(n int64) string {
	for _, u := range []units.Bytes{units.GiB, units.MiB, units.KiB} {
		if n >= int64(u) {
			return fmt.Sprintf("%.1f%s", float64(n)/float64(u), strings.TrimLeft(u.String(), "0123456789"))
		}
	}
	return fmt.Sprintf("%dB", n)
}

// fsckPrinter writes findings as they come.
type fsckPrinter struct {
	w    io.Writer
	json bool
	err  error
}

func (p *fsckPrinter) object(v any) {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(p.w, "%s\n", b)
	}
	p.err = errors.Join(p.err, err)
}

func (p *fsckPrinter) printf(format string, args ...any) {
	_, err := fmt.Fprintf(p.w, format, args...)
	p.err = errors.Join(p.err, err)
}

func (p *fsckPrinter) finding(f fsck.Finding) {
	if p.err != nil {
		return
	}
	if p.json {
		p.object(f)
		return
	}
	p.printf("%s: %s: %s", f.Kind, f.Key, f.Detail)
	if f.Index != "" {
		p.printf(", in %s", f.Index)
	}
	if f.Repair != "" {
		p.printf("; repaired: %s", f.Repair)
	}
	p.printf("\n")
}

func (p *fsckPrinter) summary(s *fsck.Summary) {
	if p.json {
		p.object(map[string]any{"summary": s, "findings": s.Findings(), "repaired": s.Repaired()})
		return
	}
	for _, tenant := range slices.Sorted(maps.Keys(s.Tenants)) {
		n := s.Tenants[tenant]
		name := "tenant " + tenant
		if tenant == "" {
			name = "no or many tenants"
		}
		p.printf("%s: %d chunks (%s read), %d index files with %d listings", name, n.Chunks, roughly(n.ReadBytes), n.IndexFiles, n.Listings)
		for _, k := range slices.Sorted(maps.Keys(n.Findings)) {
			p.printf(", %d %s", n.Findings[k], k)
		}
		if n.Repaired > 0 {
			p.printf(", %d repaired", n.Repaired)
		}
		p.printf("\n")
	}
	if n := s.Findings(); n > 0 {
		p.printf("%d findings, %d repaired\n", n, s.Repaired())
		return
	}
	p.printf("all is well\n")
}

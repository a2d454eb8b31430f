package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/loki-go/loki-go/gateway/auth"
	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/plugins/mapping/explain"
)

// subcommand is something else than running the server. It reads stdin and
// writes to stdout; its error is for people.
type subcommand struct {
	name, help string
	run        func(args []string, getenv config.Getenv, stdin io.Reader, stdout io.Writer) error
	// tool is run instead, if there is no run, and returns the exit code. It
	// ends with ctx.
	tool func(ctx context.Context, args []string, getenv config.Getenv, stdout, stderr io.Writer) int
}

var subcommands = []subcommand{
	{name: "explain", help: "show what records on standard input would become; -help has its flags", run: explainRecords},
	{name: "hash-password", help: "print the hash of a password on standard input, for auth.users-file", run: hashPassword},
	{name: "fsck", help: "look for chunks without index, index without chunks, and damage in the object store, and mend it; -help has its flags", tool: fsckBucket},
	{name: "ring", help: "show the members of a ring in Consul (ring show), remove one that is dead (ring forget INSTANCE); -help has its flags", tool: ringTool},
	{name: "inspect", help: "show what is in a chunk, an index file, a WAL segment or a block file, as in loki-go inspect FILE; -help has its flags", tool: inspectObject},
}

// explainFlags are those of explain beside all settings of the server.
type explainFlags struct {
	Receiver string `yaml:"receiver" help:"receiver that gets the records: forward, json, logstash, fluentbit, elasticsearch, syslog"`
	Format   string `yaml:"format" help:"of the input: json, msgpack, or auto (as it looks)"`
	Tag      string `yaml:"tag" help:"tag of all records"`
	Tenant   string `yaml:"tenant" help:"tenant of records that name none"`
	JSON     bool   `yaml:"json" help:"print one JSON object a record"`
}

func explainRecords(args []string, getenv config.Getenv, stdin io.Reader, stdout io.Writer) error {
	f := explainFlags{Receiver: "forward", Format: "auto"}
	s, err := newSettings(&f)
	if err != nil {
		return err
	}
	errs := s.load(args, getenv)
	if s.cmd.Help || s.cmd.H {
		fmt.Fprint(stdout, "loki-go explain [flags] [settings of the server] <records\n\n"+
			"Shows tenant, stream, time, line and structured metadata of every record.\n\n")
		s.cmdFlags[1].Usage(stdout)
		return nil
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return explain.Run(stdin, stdout, explain.Options{
		Mapping: s.cfg.Mapping, Limits: s.cfg.MappingLimits(), Receiver: f.Receiver,
		Format: f.Format, Tag: f.Tag, Tenant: f.Tenant, JSON: f.JSON,
	})
}

// maxPassword is what bcrypt takes, and more than enough to find out.
const maxPassword = 4096

func hashPassword(args []string, _ config.Getenv, stdin io.Reader, stdout io.Writer) error {
	if len(args) > 0 {
		return errors.New("hash-password takes no arguments; it reads the password from standard input, which no other user can see")
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, maxPassword)).ReadString('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the password: %w", err)
	}
	hash, err := auth.HashPassword(strings.TrimRight(line, "\r\n"))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, hash)
	return err
}

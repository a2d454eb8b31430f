package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/objstore"
)

// What follows is for tools that look at what a server has stored, while it
// runs or not.

// OpenBucket opens the object store that cfg, which must be valid, names. It
// writes nothing to it. A directory that is not there is an error.
func OpenBucket(ctx context.Context, cfg Config, fsys vfs.FS) (objstore.Bucket, io.Closer, error) {
	if cfg.FileKeys() {
		dir := cfg.objectsDir()
		if _, err := fsys.Stat(dir); err != nil {
			return nil, nil, fmt.Errorf("data-dir: no objects: %w", err)
		}
		b, err := objstore.OpenFilesystem(fsys, dir)
		if err != nil {
			return nil, nil, fmt.Errorf("data-dir: %w", err)
		}
		return b, b, nil
	}
	b, err := cfg.Storage.open(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("storage.%s: %w", cfg.Storage.Type, err)
	}
	return objstore.Resilient(b, cfg.Storage.Requests, nil), b, nil
}

// FileKeys reports whether chunks are named as Loki's filesystem client names
// them.
func (c Config) FileKeys() bool { return c.Storage.Type == "filesystem" }

// Retention returns what the limits of cfg say of the life of chunks.
func Retention(cfg Config, getenv config.Getenv, log *slog.Logger) (compactor.Retention, error) {
	l, err := limits.New(cfg.Limits, getenv, log)
	if err != nil {
		return nil, fmt.Errorf("limits.overrides-file: %w", err)
	}
	return retention{l, log}, nil
}

package server

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunkcache"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/azure"
	"github.com/loki-go/loki-go/storage/objstore/gcs"
	"github.com/loki-go/loki-go/storage/objstore/s3"
)

// checkTime is how long the check of a remote store may hold up the start.
const checkTime = 30 * time.Second

// bucket opens the object store that the settings name.
func (s *Server) bucket() (objstore.Bucket, error) {
	if s.cfg.Storage.Type == "filesystem" {
		b, err := objstore.OpenFilesystem(s.d.FS, s.cfg.objectsDir())
		if err != nil {
			return nil, fmt.Errorf("data-dir: %w", err)
		}
		s.closeBucket(b)
		return b, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, checkTime)
	defer cancel()
	b, err := s.cfg.Storage.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("storage.%s: %w", s.cfg.Storage.Type, err)
	}
	s.closeBucket(b)
	remote := objstore.Resilient(b, s.cfg.Storage.Requests, s.d.Registry)
	return remote, s.checkBucket(ctx, remote)
}

// remoteBucket is what the clients of services have in common.
type remoteBucket interface {
	objstore.Bucket
	io.Closer
}

// open makes the client of the service that c names.
func (c StorageConfig) open(ctx context.Context) (remoteBucket, error) {
	switch c.Type {
	case "gcs":
		return gcs.Open(ctx, c.GCS)
	case "azure":
		return azure.Open(ctx, c.Azure)
	}
	return s3.Open(ctx, c.S3)
}

func (s *Server) closeBucket(b io.Closer) {
	s.closes = append(s.closes, func() {
		if err := b.Close(); err != nil {
			s.log.Warn("close of the object store failed", "err", err)
		}
	})
}

// checkBucket finds mistakes in the settings. An outage is none: what is
// pushed stays on local disk until the store is back.
func (s *Server) checkBucket(ctx context.Context, b objstore.Bucket) error {
	// Processes of one machine may start at the same time.
	err := objstore.Check(ctx, b, s.cfg.instanceID()+"-"+strconv.Itoa(os.Getpid()))
	switch objstore.KindOf(err) {
	case objstore.Transient, objstore.Throttled:
		s.log.Error("the object store does not answer; until it does, all stays on local disk", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("storage.%s: %w", s.cfg.Storage.Type, err)
	}
	return nil
}

// openStore makes what reads and writes the bucket: the store with its caches,
// and the compactor.
func (s *Server) openStore(b objstore.Bucket) error {
	fileKeys := s.cfg.Storage.Type == "filesystem"
	o := storage.Options{
		FileKeys: fileKeys, Registerer: s.d.Registry, Log: s.log, FS: s.d.FS,
		Limits: func(tenant string) storage.QueryLimits {
			l := s.limits.For(tenant)
			return storage.QueryLimits{MaxChunks: l.MaxChunksPerQuery, MaxBytes: l.MaxQueryBytesRead}
		},
	}
	if !fileKeys {
		// A filesystem store is a local disk already.
		o.IndexDir = filepath.Join(s.cfg.DataDir, "index-cache")
	}
	if s.cfg.Cache.Type != chunkcache.None {
		c, err := chunkcache.New(s.cfg.Cache, chunkcache.Deps{Log: s.log, Metrics: s.d.Registry})
		if err != nil {
			return fmt.Errorf("cache: %w", err)
		}
		s.closes = append(s.closes, c.Close)
		o.Cache = c
	}
	s.stored = storage.New(b, s.cfg.Storage.Config, o)
	s.closes = append(s.closes, s.stored.Close)
	if s.cfg.Compactor.Enabled {
		s.newCompactor(b)
	}
	return nil
}

package server

import (
	"net/http"

	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/objstore"
)

// targetCompactor is the target of a process that looks after the bucket and
// does nothing else: it has no receivers, no ingester and no WAL. It leaves
// nothing in the data directory and does not lock it, so that it can share a
// filesystem store with the process that fills it.
const targetCompactor = "compactor"

func (s *Server) newCompactor(b objstore.Bucket) {
	s.compactor = compactor.New(s.cfg.Compactor, compactor.Options{
		Bucket: b, FileKeys: s.cfg.Storage.Type == "filesystem", Retention: retention{s.limits, s.log},
		Log: s.log, Registerer: s.d.Registry,
	})
}

// compact opens the bucket for a compactor alone.
func (s *Server) compact() error {
	b, err := s.bucket()
	if err != nil {
		return err
	}
	if err := s.readLimits(); err != nil {
		return err
	}
	s.newCompactor(b)
	return nil
}

// operate makes the HTTP server of a compactor, which has the operational
// endpoints that make sense there.
func (s *Server) operate() error {
	if err := s.authenticate(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	o := &ops{
		ready: s.Ready, config: s.d.Settings, level: s.d.Level, metrics: s.d.Registry, log: s.log,
		services: func() []service { return []service{s.compactorService(), s.listening("http", s.HTTPAddr())} },
	}
	o.register(mux)
	return s.newHTTP(mux)
}

func (s *Server) compactorService() service {
	if s.compactor.Owner() {
		return service{"compactor", "running", ""}
	}
	return service{"compactor", "waiting for the lease", ""}
}

func (s *Server) serveCompactor() error {
	s.serveHTTP()
	s.start(func() { s.limits.Run(s.ctx) })
	s.start(func() { s.compactor.Run(s.ctx) })
	return nil
}

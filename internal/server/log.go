package server

import (
	"io"
	"log/slog"
)

// NewLogger returns the logger that cfg describes. level is set, and can be
// changed later.
func NewLogger(cfg LogConfig, level *slog.LevelVar, w io.Writer) (*slog.Logger, error) {
	l, err := cfg.level()
	if err != nil {
		return nil, err
	}
	level.Set(l)
	o := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}

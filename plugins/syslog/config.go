package syslog

import (
	"errors"
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
)

// Config says where the receiver listens and what it allows.
type Config struct {
	ListenTCP      string         `yaml:"listen-tcp" help:"address of the syslog receiver for TCP; empty: off"`
	ListenTLS      string         `yaml:"listen-tls" help:"address of the syslog receiver for TLS, port 6514 as a rule; empty: off"`
	ListenUDP      string         `yaml:"listen-udp" help:"address of the syslog receiver for UDP; empty: off"`
	ListenUnix     string         `yaml:"listen-unix" help:"path of a unix datagram socket to receive from, such as /dev/log; empty: off"`
	TLS            tlsconf.Server `yaml:"tls"`
	Tenant         string         `yaml:"tenant" help:"tenant of all that arrives here, which the protocol cannot name"`
	TimeZone       string         `yaml:"time-zone" help:"zone of times that name none, as Europe/Berlin; Local: that of this machine"`
	MaxMessage     units.Bytes    `yaml:"max-message" help:"largest message; a longer one becomes several entries"`
	MaxConnections int            `yaml:"max-connections" help:"most connections at a time, TCP and TLS together"`
	ReadTimeout    time.Duration  `yaml:"read-timeout" help:"time that a message, or a TLS handshake, may take to arrive once it has begun"`
	IdleTimeout    time.Duration  `yaml:"idle-timeout" help:"time after which a connection without messages is closed; 0: never"`
	DrainTimeout   time.Duration  `yaml:"drain-timeout" help:"how long a shutdown reads and stores what has been sent already"`
	UDPReaders     int            `yaml:"udp-readers" help:"sockets that share the UDP port, each with a reader; 0: one for each CPU, up to 4"`
	UDPBuffer      units.Bytes    `yaml:"udp-buffer" help:"receive buffer to ask the kernel for, for each UDP socket"`
	UDPQueue       units.Bytes    `yaml:"udp-queue" help:"datagrams of one socket that may wait to be stored; beyond them the kernel's buffer fills, and then it drops"`
}

// DefaultConfig listens nowhere. Senders of syslog keep connections for days,
// and learn of their end only when they have something to send.
func DefaultConfig() Config {
	return Config{
		TimeZone:       "Local",
		MaxMessage:     64 * units.KiB,
		MaxConnections: 4096,
		ReadTimeout:    30 * time.Second,
		IdleTimeout:    24 * time.Hour,
		DrainTimeout:   5 * time.Second,
		UDPBuffer:      8 * units.MiB,
		UDPQueue:       8 * units.MiB,
	}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	size := func(name string, v, low, high units.Bytes) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("%s: must be from %s to %s, is %s", name, low, high, v))
		}
	}
	// RFC 5425 demands 2 KiB, and mapping's limits end at a few MiB.
	size("max-message", c.MaxMessage, 2*units.KiB, units.MiB)
	size("udp-buffer", c.UDPBuffer, 0, units.GiB)
	size("udp-queue", c.UDPQueue, 128*units.KiB, units.GiB)
	if c.MaxConnections <= 0 {
		errs = append(errs, fmt.Errorf("max-connections: must be more than 0, is %d", c.MaxConnections))
	}
	if c.UDPReaders < 0 || c.UDPReaders > 256 {
		errs = append(errs, fmt.Errorf("udp-readers: must be from 0 to 256, is %d", c.UDPReaders))
	}
	if c.ReadTimeout <= 0 {
		errs = append(errs, fmt.Errorf("read-timeout: must be more than 0, is %s", c.ReadTimeout))
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"idle-timeout", c.IdleTimeout}, {"drain-timeout", c.DrainTimeout}} {
		if d.d < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative, is %s", d.name, d.d))
		}
	}
	if _, err := time.LoadLocation(c.TimeZone); err != nil {
		errs = append(errs, fmt.Errorf("time-zone: %w", err))
	}
	for _, err := range c.TLS.Validate() {
		errs = append(errs, fmt.Errorf("tls.%w", err))
	}
	if c.ListenTLS != "" && !c.TLS.Enabled() {
		errs = append(errs, errors.New("tls.cert-file: must be set when listen-tls is"))
	}
	return errs
}

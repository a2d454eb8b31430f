package chunkcache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisClient talks to one Redis server. Requests end with the deadline of their
// context, but not before it when that is cancelled.
type redisClient struct {
	rdb        *redis.Client
	expiration time.Duration
}

// quiet ends go-redis's habit of writing to standard error, which it can only do
// for all of the process: what it says there, the calls return.
var quiet = sync.OnceFunc(func() { redis.SetLogger(noLog{}) })

type noLog struct{}

func (noLog) Printf(context.Context, string, ...any) {}

func redisConnector(c Config) (func(address string) client, error) {
	quiet()
	var conf *tls.Config
	if c.TLS.Enabled {
		var err error
		if conf, err = c.TLS.Config(); err != nil {
			return nil, fmt.Errorf("tls.%w", err)
		}
	}
	return func(address string) client {
		return &redisClient{expiration: c.Expiration, rdb: redis.NewClient(&redis.Options{
			Addr: address, Username: c.Redis.Username, Password: c.Redis.Password, DB: c.Redis.DB, TLSConfig: conf,
			DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, PoolTimeout: c.Timeout,
			ContextTimeoutEnabled: true, PoolSize: c.Connections,
			// A request that failed is a miss. Idle connections that broke are
			// found out without a retry.
			MaxRetries: -1, DialerRetries: 1,
			// Old servers, and what stands in for Redis, need know nothing but
			// GET and SET.
			Protocol: 2, DisableIdentity: true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		})}
	}, nil
}

func (r *redisClient) get(ctx context.Context, key string) ([]byte, error) {
	object, err := r.rdb.Get(ctx, key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, errMiss
	}
	return object, err
}

func (r *redisClient) set(ctx context.Context, key string, object []byte) error {
	err := r.rdb.Set(ctx, key, object, r.expiration).Err()
	for _, prefix := range []string{"OOM ", "READONLY ", "MISCONF "} {
		if err != nil && redis.HasErrorPrefix(err, prefix) {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
	}
	return err
}

func (r *redisClient) ping(ctx context.Context) error { return r.rdb.Ping(ctx).Err() }

func (r *redisClient) close() { _ = r.rdb.Close() } // an error: closed before

// Package lokipb is generated from querier.proto: the gRPC service by which a
// Loki's queriers read from its ingesters.
package lokipb

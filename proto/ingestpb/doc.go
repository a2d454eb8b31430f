// Package ingestpb is generated from ingest.proto: the messages and the gRPC
// service by which pushes travel between processes. Package grpcpush turns them
// into batches and back.
package ingestpb

// Package cluster lets gateways and queriers use ingesters of other processes
// as if they were in their own: over gRPC, with the messages of package
// ingestpb.
//
// A Server stands in front of the one ingester of its process. A Pool has the
// connections to the servers of others, by instance and generation: an instance
// that was started again is another one, to which nothing of the past applies.
// Pool.Replica stores pushes in an instance, Pool.Source reads what it has not
// stored yet, and Members reads from all instances of a ring at once.
//
// # Pushes
//
// All pushes to one instance travel in one call. While a message is being
// written, pushes that come meanwhile gather, and go with the next one, so that
// many small pushes cost few messages; a push that comes alone waits for
// nothing. The bytes of its entries are those that the gateway's client sent.
// The other side stores them side by side and answers in the same way, in any
// order.
//
// A call that breaks leaves open whether its pushes are stored: they fail, and
// the gateway asks another instance. Entries that are stored twice for that have
// the same push id, stream, time and text, by which ingesters and queries know
// them.
//
// # Reads
//
// A selection is one call for as long as its query lasts. The other side holds
// what was selected, as it does for a query of its own, and sends a block only
// when it is asked for: neither side ever has more than one in memory.
//
// With the selection goes the query's filter, what its stages drop. The other
// side leaves those entries out, so that the network and the querier have to do
// with what matches; the rest goes through the whole query where it runs, which
// cannot tell the difference. Of blocks of which little is left, those that the
// query will probably ask for next go along. Who does not understand a filter
// sends all, so versions may differ.
//
// Every entry that was acknowledged is held by a write quorum of its replica set
// until it is stored. So a query is complete as long as few enough instances do
// not answer, see ring.Readers, and fails otherwise: it never leaves out what it
// should show.
package cluster

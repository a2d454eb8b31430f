package syslog

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxDatagram is the largest that IP can carry; there is none larger on Unix
// sockets with the buffers that systems have.
const maxDatagram = 64 << 10

// datagrams is a socket with a reader, a queue, and a worker that stores what
// is in the queue.
type datagrams struct {
	s         *Server
	transport transport
	conn      net.Conn
	queue     *queue
	drops     drops
	lost      int // read, and not put into the queue
}

func (s *Server) newDatagrams(c net.Conn, t transport) *datagrams {
	return &datagrams{s: s, transport: t, conn: c, queue: newQueue(int(s.cfg.UDPQueue))}
}

// read fills the queue until the server stops. While the queue is full it does
// not read: then the kernel's buffer fills, and what it drops it counts. Senders
// to a Unix socket wait.
func (d *datagrams) read() {
	defer d.queue.close()
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := d.readOne(buf)
		switch {
		case err == nil:
			d.put(buf[:n], from)
		case d.s.draining():
			d.drain(buf)
			return
		default:
			d.s.warn.Warn("read of syslog datagrams failed", "addr", d.conn.LocalAddr().String(), "err", err)
			d.s.sleep(minPause)
		}
	}
}

func (d *datagrams) put(p []byte, from netip.Addr) {
	if len(p) > 0 && !d.queue.put(d.s.ctx, p, from, time.Now()) {
		d.lost++
	}
}

// drain reads what the kernel has when the server stops, to the end: there is
// no other copy.
func (d *datagrams) drain(buf []byte) {
	defer func() {
		if d.lost > 0 {
			d.s.metrics.dropped.Add(float64(d.lost))
			d.s.d.Log.Error("datagrams lost: they could not be stored before the shutdown", "datagrams", d.lost)
		}
	}()
	// wake has set one that is past.
	if err := d.conn.SetReadDeadline(time.Time{}); err != nil {
		return
	}
	for {
		n, from, ok := receiveNow(d.conn, buf)
		if !ok {
			return
		}
		d.put(buf[:n], from)
	}
}

func (d *datagrams) readOne(buf []byte) (n int, from netip.Addr, err error) {
	if u, ok := d.conn.(*net.UDPConn); ok {
		var a netip.AddrPort
		n, a, err = u.ReadFromUDPAddrPort(buf)
		return n, a.Addr().Unmap(), err
	}
	n, err = d.conn.Read(buf)
	return n, from, err
}

// wake makes read end.
func (d *datagrams) wake() { _ = d.conn.SetReadDeadline(time.Unix(1, 0)) }

// store maps and pushes what the queue has, until it is closed and empty.
func (d *datagrams) store() {
	w := d.s.newWorker()
	defer d.s.d.Mapper.Release(w.st)
	src := source{name: d.transport.String(), transport: d.transport, together: togetherSize}
	var ip []byte
	var last netip.Addr
	for items := (itemList{}); d.queue.take(&items); {
		from := 0
		for _, it := range items.list {
			if it.from != last {
				last, ip = it.from, ip[:0]
				if last.IsValid() {
					ip = last.AppendTo(ip)
				}
			}
			src.ip = nil
			if len(ip) > 0 {
				src.ip = ip
			}
			// What cannot be stored before the shutdown is counted there.
			_ = d.message(w, &src, items.data[from:it.end], it.at)
			from = it.end
		}
		_ = w.push(&src)
	}
}

// message delivers one datagram, which is one message.
func (d *datagrams) message(w *worker, src *source, p []byte, at time.Time) error {
	fr := frame{first: true}
	for len(p) > 0 {
		n := len(p)
		if most := int(d.s.cfg.MaxMessage); n > most {
			n = wholeRunes(p, most)
		}
		fr.text, fr.last = p[:n], n == len(p)
		if err := w.deliver(src, &fr, at); err != nil {
			return err
		}
		fr.first, p = false, p[n:]
	}
	return nil
}

// queue holds datagrams between one reader and one worker.
type queue struct {
	limit int
	mu    sync.Mutex
	items itemList
	done  bool
	ready chan struct{} // has a token when there may be something to take
	room  chan struct{} // has a token when something has been taken
}

// itemList is a list of datagrams that lie one behind the other in data.
type itemList struct {
	data []byte
	list []item
}

type item struct {
	end  int
	from netip.Addr
	at   time.Time
}

// itemSize is about what an item takes beside its bytes.
const itemSize = 64

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put adds a copy of p. It waits for room; if ctx ends meanwhile it returns
// false.
func (q *queue) put(ctx context.Context, p []byte, from netip.Addr, at time.Time) bool {
	for !q.tryPut(p, from, at) {
		select {
		case <-q.room:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (q *queue) tryPut(p []byte, from netip.Addr, at time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := &q.items
	if len(it.list) > 0 && len(it.data)+len(p)+itemSize*(len(it.list)+1) > q.limit {
		return false
	}
	it.data = append(it.data, p...)
	it.list = append(it.list, item{len(it.data), from, at})
	signal(q.ready)
	return true
}

// take waits for datagrams and swaps them with what items has, which is done
// with. It returns false if there will be none.
func (q *queue) take(items *itemList) bool {
	items.data, items.list = items.data[:0], items.list[:0]
	for {
		q.mu.Lock()
		done := q.done
		if len(q.items.list) > 0 {
			*items, q.items = q.items, *items
		}
		q.mu.Unlock()
		if len(items.list) > 0 {
			signal(q.room)
			return true
		}
		if done {
			return false
		}
		<-q.ready
	}
}

// close says that nothing will be put any more.
func (q *queue) close() {
	q.mu.Lock()
	q.done = true
	q.mu.Unlock()
	signal(q.ready)
}

// drops counts what the kernel has dropped at one socket. Its own counter has
// 32 bits, and is gone with the socket.
type drops struct {
	mu    sync.Mutex
	last  uint32
	total uint64
}

// dropped returns the number of datagrams that the kernel has dropped.
func (d *datagrams) dropped() uint64 {
	d.drops.mu.Lock()
	defer d.drops.mu.Unlock()
	if n, ok := kernelDrops(d.conn); ok {
		d.drops.total += uint64(n - d.drops.last)
		d.drops.last = n
	}
	return d.drops.total
}

package env

import (
	"io"
	"net"
	"sync"
	"testing"
)

// severedBuffer is how many bytes are on their way at most, apart from what the receiver takes.
const severedBuffer = 64 << 10

// Severed is a server behind a network that goes away when a number of bytes have gone through, for good.
type Severed struct {
	Host string // where it listens

	to       string
	onCut    func()
	mu       sync.Mutex
	left     int64
	sent     int64 // to the server
	listener net.Listener
	open     map[net.Conn]bool
}

// Sever puts a network before the server at to that goes away when more than limit bytes have gone through,
// in both directions together, or never if limit is negative. Just before, onCut is called unless it is nil.
func Sever(tb testing.TB, to string, limit int64, onCut func()) *Severed {
	tb.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	if limit < 0 {
		limit = 1 << 62
	}
	s := &Severed{Host: listener.Addr().String(), to: to, onCut: onCut, left: limit, listener: listener, open: map[net.Conn]bool{}}
	tb.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cut()
	})
	go s.serve()
	return s
}

// Left is how many bytes may still go through; it is negative when it was too much.
func (s *Severed) Left() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// Sent is how many bytes have come for the server.
func (s *Severed) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

func (s *Severed) serve() {
	for {
		in, err := s.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp4", s.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		if !s.note(in, out) {
			return
		}
		// What was counted and is still on its way is lost with the network: not more than a little.
		for _, end := range []net.Conn{in, out} {
			_ = end.(*net.TCPConn).SetWriteBuffer(severedBuffer) // it is as good without
		}
		closed := sync.OnceFunc(func() { _, _ = in.Close(), out.Close() })
		for _, way := range []struct {
			from, to net.Conn
			up       bool
		}{{in, out, true}, {out, in, false}} {
			go func() {
				defer closed()
				_, _ = io.Copy(&countedConn{s, way.to, way.up}, way.from) // its end is all that matters
			}()
		}
	}
}

// note remembers connections for the cut, or closes them if that has been.
func (s *Severed) note(conns ...net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range conns {
		s.open[c] = true
	}
	if s.left < 0 {
		s.cut()
	}
	return s.left >= 0
}

// cut ends everything. The lock is held.
func (s *Severed) cut() {
	_ = s.listener.Close() // nobody gets through any more
	for c := range s.open {
		_ = c.Close()
	}
	clear(s.open)
}

// countedConn writes until the limit.
type countedConn struct {
	s  *Severed
	to io.Writer
	up bool
}

func (c *countedConn) Write(b []byte) (int, error) {
	s := c.s
	s.mu.Lock()
	first := s.left >= 0
	s.left -= int64(len(b))
	if c.up {
		s.sent += int64(len(b))
	}
	dead := s.left < 0
	if dead && first {
		if s.onCut != nil {
			s.onCut()
		}
		s.cut()
	}
	s.mu.Unlock()
	if !dead {
		return c.to.Write(b)
	}
	return 0, io.ErrClosedPipe
}

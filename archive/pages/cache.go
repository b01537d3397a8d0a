package pages

import (
	"container/list"
	"sync"
)

// cache keeps the content of frames that were used last. Each is decoded by one
// goroutine, and others that want it wait.
type cache struct {
	load func(frame int, buf []byte) ([]byte, error)

	mu     sync.Mutex
	held   map[int]*content
	recent list.List // of *content, those not in use, used last in front
	spare  [][]byte
}

// content is a decoded frame.
type content struct {
	frame  int
	ready  chan struct{} // closed when pages and err are there
	pages  []byte
	buf    []byte // what pages is a part of, as long as a full frame
	err    error
	users  int
	unused *list.Element // its place among those not in use
}

func newCache(load func(int, []byte) ([]byte, error)) *cache {
	return &cache{load: load, held: map[int]*content{}}
}

// get gives a frame, which the caller releases; the pages are not to be changed. After an error
// there is nothing to release, and the next caller tries again.
func (c *cache) get(frame int) (*content, error) {
	c.mu.Lock()
	if t, ok := c.held[frame]; ok {
		t.users++
		if t.unused != nil {
			c.recent.Remove(t.unused)
			t.unused = nil
		}
		c.mu.Unlock()
		<-t.ready
		if t.err != nil {
			return nil, t.err
		}
		return t, nil
	}
	t := &content{frame: frame, ready: make(chan struct{}), users: 1}
	c.held[frame] = t
	t.buf = c.buffer()
	c.mu.Unlock()
	t.pages, t.err = c.load(frame, t.buf)
	close(t.ready)
	if t.err != nil {
		c.mu.Lock()
		delete(c.held, frame)
		c.spare = append(c.spare, t.buf)
		c.mu.Unlock()
		return nil, t.err
	}
	return t, nil
}

// buffer gives room for a frame: a new one until there are enough, then that of the frame
// that was not used for longest.
func (c *cache) buffer() []byte {
	if n := len(c.spare); n > 0 {
		b := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return b
	}
	if last := c.recent.Back(); last != nil && len(c.held) > cachedFrames {
		t, _ := c.recent.Remove(last).(*content)
		delete(c.held, t.frame)
		return t.buf
	}
	return make([]byte, 0, frameBytes)
}

// release ends the use of a frame.
func (c *cache) release(t *content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.users--; t.users == 0 {
		t.unused = c.recent.PushFront(t)
	}
}

package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"
)

// redis is a Redis with about 485 MB of keys of four kinds: most as in a cache of sessions, some
// that do not compress, some long texts, many counters.
type redis struct {
	port    int
	counts  [4]int // of keys, by kind
	random  *rand.Rand
	program string
	digest  string
}

var _ workload = (*redis)(nil)

// The kinds of keys, and how many of each a full size has.
const (
	sessionKey = iota
	noiseKey
	textKey
	counterKey
)

// newRedis makes one of a size in MiB, of which 1024 is the full one.
func newRedis(ctx context.Context, mib int) (*redis, error) {
	port, err := freePort(ctx)
	w := &redis{port: port, random: rand.New(rand.NewPCG(1, 2))} //nolint:gosec // content of a benchmark
	for kind, full := range [4]int{sessionKey: 180_000, noiseKey: 55_000, textKey: 2_000, counterKey: 700_000} {
		w.counts[kind] = max(1, full*mib/1024)
	}
	return w, err
}

func (w *redis) install(ctx context.Context, rootfs string) (err error) {
	w.program, err = installProgram(ctx, rootfs, "redis-server")
	return err
}

func (w *redis) command() []string {
	return []string{w.program, "--save", "", "--bind", "127.0.0.1", "--port", strconv.Itoa(w.port), "--enable-debug-command", "yes", "--dir", "/tmp"}
}

func (w *redis) env() []string { return nil }

func (w *redis) fill(ctx context.Context) error {
	if _, err := w.answer(ctx, time.Time{}); err != nil {
		return err
	}
	return w.pipeline(ctx, func(set func(kind, n int) error) error {
		for kind, count := range w.counts {
			for n := range count {
				if err := set(kind, n); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// change sets so many per cent of the keys, chosen all over.
func (w *redis) change(ctx context.Context, percent float64) error {
	all := 0
	for _, count := range w.counts {
		all += count
	}
	return w.pipeline(ctx, func(set func(kind, n int) error) error {
		for range int(percent / 100 * float64(all)) {
			n, kind := w.random.IntN(all), 0
			for n >= w.counts[kind] {
				n -= w.counts[kind]
				kind++
			}
			if err := set(kind, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// value makes a value of a kind.
func (w *redis) value(kind int) string {
	r := w.random
	switch kind {
	case sessionKey:
		return fmt.Sprintf(`{"id":"%016x","user":"user-%d","roles":["reader","writer"],"locale":"en_GB","seen":%d,"cart":[%s],"token":"%016x%016x"}`,
			r.Uint64(), r.IntN(100_000), r.IntN(1<<31), strings.Repeat(fmt.Sprintf(`{"sku":%d,"count":%d,"price":"19.99"},`, r.IntN(5000), r.IntN(9)), 15)+"{}", r.Uint64(), r.Uint64())
	case noiseKey:
		b := make([]byte, 2048)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	case textKey:
		return strings.Repeat(fmt.Sprintf("Line %d of a page of text that nobody reads to its end.\n", r.IntN(1000)), 900)
	default:
		return strconv.Itoa(r.IntN(1 << 30))
	}
}

// pipelined is how many answers are waited for together.
const pipelined = 512

// pipeline opens a connection for f and closes it: CRIU is not to meet it.
func (w *redis) pipeline(ctx context.Context, f func(set func(kind, n int) error) error) error {
	return w.connect(ctx, func(conn io.ReadWriter) error {
		out, in, open := bufio.NewWriterSize(conn, 1<<20), bufio.NewReader(conn), 0
		settle := func() error {
			if err := out.Flush(); err != nil {
				return err
			}
			for ; open > 0; open-- {
				if _, err := redisReply(in); err != nil {
					return err
				}
			}
			return nil
		}
		err := f(func(kind, n int) error {
			key, value := fmt.Sprintf("k%d:%d", kind, n), w.value(kind)
			if _, err := fmt.Fprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(value), value); err != nil {
				return err
			}
			if open++; open < pipelined {
				return nil
			}
			return settle()
		})
		if err != nil {
			return err
		}
		return settle()
	})
}

// connect makes a connection, and waits until Redis has closed it as well.
func (w *redis) connect(ctx context.Context, f func(io.ReadWriter) error) (err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it has been read to its end
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := f(conn); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "QUIT\r\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// redisReply reads an answer of one line.
func redisReply(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if text, ok := strings.CutPrefix(line, "+"); ok {
		return text, nil
	}
	return "", fmt.Errorf("redis says %q", line)
}

// say gives the answer to one command.
func (w *redis) say(ctx context.Context, command string) (said string, err error) {
	err = w.connect(ctx, func(conn io.ReadWriter) error {
		if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
			return err
		}
		said, err = redisReply(bufio.NewReader(conn))
		return err
	})
	return said, err
}

func (w *redis) remember(ctx context.Context) (err error) {
	w.digest, err = w.say(ctx, "DEBUG DIGEST")
	if _, bad := hex.DecodeString(w.digest); err == nil && bad != nil {
		err = fmt.Errorf("redis gives the digest %q: %w", w.digest, bad)
	}
	return err
}

func (w *redis) compare(ctx context.Context) error {
	got, err := w.say(ctx, "DEBUG DIGEST")
	if err == nil && got != w.digest {
		err = fmt.Errorf("redis has changed: its digest is %s, it was %s", got, w.digest)
	}
	return err
}

func (w *redis) answer(ctx context.Context, _ time.Time) (at time.Time, err error) {
	err = await(ctx, "answer of redis", func() (bool, error) {
		said, err := w.say(ctx, "PING")
		at = time.Now()
		return err == nil && said == "PONG", nil
	})
	return at, err
}

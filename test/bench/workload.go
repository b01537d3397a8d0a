package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ckarchive/ckarchive/test/bench/content"
)

// workload is what runs in the container.
type workload interface {
	// install puts what it needs into a root file system.
	install(ctx context.Context, rootfs string) error
	// command is what the container runs, env what it gets besides PATH.
	command() []string
	env() []string
	// fill waits until it runs, and gives it what it is to keep.
	fill(ctx context.Context) error
	// change changes so many per cent of that.
	change(ctx context.Context, percent float64) error
	// remember notes what it keeps; compare tells whether it still does.
	remember(ctx context.Context) error
	compare(ctx context.Context) error
	// answer waits for its first sign of life after a time, and says when that was.
	answer(ctx context.Context, since time.Time) (time.Time, error)
}

// mixed is test/bench/load: a block of memory, and a tick each millisecond.
type mixed struct {
	out string // the directory that is shared with the container
	mib int
}

var _ workload = mixed{}

func (w mixed) install(ctx context.Context, rootfs string) error {
	if err := os.WriteFile(filepath.Join(rootfs, "etc/removed"), []byte("removed by the load\n"), 0o644); err != nil {
		return err
	}
	return build(ctx, filepath.Join(rootfs, "load"), "github.com/ckarchive/ckarchive/test/bench/load")
}

func (w mixed) command() []string { return []string{"/load", strconv.Itoa(w.mib), "/out"} }

func (w mixed) env() []string { return nil }

func (w mixed) fill(ctx context.Context) error {
	_, err := w.answer(ctx, time.Time{})
	return err
}

// change rewrites a part of so many per cent of the pages.
func (w mixed) change(ctx context.Context, percent float64) error {
	pages := int(percent / 100 * float64(w.mib<<20/content.PageBytes))
	return w.ask(ctx, "change", strconv.Itoa(pages))
}

// ask writes a request and waits until the load has removed it.
func (w mixed) ask(ctx context.Context, name, text string) error {
	request := filepath.Join(w.out, name)
	if err := os.WriteFile(request+".new", []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Rename(request+".new", request); err != nil {
		return err
	}
	return await(ctx, name+" of the memory", func() (bool, error) {
		_, err := os.Stat(request)
		return errors.Is(err, fs.ErrNotExist), nil
	})
}

// remember has nothing to do: the load has written the sum.
func (w mixed) remember(context.Context) error { return nil }

// compare lets the container compute the checksum of its memory again.
func (w mixed) compare(ctx context.Context) error {
	want, err := os.ReadFile(filepath.Join(w.out, "sum"))
	if err != nil {
		return err
	}
	if err := w.ask(ctx, "check", ""); err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(w.out, "sum"))
	if err != nil {
		return err
	}
	if string(got) != string(want) {
		return fmt.Errorf("the memory has changed: its checksum is %s, it was %s", strings.TrimSpace(string(got)), strings.TrimSpace(string(want)))
	}
	return nil
}

// answer waits for the first tick after since.
func (w mixed) answer(ctx context.Context, since time.Time) (time.Time, error) {
	var tick time.Time
	err := await(ctx, "tick of the container", func() (bool, error) {
		ticks, err := w.ticks()
		if err != nil {
			return false, err
		}
		tick, err = tickAfter(ticks, since)
		return !tick.IsZero(), err
	})
	return tick, err
}

// ticks are the lines that the load has written.
func (w mixed) ticks() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(w.out, "ticks"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return b, err
}

// forgetTicks begins the lines anew: the load opens the file for each.
func (w mixed) forgetTicks() error {
	err := os.Remove(filepath.Join(w.out, "ticks"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// tickAfter finds the first time after since in the lines of b, or gives the zero time. A last
// line without its end is still being written.
func tickAfter(b []byte, since time.Time) (time.Time, error) {
	var found time.Time
	err := eachTick(b, func(at time.Time) bool {
		if at.After(since) {
			found = at
		}
		return found.IsZero()
	})
	return found, err
}

// longestGap is the longest time without a tick.
func longestGap(b []byte) (gap time.Duration, err error) {
	var last time.Time
	err = eachTick(b, func(at time.Time) bool {
		if !last.IsZero() {
			gap = max(gap, at.Sub(last))
		}
		last = at
		return true
	})
	return gap, err
}

// eachTick gives the times in b to f until it has enough.
func eachTick(b []byte, f func(time.Time) bool) error {
	for line := range strings.Lines(string(b)) {
		digits, whole := strings.CutSuffix(line, "\n")
		if !whole {
			return nil
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return fmt.Errorf("read a tick: %w", err)
		}
		if !f(time.Unix(0, n)) {
			return nil
		}
	}
	return nil
}

// installProgram copies a program of this machine and its libraries into a root file system, and
// gives its path there.
func installProgram(ctx context.Context, rootfs, name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s, which test/setup bench installs: %w", name, err)
	}
	if err := installFile(ctx, rootfs, path); err != nil {
		return "", err
	}
	return path, installLibraries(ctx, rootfs, path)
}

// installLibraries copies the libraries of a program or library.
func installLibraries(ctx context.Context, rootfs, path string) error {
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	for field := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(field, "/") {
			continue
		}
		if err := installFile(ctx, rootfs, field); err != nil {
			return err
		}
	}
	return nil
}

func installFile(ctx context.Context, rootfs, path string) error {
	to := filepath.Join(rootfs, path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return run(ctx, "cp", "--dereference", path, to)
}

// freePort finds a port of 127.0.0.1 that nobody listens on.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()                          //nolint:errcheck // nobody has connected
	return l.Addr().(*net.TCPAddr).Port, nil //nolint:forcetypeassert // of a TCP listener
}

// Command load is the container that the benchmark freezes: it fills its memory,
// changes its root file system a little and then appends the time to a file
// every millisecond.
//
//	load MIB DIR
//
// In DIR it writes ticks, one time per line in nanoseconds since 1970. When DIR/check
// appears, it writes the checksum of its memory to DIR/sum and removes check; the first
// sum is there before the first tick. When DIR/change appears, it first rewrites a part of as many
// pages as that file says.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ckarchive/ckarchive/test/bench/content"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: load MIB DIR")
	}
	mib, err := strconv.Atoi(args[0])
	if err != nil || mib <= 0 {
		return fmt.Errorf("%q is no number of MiB", args[0])
	}
	memory, err := syscall.Mmap(-1, 0, mib<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return fmt.Errorf("map %d MiB: %w", mib, err)
	}
	content.Fill(memory)
	changes := content.NewChanges()
	if err := changeRoot(); err != nil {
		return err
	}
	dir := args[1]
	if err := writeSum(dir, memory); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if err := tick(filepath.Join(dir, "ticks")); err != nil {
			return err
		}
		if n%64 == 0 {
			if err := answer(dir, "change", memory, changes.Pages); err != nil {
				return err
			}
			if err := answer(dir, "check", memory, nil); err != nil {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// changeRoot gives the archive of the root file system something to hold.
func changeRoot() error {
	if err := os.WriteFile("/changed", bytes.Repeat([]byte("changed\n"), 1<<17), 0o644); err != nil {
		return err
	}
	if err := os.Remove("/etc/removed"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func tick(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", time.Now().UnixNano())
	return errors.Join(err, f.Close())
}

// answer does what a file of that name in dir asks for, writes the sum and removes the file.
func answer(dir, name string, memory []byte, do func(memory []byte, count int)) error {
	request := filepath.Join(dir, name)
	said, err := os.ReadFile(request)
	if err != nil {
		return nil //nolint:nilerr // not asked
	}
	if do != nil {
		count, err := strconv.Atoi(strings.TrimSpace(string(said)))
		if err != nil {
			return fmt.Errorf("%s: %w", request, err)
		}
		do(memory, count)
	}
	if err := writeSum(dir, memory); err != nil {
		return err
	}
	return os.Remove(request)
}

func writeSum(dir string, memory []byte) error {
	sum := crc32.Checksum(memory, crc32.MakeTable(crc32.Castagnoli))
	return os.WriteFile(filepath.Join(dir, "sum"), fmt.Appendf(nil, "%08x\n", sum), 0o644)
}

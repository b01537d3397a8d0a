package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A probe is one thing the workload checks and changes on each tick.
type probe interface {
	// step verifies a part, or everything when whole, and then changes something.
	step(tick uint64, whole bool) error
}

var (
	_ probe = (*memoryProbe)(nil)
	_ probe = (*tmpfsProbe)(nil)
	_ probe = (*deletedProbe)(nil)
	_ probe = (*volumeProbe)(nil)
	_ probe = (*childrenProbe)(nil)
	_ probe = (*tcpProbe)(nil)
)

// memoryProbe verifies a sixteenth of the memory on each tick.
type memoryProbe struct{ *pattern }

func (m *memoryProbe) step(tick uint64, whole bool) error {
	count := len(m.generations)/16 + 1
	if whole {
		count = len(m.generations)
	}
	if err := m.verify(count); err != nil {
		return err
	}
	m.rewrite(tick)
	return nil
}

// tmpfsProbe keeps a file with a pattern in it, and verifies it both through
// the descriptor it has always had and by its name.
type tmpfsProbe struct {
	pattern *pattern
	file    *os.File
}

func newTmpfsProbe(dir string) (*tmpfsProbe, error) {
	p, err := newPattern(0x7a, 64*pageSize)
	if err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(dir, "workload"))
	if err != nil {
		return nil, fmt.Errorf("create tmpfs file: %w", err)
	}
	if _, err := file.Write(p.memory); err != nil {
		return nil, fmt.Errorf("write tmpfs file: %w", err)
	}
	return &tmpfsProbe{pattern: p, file: file}, nil
}

func (t *tmpfsProbe) step(tick uint64, _ bool) error {
	opened := make([]byte, len(t.pattern.memory))
	if _, err := t.file.ReadAt(opened, 0); err != nil {
		return fmt.Errorf("read through the descriptor: %w", err)
	}
	named, err := os.ReadFile(t.file.Name())
	if err != nil {
		return fmt.Errorf("read by name: %w", err)
	}
	if !bytes.Equal(opened, t.pattern.memory) {
		return fmt.Errorf("content behind the descriptor differs at byte %d", firstDifference(opened, t.pattern.memory))
	}
	if !bytes.Equal(named, opened) {
		return fmt.Errorf("the named file is not the open one: they differ at byte %d", firstDifference(named, opened))
	}
	t.pattern.rewrite(tick)
	if _, err := t.file.WriteAt(t.pattern.memory, 0); err != nil {
		return fmt.Errorf("rewrite: %w", err)
	}
	return nil
}

// deletedRecords bounds a deleted file well below CRIU's default limit for
// carrying one (1 MiB): older records are written over.
const (
	deletedRecords = 16384
	recordSize     = 16
)

// deletedProbe writes records to an open file that has no name any more.
type deletedProbe struct {
	file    *os.File
	written uint64
}

func newDeletedProbe(dir string) (*deletedProbe, error) {
	file, err := os.CreateTemp(dir, "workload-deleted-*")
	if err != nil {
		return nil, fmt.Errorf("create file to delete: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, fmt.Errorf("delete open file: %w", err)
	}
	return &deletedProbe{file: file}, nil
}

func record(number uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, recordSize), number)
	return binary.BigEndian.AppendUint64(b, mix(number))
}

func (d *deletedProbe) step(_ uint64, whole bool) error {
	first := d.written - min(d.written, 64)
	if whole {
		first = d.written - min(d.written, deletedRecords)
	}
	got := make([]byte, recordSize)
	for number := first; number < d.written; number++ {
		if _, err := d.file.ReadAt(got, int64(number%deletedRecords)*recordSize); err != nil {
			return fmt.Errorf("read record %d: %w", number, err)
		}
		if want := record(number); !bytes.Equal(got, want) {
			return fmt.Errorf("record %d: got %x, want %x", number, got, want)
		}
	}
	info, err := d.file.Stat()
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if want := int64(min(d.written, deletedRecords)) * recordSize; info.Size() != want {
		return fmt.Errorf("size: got %d, want %d", info.Size(), want)
	}
	if _, err := d.file.WriteAt(record(d.written), int64(d.written%deletedRecords)*recordSize); err != nil {
		return fmt.Errorf("append record %d: %w", d.written, err)
	}
	d.written++
	return nil
}

// volumeProbe appends to a file of a volume. What others append there after a
// checkpoint is not its business, so it reads nothing back.
type volumeProbe struct{ file *os.File }

func newVolumeProbe(dir string) (*volumeProbe, error) {
	file, err := os.OpenFile(filepath.Join(dir, "workload.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open file in the volume: %w", err)
	}
	return &volumeProbe{file: file}, nil
}

func (v *volumeProbe) step(tick uint64, _ bool) error {
	if _, err := io.WriteString(v.file, fmt.Sprintf("tick %d\n", tick)); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	return nil
}

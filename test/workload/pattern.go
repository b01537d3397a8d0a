package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"
)

const pageSize = 4096

// Of twelve pages three are zero, four look like text and five are noise, so
// that the memory compresses about as a program's does.
const (
	kinds     = 12
	zeroKinds = 3
	textKinds = 4
)

const words = "the container kernel memory frozen archive process thread restore socket page image registry layer " +
	"{\"level\":\"info\",\"msg\":\"request\"} 127.0.0.1 /usr/share/doc 2026-01-01T00:00:00Z\n"

// fillPage writes what the page of that number has after that many changes.
func fillPage(page []byte, seed, number uint64, generation uint32) {
	state := mix(seed ^ mix(number) ^ mix(uint64(generation)<<32))
	switch kind := number % kinds; {
	case kind < zeroKinds:
		clear(page)
	case kind < zeroKinds+textKinds:
		for at := 0; at < len(page); {
			state = mix(state)
			from := int(state % uint64(len(words)-8))
			at += copy(page[at:], words[from:from+8+int(state>>32)%8*(len(words)-from-8)/8])
		}
	default:
		for at := 0; at+8 <= len(page); at += 8 {
			state = mix(state)
			binary.LittleEndian.PutUint64(page[at:], state)
		}
	}
}

// mix is splitmix64: neighbouring numbers give unrelated ones.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// pattern is memory whose every byte is known.
type pattern struct {
	seed        uint64
	memory      []byte
	generations []uint32 // how often each page was rewritten
	next        int      // the page where the rolling verification goes on
	expected    [pageSize]byte
}

// newPattern maps and fills size bytes, rounded down to whole pages. The zero
// pages are written too: untouched memory would not be in a checkpoint at all.
func newPattern(seed uint64, size int) (*pattern, error) {
	pages := size / pageSize
	p := &pattern{seed: seed, generations: make([]uint32, pages)}
	if pages == 0 {
		return p, nil
	}
	memory, err := syscall.Mmap(-1, 0, pages*pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", size, err)
	}
	p.memory = memory
	for number := range pages {
		fillPage(p.page(number), seed, uint64(number), 0)
	}
	return p, nil
}

func (p *pattern) page(number int) []byte {
	return p.memory[number*pageSize : (number+1)*pageSize]
}

// rewrite changes one page, another one on each tick.
func (p *pattern) rewrite(tick uint64) {
	if len(p.generations) == 0 {
		return
	}
	number := int(mix(tick) % uint64(len(p.generations)))
	p.generations[number]++
	fillPage(p.page(number), p.seed, uint64(number), p.generations[number])
}

// verify compares count pages, going on where it ended the last time.
func (p *pattern) verify(count int) error {
	for range min(count, len(p.generations)) {
		number := p.next
		p.next = (p.next + 1) % len(p.generations)
		fillPage(p.expected[:], p.seed, uint64(number), p.generations[number])
		if got := p.page(number); !bytes.Equal(got, p.expected[:]) {
			at := firstDifference(got, p.expected[:])
			return fmt.Errorf("page %d (change %d) differs at byte %d: got %#x, want %#x",
				number, p.generations[number], at, got[at], p.expected[at])
		}
	}
	return nil
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

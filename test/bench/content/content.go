// Package content is the memory of the benchmark's container.
package content

import (
	"fmt"
	"math/rand/v2"
)

// pieceBytes is how much of one kind of content lies together.
const pieceBytes = 64 << 10

// Fill makes of every twelve pieces three of zeros, four of text and five of
// random bytes. All pages are written, so that even the zeros are in the dump.
func Fill(memory []byte) {
	random := rand.NewChaCha8([32]byte{'c', 'k', 'a', 'r', 'c', 'h', 'i', 'v', 'e'})
	numbers := rand.New(random) //nolint:gosec // content of a benchmark
	line := 0
	for n := 0; n*pieceBytes < len(memory); n++ {
		piece := memory[n*pieceBytes : min(len(memory), (n+1)*pieceBytes)]
		switch n % 12 {
		case 0, 4, 8:
			clear(piece)
			for i := 0; i < len(piece); i += 4096 {
				piece[i] = 0 // clear may not touch what is zero already
			}
		case 1, 3, 6, 10:
			text := piece[:0]
			for len(text) < len(piece) {
				line++
				b := fmt.Appendf(nil, "{\"id\":%d,\"user\":\"user-%d\",\"state\":\"active\",\"score\":%d,\"tags\":[\"alpha\",\"beta\"]}\n",
					line, numbers.IntN(100000), numbers.IntN(1000))
				text = append(text, b[:min(len(b), len(piece)-len(text))]...)
			}
		default:
			// ChaCha8's Read never fails.
			_, _ = random.Read(piece)
		}
	}
}

// changedBytes is how much of a page a change rewrites: programs seldom rewrite whole pages.
const changedBytes = 1 << 10

// PageBytes is the unit of changes.
const PageBytes = 4096

// Changes rewrites pages.
type Changes struct {
	random  *rand.ChaCha8
	numbers *rand.Rand
}

// NewChanges makes the same changes each time.
func NewChanges() *Changes {
	random := rand.NewChaCha8([32]byte{'c', 'h', 'a', 'n', 'g', 'e', 's'})
	return &Changes{random, rand.New(random)} //nolint:gosec // content of a benchmark
}

// Pages rewrites a quarter of each of count pages, which are chosen anew each time and all over the memory.
func (c *Changes) Pages(memory []byte, count int) {
	pages := len(memory) / PageBytes
	for _, n := range c.numbers.Perm(pages)[:min(count, pages)] {
		at := n*PageBytes + c.numbers.IntN(PageBytes-changedBytes+1)
		// ChaCha8's Read never fails.
		_, _ = c.random.Read(memory[at : at+changedBytes])
	}
}

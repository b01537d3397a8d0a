package content

import (
	"bytes"
	"testing"
)

func TestFill(t *testing.T) {
	// Two rounds of twelve pieces and a part of one.
	memory := bytes.Repeat([]byte{0xff}, 24*pieceBytes+100)
	Fill(memory)
	zeros, text := 0, 0
	for n := range 24 {
		piece := memory[n*pieceBytes : (n+1)*pieceBytes]
		switch {
		case bytes.Equal(piece, make([]byte, pieceBytes)):
			zeros++
		case bytes.HasPrefix(piece, []byte(`{"id":`)):
			text++
		}
	}
	if zeros != 6 || text != 8 {
		t.Errorf("got %d pieces of zeros and %d of text among 24, want 6 and 8", zeros, text)
	}
	if tail := memory[24*pieceBytes:]; !bytes.Equal(tail, make([]byte, 100)) {
		t.Errorf("got %x at the end, want the part of a piece of zeros", tail)
	}
	again := make([]byte, len(memory))
	Fill(again)
	if !bytes.Equal(again, memory) {
		t.Error("got other content the second time")
	}
}

func TestChanges(t *testing.T) {
	memory := make([]byte, 100*PageBytes)
	changes := NewChanges()
	changed := func(before []byte) (pages int) {
		for n := range 100 {
			if !bytes.Equal(memory[n*PageBytes:(n+1)*PageBytes], before[n*PageBytes:(n+1)*PageBytes]) {
				pages++
			}
		}
		return pages
	}
	for range 2 {
		before := bytes.Clone(memory)
		changes.Pages(memory, 10)
		if got := changed(before); got != 10 {
			t.Errorf("%d pages were changed, want 10", got)
		}
	}
	changes.Pages(memory, 1000) // as many as there are
}

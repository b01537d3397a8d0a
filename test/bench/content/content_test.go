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

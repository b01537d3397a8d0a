package pages

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/ckarchive/ckarchive/archive"
)

// deltaWindow is the window of delta frames: it holds the pages and their bases.
const deltaWindow = 2 * frameBytes

// newSealer makes the cipher of frames; a nil key is none. Nonces are random: with less than 2^32 frames under one
// key, two of them are never the same (NIST SP 800-38D, 8.3), and one row of children has less than 2^28.
func newSealer(key []byte) (cipher.AEAD, error) {
	if key == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	if len(key) != KeyBytes {
		return nil, fmt.Errorf("a key of %d bytes, %d are needed", len(key), KeyBytes)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// encoder compresses frames, one at a time.
type encoder struct {
	literal *zstd.Encoder
	delta   *zstd.Encoder
	spare   []byte // what an attempt gave that was not taken
}

func newEncoder() (*encoder, error) {
	// The level is that of archives: see package archive. A frame's hash takes the place of
	// zstd's checksum, except where the wrong base pages must be noticed.
	options := func(checksum bool) []zstd.EOption {
		return []zstd.EOption{
			zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(deltaWindow), zstd.WithEncoderCRC(checksum),
		}
	}
	literal, err := zstd.NewWriter(nil, options(false)...)
	if err != nil {
		return nil, err
	}
	delta, err := zstd.NewWriter(nil, options(true)...)
	if err != nil {
		return nil, err
	}
	return &encoder{literal: literal, delta: delta, spare: make([]byte, 0, frameBytes+frameBytes/8)}, nil
}

// literalFrame compresses plain into out[:0]; raw tells that this did not make it smaller, so that it is stored as it is.
func (e *encoder) literalFrame(out, plain []byte) (_ []byte, raw bool) {
	out = e.literal.EncodeAll(plain, out[:0])
	if len(out) < len(plain) {
		return out, false
	}
	return append(out[:0], plain...), true
}

// deltaFrame compresses plain with the base pages. ok tells whether that is worth it: a
// delta frame costs its readers more than a literal one.
func (e *encoder) deltaFrame(out, plain, base []byte) (_ []byte, ok bool, err error) {
	if err := e.delta.ResetWithOptions(nil, zstd.WithEncoderDictRaw(0, base)); err != nil {
		return out, false, err
	}
	out = e.delta.EncodeAll(plain, out[:0])
	if len(out) <= len(plain)/4 {
		return out, true, nil
	}
	e.spare, _ = e.literalFrame(e.spare, plain)
	return out, len(out)*10 < len(e.spare)*7, nil
}

func (e *encoder) close() {
	_ = e.literal.Close() // they have no stream that could fail
	_ = e.delta.Close()
}

// decoder of frames, one at a time.
type frameDecoder struct {
	literal *zstd.Decoder
	delta   *zstd.Decoder
	stored  []byte // a frame as it is in its pack
	clear   []byte // the frame after decryption
	base    []byte // the base pages of a delta frame
}

func newFrameDecoder() (*frameDecoder, error) {
	options := []zstd.DOption{
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(frameBytes), zstd.WithDecoderMaxWindow(deltaWindow),
	}
	literal, err := zstd.NewReader(nil, options...)
	if err != nil {
		return nil, err
	}
	delta, err := zstd.NewReader(nil, options...)
	if err != nil {
		return nil, err
	}
	return &frameDecoder{literal: literal, delta: delta, stored: make([]byte, maxStoredBytes), base: make([]byte, 0, frameBytes)}, nil
}

// decode unpacks d.stored[:f.Length] into out[:0], which has room for a full frame. Base pages are in d.base,
// open is for an encrypted frame.
func (d *frameDecoder) decode(out []byte, f *Frame, kind Kind, open cipher.AEAD) ([]byte, error) {
	stored := d.stored[:f.Length]
	if sha256.Sum256(stored) != f.Sum {
		return nil, rejectf("frame does not match its hash")
	}
	if f.Sealed {
		if open == nil {
			return nil, fmt.Errorf("frame: %w", archive.ErrEncrypted)
		}
		var err error
		if d.clear, err = open.Open(d.clear[:0], nil, stored, nil); err != nil {
			return nil, rejectf("frame: %w", err)
		}
		stored = d.clear
	}
	plain := f.Pages * PageBytes
	if f.Raw {
		return append(out[:0], stored...), nil
	}
	z := d.literal
	if kind == Delta {
		z = d.delta
		if err := z.ResetWithOptions(nil, zstd.WithDecoderDictRaw(0, d.base)); err != nil {
			return nil, err
		}
	}
	out, err := z.DecodeAll(stored, out[:0:plain])
	if err == nil && len(out) != plain {
		err = fmt.Errorf("%d bytes where %d pages were announced", len(out), f.Pages)
	}
	if err != nil {
		return nil, rejectf("frame: %w", err)
	}
	return out, nil
}

func (d *frameDecoder) close() {
	d.literal.Close()
	d.delta.Close()
}

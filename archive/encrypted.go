package archive

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Encrypter begins an encrypted stream in w; Close writes its end and does not close w. Package
// archive/crypt has one.
type Encrypter = func(w io.Writer) (io.WriteCloser, error)

// Decrypter gives the content of an encrypted stream. The reader says io.EOF only if the stream ended
// as it was written; what was changed, moved or cut off is an [ErrRejected], and a stream that none of
// the keys at hand opens an [ErrEncrypted]. Errors of r are given back as they are.
type Decrypter = func(r io.Reader) (io.Reader, error)

// magicAge begins an age file: https://age-encryption.org/v1.
const magicAge = "age-encryption.org/"

// IsEncrypted tells by its first bytes whether a stream is encrypted. 19 are enough.
func IsEncrypted(b []byte) bool { return bytes.HasPrefix(b, []byte(magicAge)) }

// decrypt gives the content of r, which may be encrypted or not.
func decrypt(r io.Reader, open Decrypter) (_ io.Reader, encrypted bool, err error) {
	br := bufio.NewReaderSize(r, packedBufferBytes)
	first, err := br.Peek(len(magicAge))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	switch {
	case !IsEncrypted(first):
		return br, false, nil
	case open == nil:
		return nil, true, ErrEncrypted
	}
	plain, err := open(br)
	return plain, true, err
}

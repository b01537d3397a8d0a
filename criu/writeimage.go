package criu

import (
	"encoding/binary"
	"errors"
	"os"

	"google.golang.org/protobuf/proto"
)

// replaceImage writes an image of one entry in the place of the one that is there.
func replaceImage(dir, name string, magic uint32, entry proto.Message) error {
	b, err := proto.Marshal(entry)
	if err != nil {
		return imageError(name, "%w", err)
	}
	return writeImage(dir, name, appendEntry(newImage(magic), b))
}

// newImage begins an image of a kind; appendEntry adds to it.
func newImage(magic uint32) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, magicCommon), magic)
}

// appendEntry adds a message to an image.
func appendEntry(image, message []byte) []byte {
	image = binary.LittleEndian.AppendUint32(image, uint32(len(message))) //nolint:gosec // of an image within its limits
	return append(image, message...)
}

// rewritten gives the content of an image in which edit has changed or left out messages. Those that it keeps and does not change
// are the same bytes as before.
func rewritten[T any, P message[T]](dir, name string, magic uint32, edit func(P) (keep, changed bool)) ([]byte, error) {
	f, size, err := openImage(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read side
	image := newImage(magic)
	err = walkImage(f, name, size, magic, func(b []byte) error {
		m := P(new(T))
		if err := proto.Unmarshal(b, m); err != nil {
			return imageError(name, "%w", err)
		}
		keep, changed := edit(m)
		if !keep {
			return nil
		}
		if changed {
			if b, err = proto.Marshal(m); err != nil {
				return imageError(name, "%w", err)
			}
		}
		image = appendEntry(image, b)
		return nil
	})
	return image, err
}

// writeImage writes an image in the place of the one that is there.
func writeImage(dir, name string, image []byte) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing was written to it
	// In its place it would change hard links of the image as well.
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(image)
	return err
}

package archive

import (
	"context"
	"errors"
	"io"
)

// CollectOptions say what [Collect] takes.
type CollectOptions struct {
	// Want picks the members to keep; nil keeps all.
	Want func(Entry) bool
	// Stop, if set, ends the reading before the first entry for which it is true: in an
	// archive of this package nothing small comes behind the memory.
	Stop func(Entry) bool
	// OnEntry, if set, is told of every entry.
	OnEntry func(Entry)
	// MaxBytes bounds what is kept; 0 means MaxJSONBytes times two.
	MaxBytes int64
}

// Collect reads small members into memory and skips the others. It neither
// verifies the archive nor, with Stop, reads it to its end.
func Collect(ctx context.Context, src Source, opts CollectOptions) (map[string][]byte, error) {
	left := opts.MaxBytes
	if left <= 0 {
		left = 2 * MaxJSONBytes
	}
	got := map[string][]byte{}
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return nil, err
		}
		if opts.Stop != nil && opts.Stop(e) {
			return got, nil
		}
		if opts.OnEntry != nil {
			opts.OnEntry(e)
		}
		if e.Kind == KindDir || opts.Want != nil && !opts.Want(e) {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(r, left+1))
		if err != nil {
			return nil, &EntryError{Op: "read", Name: e.Name, Err: err}
		}
		if left -= int64(len(b)); left < 0 {
			return nil, rejectEntry(e.Name, "more metadata than can be held in memory")
		}
		got[e.Name] = b
	}
}

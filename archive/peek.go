package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// Peek reads the small members at the head of src into memory, up to the first
// image, and gives them together with a [Source] that yields everything, those
// members included. It lets a stream be judged before anything of it is unpacked. Close
// of the returned source closes src.
func Peek(ctx context.Context, src Source) (map[string][]byte, Source, error) {
	p := &peeked{Source: src}
	head := map[string][]byte{}
	left := int64(2 * MaxJSONBytes)
	for {
		e, r, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			p.ended = true
			return head, p, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if e.Kind == KindDir || e.Size == SizeUnknown || e.Size > left || group(e.Name) != 0 {
			p.held = append(p.held, heldEntry{entry: e, r: r})
			return head, p, nil
		}
		b, err := io.ReadAll(io.LimitReader(r, left+1))
		if err != nil {
			return nil, nil, &EntryError{Op: "read", Name: e.Name, Err: err}
		}
		left -= int64(len(b))
		head[e.Name] = b
		p.held = append(p.held, heldEntry{entry: e, r: bytes.NewReader(b)})
	}
}

func group(name string) int {
	g, _ := place(name)
	return g
}

// heldEntry is an entry that was taken from the source and not yet given on.
type heldEntry struct {
	entry Entry
	r     io.Reader
}

// peeked yields held entries before the rest of the source.
type peeked struct {
	Source
	held  []heldEntry
	ended bool
}

// Unwrap gives the source that was read ahead, for the sake of what else it can do. Its Next is not to be used.
func (p *peeked) Unwrap() Source { return p.Source }

func (p *peeked) Next(ctx context.Context) (Entry, io.Reader, error) {
	if ctx.Err() != nil {
		return Entry{}, nil, context.Cause(ctx)
	}
	if len(p.held) > 0 {
		h := p.held[0]
		p.held = p.held[1:]
		return h.entry, h.r, nil
	}
	if p.ended {
		return Entry{}, nil, io.EOF
	}
	return p.Source.Next(ctx)
}

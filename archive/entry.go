package archive

import (
	"context"
	"io"
	"io/fs"
	"time"
)

// Kind is what an [Entry] is. The outer archive holds nothing but these two.
type Kind uint8

// The kinds of entries.
const (
	KindFile Kind = iota // a regular file
	KindDir              // a directory, without content
)

// SizeUnknown is the Size of an entry whose length is known only when it has been read.
const SizeUnknown int64 = -1

// Entry describes one member of a checkpoint: a file such as checkpoint/pages-1.img.
type Entry struct {
	Name    string // clean slash-separated path, as [CleanName] makes it
	Kind    Kind
	Size    int64       // bytes, or SizeUnknown
	Mode    fs.FileMode // permission bits as the source has them; sinks write 0600 and 0700
	ModTime time.Time
}

// Source yields the members of one checkpoint in order.
type Source interface {
	// Next gives the next entry and a reader of its content, or io.EOF after the last one.
	// io.EOF means that the whole input was read and found well-formed to its last byte.
	// The reader belongs to the source, is valid until the following call of Next or Close,
	// and may be left unread. It is nil for a directory.
	Next(ctx context.Context) (Entry, io.Reader, error)
	// Close releases the source. It may be called twice.
	Close() error
}

// Sink takes the members of one checkpoint in order and shows nothing of them
// before Commit.
type Sink interface {
	// Put writes one entry; it reads r to its end and does not close it. r is nil for a directory.
	// An error leaves the sink good for nothing but Close.
	Put(ctx context.Context, e Entry, r io.Reader) error
	// Commit makes the whole result visible and durable.
	Commit(ctx context.Context) error
	// Close discards what was not committed. It may be called twice, and after Commit.
	Close() error
}

// Opener is the optional ability of a [Source] to read members by name without
// reading those before them. Using it does not disturb Next.
type Opener interface {
	// Entries lists the members in the order of the source.
	Entries(ctx context.Context) ([]Entry, error)
	// Open gives the content of one member; the caller closes it. A name that is
	// not there is an ErrNotFound.
	Open(ctx context.Context, name string) (Blob, error)
}

// Blob is the content of one member with random access. ReadAt may be called concurrently.
type Blob interface {
	io.ReaderAt
	io.Closer
	// Size is the length in bytes.
	Size() int64
}

package archive

import (
	"errors"
	"fmt"
	"strconv"
)

// The decisions that callers make on an error of this package.
var (
	// ErrRejected marks input that is damaged or unsafe: nothing of it may be used.
	ErrRejected = errors.New("archive rejected")
	// ErrNotArchive marks input that is no checkpoint archive at all. It is also an [ErrRejected].
	ErrNotArchive = fmt.Errorf("%w: not a checkpoint archive", ErrRejected)
	// ErrEncrypted marks input that is encrypted while no key was given that opens it. Nothing is known
	// of its content.
	ErrEncrypted = errors.New("encrypted")
	// ErrExists marks an output that is there already and was not to be replaced.
	ErrExists = errors.New("already exists")
	// ErrSpecialFile marks an output that is there as something that is never replaced: a
	// directory, a link, a FIFO, a device. It is also an [ErrExists].
	ErrSpecialFile = fmt.Errorf("%w and is no regular file", ErrExists)
	// ErrNotFound marks a member or archive that is not there.
	ErrNotFound = errors.New("not found")
	// ErrNotDurable marks a file that has its final name while the folder could not be synced:
	// the content is whole, but a power cut may still undo the rename.
	ErrNotDurable = errors.New("written, but durability is not confirmed")
	// ErrNoSpace marks a target without room for what was to be written.
	ErrNoSpace = errors.New("not enough space")
)

// maxQuotedName is how much of a name an error or a report shows, in bytes.
const maxQuotedName = 80

// QuoteName makes a name from an archive fit for a terminal or a log: quoted as a
// Go string, at most 80 bytes of it. Characters that control a terminal, that turn the direction of
// writing, or that nobody sees are escaped; letters of all languages are not.
func QuoteName(name string) string {
	if len(name) > maxQuotedName {
		return strconv.Quote(name[:maxQuotedName]) + "..."
	}
	return strconv.Quote(name)
}

// EntryError says which member of an archive an operation stopped at.
type EntryError struct {
	Op   string // what was being done, as "read" or "write"
	Name string // the member, as the archive names it
	Err  error
}

// Error names the operation, the member and the reason.
func (e *EntryError) Error() string {
	return e.Op + " " + QuoteName(e.Name) + ": " + e.Err.Error()
}

// Unwrap gives the reason.
func (e *EntryError) Unwrap() error { return e.Err }

// rejectf makes an error that is an [ErrRejected].
func rejectf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRejected, fmt.Errorf(format, args...))
}

// rejectEntry makes an error that is an [ErrRejected] and names the member.
func rejectEntry(name, format string, args ...any) error {
	return &EntryError{Op: "read", Name: name, Err: rejectf(format, args...)}
}

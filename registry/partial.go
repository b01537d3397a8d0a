package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// writeBlob reads a blob into the store. Nothing of it is seen unless all of it matches its digest. Where an earlier
// attempt was ended by the network or by the death of its process, it goes on.
func (s *Store) writeBlob(ctx context.Context, desc ocispec.Descriptor, from openFunc, report func(int64)) error {
	if err := checkDescriptor(desc); err != nil {
		return opError("fetch", s.dir, err)
	}
	in, err := s.resumeIngest(ctx, desc)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // after Commit there is nothing left to discard
	resumed := in.size > 0
	report(in.size)
	err = in.fill(ctx, desc, from, report)
	if resumed && errors.Is(err, ErrContent) {
		// The beginning may be at fault: it was not synced to the disk.
		report(-in.size)
		if err = in.restart(); err == nil {
			err = in.fill(ctx, desc, from, report)
		}
	}
	if err != nil {
		in.kept = goesOn(ctx, err)
		return opError("fetch blob "+desc.Digest.String(), s.dir, err)
	}
	_, err = in.Commit(ctx, desc.MediaType)
	return err
}

// goesOn tells whether a blob that ended with err may be continued: the network was at fault, or the caller gave up. Whose
// disk is full wants no remains, nor whom a registry lies to; that may have come to light with another blob of the same copy.
func goesOn(ctx context.Context, err error) bool {
	var fault *Error // of that other blob, which has ended ctx
	return errors.Is(err, ErrUnreachable) || ctx.Err() != nil && !errors.As(context.Cause(ctx), &fault)
}

// resumeIngest begins a blob with what an earlier attempt has left of it. While another process does so, or where that
// cannot be continued, it begins anew.
func (s *Store) resumeIngest(ctx context.Context, desc ocispec.Descriptor) (*ingest, error) {
	name := desc.Digest.Algorithm().String() + "-" + desc.Digest.Encoded() + tempSuffix
	in, err := s.beginIngest(ctx, desc.Digest.Algorithm(), func(dir string) (*os.File, error) { return lockPartial(filepath.Join(dir, name)) })
	if err != nil {
		return s.newIngest(ctx, desc.Digest.Algorithm())
	}
	in.size, err = io.Copy(in.hash, io.LimitReader(contextReader{ctx, in.f}, desc.Size))
	if err == nil {
		err = in.f.Truncate(in.size)
	}
	if err != nil && ctx.Err() == nil {
		err = in.restart()
	}
	if err != nil {
		in.kept = ctx.Err() != nil
		return nil, opError("write", s.dir, errors.Join(err, in.Close()))
	}
	return in, nil
}

// lockPartial opens the file at path for this process alone, and makes it if need be.
func lockPartial(path string) (_ *os.File, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	// The one that had it until now may have finished the blob, and given the file its name.
	ours, err := f.Stat()
	if err != nil {
		return nil, err
	}
	named, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !ours.Mode().IsRegular() || !os.SameFile(ours, named) {
		return nil, fmt.Errorf("%w: %s", ErrBusy, path)
	}
	return f, nil
}

// restart throws away what was written.
func (in *ingest) restart() error {
	in.hash.Reset()
	in.size = 0
	if err := in.f.Truncate(0); err != nil {
		return err
	}
	_, err := in.f.Seek(0, io.SeekStart)
	return err
}

// fill reads the rest of a blob and checks all of it.
func (in *ingest) fill(ctx context.Context, desc ocispec.Descriptor, from openFunc, report func(int64)) error {
	if in.size < desc.Size {
		rc, err := from(ctx, in.size)
		if errors.Is(err, ErrNotFound) {
			err = missing(desc, err)
		}
		if err != nil {
			return err
		}
		defer rc.Close() //nolint:errcheck // read side
		rest := io.LimitReader(contextReader{ctx, rc}, desc.Size-in.size+1)
		if _, err := io.Copy(&countingWriter{w: in, report: report}, rest); err != nil {
			return err
		}
	}
	switch {
	case in.size > desc.Size:
		return contentf("blob %s is longer than its %d bytes", desc.Digest, desc.Size)
	case in.size < desc.Size:
		return contentf("blob %s is shorter than its %d bytes", desc.Digest, desc.Size)
	case in.digest() != desc.Digest:
		return contentf("blob %s does not match its digest", desc.Digest)
	}
	return nil
}

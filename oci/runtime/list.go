package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// List gives the containers of the runtime. One that cannot be read is left out and
// part of the error; the others are given all the same.
func (r Runtime) List(ctx context.Context) ([]*Container, error) {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the containers of %s: %w", r.Name, err)
	}
	var list []*Container
	var errs error
	for _, e := range entries {
		if !e.IsDir() || CheckID(e.Name()) != nil || !r.isState(e.Name()) {
			continue
		}
		c, err := r.Container(ctx, e.Name())
		switch {
		case errors.Is(err, ErrNotFound): // it went meanwhile
		case err != nil:
			errs = errors.Join(errs, err)
		default:
			list = append(list, c)
		}
	}
	return list, errs
}

// isState tells a container's directory from what else lies in a state directory.
func (r Runtime) isState(name string) bool {
	for _, file := range []string{"state.json", "status"} {
		if _, err := os.Lstat(filepath.Join(r.Root, name, file)); err == nil {
			return true
		}
	}
	return false
}

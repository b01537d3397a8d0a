package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// How a difference was found.
const (
	MethodOverlay   = "overlay"   // read off the upper layer of an overlay mount
	MethodDirectory = "directory" // by comparing two trees
	MethodWhole     = "whole"     // nothing to compare with: the whole tree
)

// Options adjust [Overlay] and [Directory]. The zero value takes everything that
// lies on the root file system's own mount.
type Options struct {
	// Skip are absolute paths in the container, those of its mounts: they and
	// everything below them are left out. Links in them are followed as in the container.
	Skip []string
}

// Result is what was written, and what a tar cannot hold.
type Result struct {
	// Deleted is the content of deleted.files: absolute paths, each target followed
	// by the whiteout that stands for it in the tar.
	Deleted []string
	// Files is the number of entries that are neither directories nor whiteouts.
	Files int
	// Bytes is the content of the regular files, in bytes.
	Bytes int64
	// Skipped are the absolute paths of sockets (and of devices 0:0).
	Skipped []string
	// Method is [MethodOverlay], [MethodDirectory] or [MethodWhole].
	Method string
}

// Overlay writes to w what changed in an overlay mount: upper and lowers, the
// top one first, are its layers as [Layers] gives them, merged is where it is
// mounted, also as /proc/PID/root. Without upper, as of a read-only mount, nothing
// changed. The container must be frozen. Where the upper layer refers to those
// below it (overlay's options metacopy and redirect_dir), and where its marks
// cannot be read for want of CAP_SYS_ADMIN, the merged tree is compared with the
// lower layers instead; Result.Method tells.
func Overlay(ctx context.Context, w io.Writer, upper string, lowers []string, merged string, opts Options) (Result, error) {
	marks, readable, err := marksPrefix(merged)
	if err != nil {
		return Result{}, err
	}
	lower, err := openView(marks, lowers...)
	if err != nil {
		return Result{}, fmt.Errorf("open lower layers: %w", err)
	}
	defer lower.close()
	current, err := openView("", merged)
	if err != nil {
		return Result{}, err
	}
	defer current.close()
	skip := resolveSkips(current.trees[0], opts.Skip)
	if upper == "" {
		return writeChanges(ctx, w, current.trees[0], current.trees[0].attr, newChanges(skip), MethodOverlay)
	}
	if !readable {
		return compareViews(ctx, w, lower, current, skip)
	}
	top, err := openView(marks, upper)
	if err != nil {
		return Result{}, fmt.Errorf("open upper layer: %w", err)
	}
	defer top.close()
	c := newChanges(skip)
	err = walkUpper(ctx, top, lower, c)
	if errors.Is(err, errIndirect) {
		return compareViews(ctx, w, lower, current, skip)
	}
	if err != nil {
		return Result{}, fmt.Errorf("read upper layer %q: %w", upper, err)
	}
	return writeChanges(ctx, w, top.trees[0], current.trees[0].attr, c, MethodOverlay)
}

// Directory writes to w what differs in the tree at root from the one at base. With an empty
// base it writes the whole tree. Files of one size whose times differ are compared
// by content; a new time alone is no change. What is mounted in the tree is left out.
func Directory(ctx context.Context, w io.Writer, base, root string, opts Options) (Result, error) {
	var paths []string
	if base != "" {
		paths = []string{base}
	}
	before, err := openView("", paths...)
	if err != nil {
		return Result{}, fmt.Errorf("open base: %w", err)
	}
	defer before.close()
	current, err := openView("", root)
	if err != nil {
		return Result{}, err
	}
	defer current.close()
	return compareViews(ctx, w, before, current, resolveSkips(current.trees[0], opts.Skip))
}

func compareViews(ctx context.Context, w io.Writer, base, current *view, skip map[string]struct{}) (Result, error) {
	c := newChanges(skip)
	if err := walkViews(ctx, base, current, c); err != nil {
		return Result{}, fmt.Errorf("compare root file systems: %w", err)
	}
	method := MethodDirectory
	if len(base.trees) == 0 {
		method = MethodWhole
	}
	return writeChanges(ctx, w, current.trees[0], current.trees[0].attr, c, method)
}

// maxLinks is how many symbolic links lead to a path before it counts as a loop, as in Linux.
const maxLinks = 40

// resolveSkips makes the set of names to leave out. Runtimes follow the links of a
// mount's destination inside the root: both names are left out.
func resolveSkips(t *tree, paths []string) map[string]struct{} {
	skip := make(map[string]struct{}, len(paths))
	for _, p := range paths {
		clean := strings.TrimPrefix(path.Clean("/"+p), "/")
		if clean == "" {
			continue // the root itself is what is archived
		}
		skip[clean] = struct{}{}
		if resolved := resolve(t, clean); resolved != "" {
			skip[resolved] = struct{}{}
		}
	}
	return skip
}

// resolve follows the links in a clean name as a chroot into the tree would. What
// does not exist is taken as written.
func resolve(t *tree, name string) string {
	rest, done := strings.Split(name, "/"), ""
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done, _ = splitName(done)
			continue
		}
		next := joinName(done, part)
		a, err := t.stat(next)
		if err != nil || a.kind() != unix.S_IFLNK {
			done = next
			continue
		}
		target, err := t.readlink(next)
		if links++; err != nil || links > maxLinks {
			return name
		}
		if strings.HasPrefix(target, "/") {
			done = ""
		}
		rest = slices.Concat(strings.Split(target, "/"), rest)
	}
	return done
}

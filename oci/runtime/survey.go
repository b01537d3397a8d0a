package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host says where the directories of a host are that the table of engines names. The zero
// value is this host.
type Host struct {
	// Dir stands for /. Paths that the host's files hold are taken as they are.
	Dir string
	// User is the caller for the host in Dir; this host knows its own.
	User int
}

// here fills in the caller.
func (h Host) here() Host {
	if h.Dir == "" {
		h.User = os.Geteuid()
	}
	return h
}

// path gives a path of the table.
func (h Host) path(path string) string { return filepath.Join(h.Dir, path) }

// place is one state directory.
type place struct {
	runtime Runtime // Name is empty: what lies there tells
	root    string
	user    int // whose it is; 0 is the system
}

// usersDir is where the directories of logged-in users are.
const usersDir = "/run/user"

// places gives the state directories to look in, in tiers: one is only looked at if
// those before it have nothing. The caller's own are the first, so that nobody can
// take another one's name.
func (o FindOptions) places() ([][]place, error) {
	host := o.Host.here()
	var direct []place
	if o.State != "" {
		direct = []place{{runtime: Runtime{Name: Direct, Root: o.State}, root: o.State}}
	}
	if o.Runtime != "" {
		runtimes, err := o.Runtimes()
		if err != nil {
			return nil, err
		}
		return [][]place{{{runtime: runtimes[0], root: runtimes[0].Root}}}, nil
	}
	if o.Root != "" {
		return [][]place{append([]place{{root: o.Root, user: rootUser(o.Root)}}, direct...)}, nil
	}
	var system, own, others []place
	for _, k := range kinds() {
		system = append(system, place{root: host.path(k.root)})
	}
	for _, e := range engines() {
		for _, pattern := range e.roots {
			for _, dir := range glob(host.path("/"), pattern) {
				system = append(system, place{root: dir})
			}
		}
	}
	for _, pattern := range userRoots() {
		for _, dir := range glob(host.path(usersDir), "*/"+pattern) {
			user := rootUser(strings.TrimPrefix(dir, filepath.Clean(host.Dir)))
			switch user {
			case 0:
			case host.User:
				own = append(own, place{root: dir, user: user})
			default:
				others = append(others, place{root: dir, user: user})
			}
		}
	}
	if host.User != 0 {
		return [][]place{append(own, direct...), append(system, others...)}, nil
	}
	return [][]place{append(system, direct...), others}, nil
}

// rootUser tells whose state directory root is, by its place below /run/user.
func rootUser(root string) int {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(filepath.Clean(root), "/var"), usersDir+"/")
	if !ok {
		return 0
	}
	name, _, _ := strings.Cut(rest, "/")
	uid, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return 0
	}
	return int(uid)
}

// survey reads what state directories and engines say of containers, without asking
// anybody.
type survey struct {
	host       Host
	containers map[string][]storedContainer // by path
	images     map[string][]storedImage
	// looked are the directories that were there; unread those that could not be read.
	looked, unread []string
}

func newSurvey(h Host) *survey {
	return &survey{host: h, containers: map[string][]storedContainer{}, images: map[string][]storedImage{}}
}

// sight gives the containers of a state directory. Only what can be read without
// asking the runtime is filled in: no Status and no PID.
func (s *survey) sight(p place) ([]*Container, error) {
	entries, err := os.ReadDir(p.root)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		s.looked = append(s.looked, p.root)
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		s.unread = append(s.unread, p.root)
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for containers: %w", err)
	}
	s.looked = append(s.looked, p.root)
	var found []*Container
	for _, e := range entries {
		k, id, ok := sniff(p.root, e)
		r := p.runtime
		switch {
		case r.Name == Direct:
			id, ok = e.Name(), e.IsDir()
		case !ok:
		case r.Name == "":
			r = Runtime{Name: k.name, Root: p.root, kind: k}
		default:
			ok = r.Name == k.name
		}
		if !ok || CheckID(id) != nil {
			continue
		}
		c := &Container{ID: id, Runtime: r, User: p.user}
		if k.bundle != nil {
			c.Bundle = k.bundle(filepath.Join(p.root, e.Name()))
		}
		s.identify(c)
		found = append(found, c)
	}
	return found, nil
}

// identify reads the container's bundle, and what its engine says of it.
func (s *survey) identify(c *Container) {
	if c.Bundle == "" {
		return
	}
	if c.Spec == nil {
		// Who asks the runtime later gets the error of a bundle that cannot be read.
		_ = c.loadBundle()
	}
	s.managed(c)
}

// sniff tells by an entry of a state directory which runtime made it, and for which ID.
func sniff(root string, e fs.DirEntry) (kind, string, bool) {
	// youki has a state.json as runc has: what is special comes last in the table.
	for _, k := range slices.Backward(kinds()) {
		if k.file == "" {
			id, _, ok := strings.Cut(e.Name(), sandboxMark)
			if ok && e.Type().IsRegular() && strings.HasSuffix(e.Name(), sandboxState) {
				return k, id, true
			}
			continue
		}
		if !e.IsDir() {
			continue
		}
		if _, err := os.Lstat(filepath.Join(root, e.Name(), k.file)); err == nil {
			return k, e.Name(), true
		}
	}
	return kind{}, "", false
}

// runcBundle reads the bundle of runc's state.json: a label of the configuration.
func runcBundle(dir string) string {
	var st struct {
		Config struct {
			Labels []string `json:"labels"`
		} `json:"config"`
	}
	if readJSON(filepath.Join(dir, "state.json"), &st) != nil {
		return ""
	}
	// Annotations are labels too; runc adds its own at the end.
	for _, label := range slices.Backward(st.Config.Labels) {
		if bundle, ok := strings.CutPrefix(label, "bundle="); ok {
			return bundle
		}
	}
	return ""
}

// bundleIn reads the bundle from a field of a state file.
func bundleIn(path, field string) string {
	var st map[string]any
	if readJSON(path, &st) != nil {
		return ""
	}
	bundle, _ := st[field].(string)
	return bundle
}

// glob gives the paths below dir that match a pattern of ours. dir is taken as it is.
func glob(dir, pattern string) []string {
	paths, _ := fs.Glob(os.DirFS(dir), pattern) // the only error is a bad pattern
	for i, path := range paths {
		paths[i] = filepath.Join(dir, path)
	}
	return paths
}

// maxStateFile bounds what is read of any file of a runtime or engine, in bytes.
const maxStateFile = 64 << 20

// readState reads a file of a runtime or an engine. A user may own it: it must be a
// regular file, of a size that can be read.
func readState(path string) (b []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: it is no regular file", path)
	}
	if b, err = io.ReadAll(io.LimitReader(f, maxStateFile+1)); err != nil {
		return nil, err
	}
	if len(b) > maxStateFile {
		return nil, fmt.Errorf("read %q: it has more than %d bytes", path, maxStateFile)
	}
	return b, nil
}

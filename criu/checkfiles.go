package criu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fh"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fsnotify"
	remap_file_path "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// formerImages hold what is in [FilesImage] now. CRIU reads them where that one is missing.
func formerImages() []string {
	return []string{
		"reg-files.img", "unixsk.img", "inotify.img", "inotify-wd.img", "fanotify.img", "fanotify-mark.img", "ext-files.img", "fifo.img", "ns-files.img",
	}
}

// privilegedFiles are open files that only a capability lets a process have, and that CRIU makes as root: the
// events of fanotify come with open files of whatever is watched.
func privilegedFiles() map[fdinfo.FdTypes]string {
	return map[fdinfo.FdTypes]string{fdinfo.FdTypes_FANOTIFY: "SYS_ADMIN", fdinfo.FdTypes_BPFMAP: "BPF"}
}

// checkFiles rejects open files that need more than the spec grants, and names that CRIU would resolve outside of
// the container. Where a name leads is seen when its root file system is there: [CheckPaths].
func checkFiles(dir string, names []string, opts CheckOptions) error {
	spec := opts.Spec
	if spec == nil {
		return nil
	}
	for _, name := range formerImages() {
		if !slices.Contains(names, name) {
			continue
		}
		if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || fi.Size() > 0 {
			return imageError(name, "open files in the form of old versions of CRIU")
		}
	}
	files, err := optional(readEntries[fdinfo.FileEntry](dir, FilesImage, magicFiles))
	if err != nil {
		return err
	}
	granted := bounding(spec)
	for _, f := range files {
		kind := f.GetType()
		need := privilegedFiles()[kind]
		if f.GetFfy() != nil {
			need = privilegedFiles()[fdinfo.FdTypes_FANOTIFY]
		}
		if need != "" && !slices.Contains(granted, "CAP_"+need) && !slices.Contains(granted, "CAP_SYS_ADMIN") {
			return imageError(FilesImage, "an open file of type %s, for which a process needs CAP_%s, which the spec does not grant", strings.ToLower(kind.String()), need)
		}
		if byHandle(f) && !opts.Own && !slices.Contains(granted, "CAP_DAC_READ_SEARCH") {
			return imageError(FilesImage, "a watched file is known by its number on the disk of the dumping host alone: the number is another file's here")
		}
		for _, n := range namesOf(f) {
			if n.bad() {
				return imageError(FilesImage, "name %s leads out of the container", archive.QuoteName(n.name))
			}
		}
	}
	return nil
}

// byHandle tells whether an open file watches others that CRIU opens by a handle of their file system, wherever they are in it.
func byHandle(f *fdinfo.FileEntry) bool {
	without := func(h *fh.FhEntry) bool { return h != nil && h.GetPath() == "" }
	return slices.ContainsFunc(f.GetIfy().GetWd(), func(w *fsnotify.InotifyWdEntry) bool { return without(w.GetFHandle()) }) ||
		slices.ContainsFunc(f.GetFfy().GetMark(), func(m *fsnotify.FanotifyMarkEntry) bool { return without(m.GetIe().GetFHandle()) })
}

// bounding are the capabilities that a spec bounds a container by.
func bounding(spec *specs.Spec) []string {
	if spec.Process == nil || spec.Process.Capabilities == nil {
		return nil
	}
	return spec.Process.Capabilities.Bounding
}

// fileName is the name under which CRIU opens or makes a file of the container.
type fileName struct {
	name string
	// external tells that the name is a key, under which the restorer can supply the file.
	external bool
	// replaced tells that the file is not there under its name: something else may be.
	replaced bool
}

// path is what CRIU opens: it leaves out the first character.
func (n fileName) path() string { return "/" + n.name[1:] }

func (n fileName) bad() bool {
	return n.name == "" || len(n.name) > archive.MaxNameBytes || n.name[0] != '/' && !n.external || slices.Contains(strings.Split(n.path(), "/"), "..")
}

// namesOf are the names in the entry of an open file, of whichever type it says it is.
func namesOf(f *fdinfo.FileEntry) []fileName {
	var names []fileName
	if r := f.GetReg(); r != nil {
		names = append(names, fileName{name: r.GetName(), external: r.GetExt()})
	}
	if u := f.GetUsk(); u != nil {
		name := strings.TrimRight(string(u.GetName()), "\x00")
		if name != "" && name[0] != 0 { // neither unnamed nor abstract
			names = append(names, fileName{name: strings.TrimSuffix(u.GetNameDir(), "/") + "/" + strings.TrimPrefix(name, "/"), replaced: u.GetDeleted()})
		}
	}
	hinted := func(h *fh.FhEntry) {
		if h.GetPath() != "" {
			names = append(names, fileName{name: h.GetPath()})
		}
	}
	for _, w := range f.GetIfy().GetWd() {
		hinted(w.GetFHandle())
	}
	for _, m := range f.GetFfy().GetMark() {
		hinted(m.GetIe().GetFHandle())
		if p := m.GetMe().GetPath(); p != "" {
			names = append(names, fileName{name: p})
		}
	}
	return names
}

// openedNames are the names of all open files, once each.
func openedNames(dir string) ([]fileName, error) {
	files, err := optional(readEntries[fdinfo.FileEntry](dir, FilesImage, magicFiles))
	if err != nil {
		return nil, err
	}
	remaps, err := optional(readEntries[remap_file_path.RemapFilePathEntry](dir, "remap-fpath.img", magicRemaps))
	if err != nil {
		return nil, err
	}
	remapped := make(map[uint32]bool, len(remaps))
	for _, r := range remaps {
		remapped[r.GetOrigId()] = true
	}
	seen := map[fileName]bool{}
	var names []fileName
	for _, f := range files {
		for _, n := range namesOf(f) {
			n.replaced = n.replaced || f.GetReg() != nil && remapped[f.GetReg().GetId()]
			if !seen[n] {
				seen[n] = true
				names = append(names, n)
			}
		}
	}
	return names, nil
}

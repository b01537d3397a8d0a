package foreign

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// document is JSON of which only some fields are known here. The others stay.
type document map[string]json.RawMessage

func parseDocument(name string, raw []byte) (document, error) {
	var d document
	err := archive.DecodeJSON(name, raw, &d)
	if err == nil && d == nil {
		err = fmt.Errorf("%w: %s is null", archive.ErrRejected, name)
	}
	return d, err
}

func (d document) set(key string, value any) error {
	raw, err := json.Marshal(value)
	d[key] = raw
	return err
}

// each lets edit look at the elements of a list of objects.
func (d document) each(key string, edit func(document) error) error {
	var list []document
	if raw, ok := d[key]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("%w: %s: %w", archive.ErrRejected, key, err)
		}
	}
	if list == nil {
		return nil
	}
	for _, element := range list {
		if element == nil {
			return fmt.Errorf("%w: %s: an element is null", archive.ErrRejected, key)
		}
		if err := edit(element); err != nil {
			return err
		}
	}
	return d.set(key, list)
}

// hostFiles are what every engine supplies a file of its own for. containerd's client has no such files: it
// binds the host's.
func hostFiles() []string { return []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} }

// clientRoot is where containerd's shim mounts a container's root file system, relative to the bundle.
const clientRoot = "rootfs"

// clientSpec gives a runtime configuration for containerd's client, which hands it to the runtime as it is and makes
// nothing of what another engine had made: its files, its namespaces, its directory for the root file system and its cgroup.
// tmpfs are the mount points that the images carry themselves, in place of the engine's bind mounts.
func clientSpec(raw []byte, tmpfs []string) ([]byte, error) {
	spec, err := parseDocument(archive.SpecDump, raw)
	if err != nil {
		return nil, err
	}
	if err := spec.each("mounts", func(m document) error { return clientMount(m, tmpfs) }); err != nil {
		return nil, err
	}
	root, err := spec.object("root")
	if err == nil {
		err = root.set("path", clientRoot)
	}
	if err == nil {
		err = spec.set("root", root)
	}
	if err != nil {
		return nil, err
	}
	linux, err := spec.object("linux")
	if err != nil {
		return nil, err
	}
	// Two containers of one checkpoint would share it.
	delete(linux, "cgroupsPath")
	if err := spec.set("linux", linux); err != nil {
		return nil, err
	}
	return json.MarshalIndent(spec, "", "  ")
}

// object gives a field that is an object, or a new one.
func (d document) object(key string) (document, error) {
	if _, ok := d[key]; !ok {
		return document{}, nil
	}
	return parseDocument(archive.SpecDump+", "+key, d[key])
}

func clientMount(d document, tmpfs []string) error {
	var m specs.Mount
	if err := d.decode(&m); err != nil || !archive.IsBind(m) {
		return err
	}
	switch {
	case slices.Contains(hostFiles(), m.Destination):
		return d.set("source", m.Destination)
	case slices.Contains(tmpfs, m.Destination):
		options := slices.DeleteFunc(m.Options, func(o string) bool {
			return o == "bind" || o == "rbind" || strings.HasSuffix(o, "private") || strings.HasSuffix(o, "slave") || strings.HasSuffix(o, "shared")
		})
		for key, value := range map[string]any{"type": "tmpfs", "source": path.Base(m.Destination), "options": options} {
			if err := d.set(key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// decode fills a structure with what it knows of the object.
func (d document) decode(into any) error {
	raw, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	return err
}

// NeededByClient gives the paths of the host that a container needs in containerd's client, and that no archive brings along: what
// is bound into it, and the network or the processes that it does not have for itself. without are mount points that it does
// without, or has itself.
func NeededByClient(spec *specs.Spec, without []string) []string {
	var paths []string
	for _, m := range spec.Mounts {
		if archive.IsBind(m) && !slices.Contains(hostFiles(), m.Destination) && !slices.Contains(without, m.Destination) {
			paths = append(paths, m.Source)
		}
	}
	if spec.Linux == nil {
		return paths
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Path != "" && !inImages(ns.Type) {
			paths = append(paths, ns.Path)
		}
	}
	return paths
}

// withoutOwn leaves out of a runtime configuration what CRI-O would look for in the request that it was asked with, though
// nobody has to supply it: the mounts, as a tmpfs, that CRIU makes again with their content.
func withoutOwn(raw []byte) ([]byte, error) {
	var spec specs.Spec
	if err := archive.DecodeJSON(archive.SpecDump, raw, &spec); err != nil {
		return nil, err
	}
	own := []string{}
	for _, m := range spec.Mounts {
		if m.Type == "tmpfs" && !archive.IsBind(m) && m.Destination != "/dev" && m.Destination != "/dev/shm" {
			own = append(own, m.Destination)
		}
	}
	return WithoutMounts(raw, own)
}

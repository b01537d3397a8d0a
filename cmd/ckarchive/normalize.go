package main

import (
	"encoding/json"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/criu"
)

// ownMounts are the mounts that Podman makes of its own accord and that CRI-O's and containerd's users
// have no counterpart of: their restores end with "No mapping" for them. /etc/hosts, /etc/hostname,
// /etc/resolv.conf and /dev/shm are not among these: every engine supplies its own, and without the
// mount a container would keep the names and servers of the host that it left.
func ownMounts() []string { return []string{"/run/.containerenv", "/run/secrets"} }

// normalize takes the engine's own mounts out of the images and the runtime configuration, so that
// engines without them restore the archive, and gives the configuration. dir has the archive's layout.
// Mounts that are in use stay, and it is said.
func (x *export) normalize(a *app, dir string) ([]byte, error) {
	spec := x.ctr.SpecJSON
	if !x.cmd.Normalize || x.ctr.Engine == "" || x.dest.kind == locationImages || x.meta.Format != archive.FormatCRIU {
		return spec, nil
	}
	candidates := slices.DeleteFunc(ownMounts(), func(dest string) bool {
		return !slices.ContainsFunc(x.ctr.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == dest && archive.IsBind(m) })
	})
	if len(candidates) == 0 {
		return spec, nil
	}
	dropped, err := criu.DropMounts(filepath.Join(dir, archive.CheckpointDir), candidates)
	if err != nil {
		return nil, err
	}
	for _, dest := range candidates {
		if !slices.Contains(dropped, dest) {
			a.warn("%s of %s is in use and stays in the archive: CRI-O and containerd will want a mount there", dest, x.ctr.Engine)
		}
	}
	x.meta.Externals = slices.DeleteFunc(x.meta.Externals, func(e archive.External) bool {
		return e.Kind == "mount" && slices.Contains(dropped, e.Path)
	})
	return withoutMounts(spec, dropped)
}

// withoutMounts gives a runtime configuration without some mounts, by destination. What is not known of
// it stays.
func withoutMounts(spec []byte, dests []string) ([]byte, error) {
	if len(dests) == 0 {
		return spec, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(spec, &all); err != nil {
		return nil, err
	}
	var mounts []json.RawMessage
	if err := json.Unmarshal(all["mounts"], &mounts); err != nil {
		return nil, err
	}
	kept := []json.RawMessage{}
	for _, raw := range mounts {
		var m specs.Mount
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, err
		}
		if !slices.Contains(dests, m.Destination) {
			kept = append(kept, raw)
		}
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	all["mounts"] = raw
	return json.Marshal(all)
}

package foreign

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// WithoutMounts gives a runtime configuration without some mounts, by destination. What is not known of
// it stays.
func WithoutMounts(spec []byte, dests []string) ([]byte, error) {
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
	var err error
	if all["mounts"], err = withoutDestinations(mounts, dests); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// withoutDestinations encodes a list of mounts without some, by the field that spec.dump and bind.mounts
// both have.
func withoutDestinations(mounts []json.RawMessage, dests []string) ([]byte, error) {
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
	return json.Marshal(kept)
}

// leaveOut takes the mounts that are not to be in it out of a checkpoint's metadata.
func (c *converted) leaveOut(head map[string][]byte, opts ConvertOptions) (spec []byte, err error) {
	maps.Copy(c.replaced, opts.Images)
	c.meta.Externals = slices.DeleteFunc(c.meta.Externals, func(e archive.External) bool {
		return e.Kind == "mount" && (slices.Contains(opts.Without, e.Path) || slices.Contains(opts.OwnTmpfs, e.Path))
	})
	if len(opts.Without) == 0 {
		return head[archive.SpecDump], nil
	}
	if raw := head[archive.BindMounts]; raw != nil {
		var mounts []json.RawMessage
		if err := archive.DecodeJSON(archive.BindMounts, raw, &mounts); err != nil {
			return nil, err
		}
		if c.replaced[archive.BindMounts], err = withoutDestinations(mounts, opts.Without); err != nil {
			return nil, err
		}
	}
	return WithoutMounts(head[archive.SpecDump], opts.Without)
}

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// seenFile lists, in a store, which manifests were seen in which repositories. It saves requests and uploads and
// is nothing to rely on: a registry is asked before anything follows from it.
const seenFile = "ckarchive.seen.json"

// maxSeen is how many manifests are listed: those that were seen last. Each push reads those of its registry, which are still
// in the store: all of them take a tenth of a second.
const maxSeen = 200

// seen is a manifest that a repository had, with all that it leads to.
type seen struct {
	Repository string        `json:"repository"` // with its host
	Manifest   digest.Digest `json:"manifest"`
}

// seenAll gives what was seen, the last first. A list that cannot be read is an empty one.
func (s *Store) seenAll() []seen {
	raw, err := readSmall(filepath.Join(s.dir, seenFile), MaxIndexBytes)
	if err != nil {
		return nil
	}
	var list []seen
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	list = slices.DeleteFunc(list, func(one seen) bool {
		ref, err := ParseReference(one.Repository)
		return err != nil || ref.Name() != one.Repository || checkDigest(one.Manifest) != nil
	})
	slices.Reverse(list)
	return list
}

// Seen tells of the manifests that the repository of ref was seen to have, the last first, and that the store has whole,
// whether a name leads to them or not: one without a name is there until the next GC.
func (s *Store) Seen(ctx context.Context, ref Reference) ([]Named, error) {
	var whole []Named
	for _, one := range s.seenAll() {
		if one.Repository != ref.Name() {
			continue
		}
		all, err := s.held(ctx, one.Manifest)
		if err != nil {
			return nil, opError("list", s.dir, err)
		}
		there := len(all.manifests) > 0
		for _, b := range all.blobs {
			if there {
				if there, err = s.Exists(ctx, b); err != nil {
					return nil, err
				}
			}
		}
		if there {
			root := all.manifests[len(all.manifests)-1].desc
			whole = append(whole, describeAll(ctx, s, &ocispec.Index{Manifests: []ocispec.Descriptor{root}})...)
		}
	}
	return whole, nil
}

// noteSeen adds to the list.
func (s *Store) noteSeen(ctx context.Context, one seen) error {
	return s.alone(ctx, func() error {
		list := s.seenAll()
		if len(list) > 0 && list[0] == one {
			return nil
		}
		list = slices.DeleteFunc(list, func(old seen) bool { return old == one })
		list = list[:min(len(list), maxSeen-1)]
		slices.Reverse(list)
		raw, err := json.Marshal(append(list, one))
		if err != nil {
			return err
		}
		return s.writeFile(seenFile, raw)
	})
}

// held tells what is below a manifest of the store. One that is there no more has nothing.
func (s *Store) held(ctx context.Context, d digest.Digest) (*nodes, error) {
	desc, err := s.resolveDigest(ctx, d)
	if err == nil {
		var all *nodes
		if all, err = graph(ctx, s, desc); err == nil {
			return all, nil
		}
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrContent) || errors.Is(err, ErrRegistry) || errors.Is(err, fs.ErrNotExist) {
		return &nodes{}, nil
	}
	return nil, err
}

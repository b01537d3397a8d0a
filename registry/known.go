package registry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxRelated is how many manifests a registry is asked for, to learn from those that it has.
const maxRelated = 4

// known is what is known of a registry's blobs without asking for each of them.
type known struct {
	there   map[digest.Digest]bool         // a manifest that is there names them
	sources map[digest.Digest]*mountSource // another repository may have them
	// fresh says that what is not there by the above is not there at all: an earlier checkpoint is, or the repository is
	// new, and of this one nothing was sent yet.
	fresh bool
}

// mountSource is another repository of the same registry.
type mountSource struct {
	repository string
	refused    atomic.Bool // it need not be asked again
}

// learn finds out what can be known of the destination.
func (c *copier) learn(ctx context.Context, root digest.Digest, blobs []ocispec.Descriptor) error {
	dst, ok := c.dst.(*Repository)
	if !ok || len(blobs) == 0 {
		return nil
	}
	switch src := c.src.(type) {
	case *Repository:
		if src.host.endpoint != dst.host.endpoint || src.ref.Repository == dst.ref.Repository {
			return nil
		}
		source := &mountSource{repository: src.ref.Repository}
		c.known.sources = map[digest.Digest]*mountSource{}
		for _, b := range blobs {
			c.known.sources[b.Digest] = source
		}
	case *Store:
		return c.known.learn(ctx, dst, src, root, blobs)
	}
	return nil
}

// related is a manifest of the store that was seen in the registry, and what it has in common with a copy.
type related struct {
	desc   ocispec.Descriptor
	common []ocispec.Descriptor
	bytes  int64
}

// learn looks for manifests of the store that lead to the same blobs: for those that dst has, and for those
// that other repositories of the registry have.
func (k *known) learn(ctx context.Context, dst *Repository, src *Store, root digest.Digest, blobs []ocispec.Descriptor) error {
	k.there, k.sources = map[digest.Digest]bool{}, map[digest.Digest]*mountSource{}
	wanted := map[digest.Digest]ocispec.Descriptor{}
	for _, b := range blobs {
		wanted[b.Digest] = b
	}
	repositories := map[string]*mountSource{}
	var here []related
	for _, one := range src.seenAll() {
		ref, err := ParseReference(one.Repository)
		same := err == nil && ref.Repository == dst.ref.Repository
		if err != nil || ref.endpoint() != dst.host.endpoint || same && one.Manifest == root {
			continue
		}
		all, err := src.held(ctx, one.Manifest)
		if err != nil {
			return err
		}
		r := common(all, wanted)
		switch {
		case len(r.common) == 0:
		case same:
			here = append(here, r)
		default:
			if repositories[ref.Repository] == nil {
				repositories[ref.Repository] = &mountSource{repository: ref.Repository}
			}
			for _, b := range r.common {
				if k.sources[b.Digest] == nil { // the last one seen is the likeliest
					k.sources[b.Digest] = repositories[ref.Repository]
				}
			}
		}
	}
	if err := k.confirm(ctx, dst, here); err != nil {
		return err
	}
	if len(k.there) == 0 {
		if fresh, err := dst.isNew(ctx); err != nil || !fresh {
			return err
		}
	}
	// The first blob is the config, which no other checkpoint has, and it is sent first.
	begun, err := dst.Exists(ctx, blobs[0])
	k.fresh = err == nil && !begun
	return err
}

// isNew tells whether the registry says that it has no such repository. It need not say anything; but who is not let in
// goes no further.
func (r *Repository) isNew(ctx context.Context) (bool, error) {
	resp, err := r.send(ctx, http.MethodGet, "/tags/list", url.Values{"n": {"1"}}, exchange{}, auth.ActionPull)
	if err == nil {
		drain(resp)
		return false, nil
	}
	var status *StatusError
	if !errors.As(err, &status) || status.Status == http.StatusUnauthorized {
		return false, opError("look for", r.ref.Name(), err)
	}
	return status.Status == http.StatusNotFound && isNameUnknown(status), nil
}

// common tells which of the wanted blobs are among all.
func common(all *nodes, wanted map[digest.Digest]ocispec.Descriptor) related {
	var r related
	for _, b := range all.blobs {
		if w, ok := wanted[b.Digest]; ok && w.Size == b.Size {
			r.common = append(r.common, b)
			r.bytes += b.Size
		}
	}
	if n := len(all.manifests); n > 0 {
		r.desc = all.manifests[n-1].desc
	}
	return r
}

// confirm asks dst for those manifests that would tell most.
func (k *known) confirm(ctx context.Context, dst *Repository, list []related) error {
	slices.SortStableFunc(list, func(a, b related) int { return cmp.Compare(b.bytes, a.bytes) })
	asked := 0
	for _, r := range list {
		more := slices.ContainsFunc(r.common, func(b ocispec.Descriptor) bool { return !k.there[b.Digest] })
		if !more {
			continue
		}
		if asked++; asked > maxRelated {
			return nil
		}
		there, err := dst.Exists(ctx, r.desc)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		for _, b := range r.common {
			k.there[b.Digest] = true
		}
	}
	return nil
}

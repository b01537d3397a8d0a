package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

// Named is a name of a layout and what it leads to.
type Named struct {
	Name       string // empty for content that the layout lists without a name
	Descriptor ocispec.Descriptor
	// Annotations, ArtifactType and ConfigType are those of the manifest.
	Annotations  map[string]string
	ArtifactType string
	ConfigType   string
	// Bytes is the sum of config and layers, or of the manifests of an index, as their descriptors say.
	Bytes int64
	// Shared is how much of it other manifests of the layout lead to as well: that stays when this one is removed.
	Shared int64
	// Err says why the manifest could not be read; what comes from it is then empty.
	Err error
}

// CheckName tells whether name may be a name in a layout: a reference or, for
// layouts of other tools, a bare tag. What could be taken for a digest or an
// option, or hurts a terminal, is an ErrReference.
func CheckName(name string) error {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._:@/+[]", r)
	}
	switch {
	case name == "" || len(name) > maxNameBytes:
		return fmt.Errorf("%w: name of %d bytes, 1 to %d are allowed", ErrReference, len(name), maxNameBytes)
	case strings.ContainsFunc(name, bad):
		return fmt.Errorf("%w %s: only letters, digits and - . _ : @ / + [ ]", ErrReference, quoteName(name))
	case name[0] == '-' || digest.Digest(name).Validate() == nil:
		return fmt.Errorf("%w %s: looks like an option or a digest", ErrReference, quoteName(name))
	}
	return nil
}

func (s *Store) indexPath() string { return filepath.Join(s.dir, ocispec.ImageIndexFile) }

// readIndex reads index.json. It is replaced as a whole, so that it is consistent without a lock.
func (s *Store) readIndex() (*ocispec.Index, error) {
	raw, err := readSmall(s.indexPath(), MaxIndexBytes)
	if err != nil {
		return nil, err
	}
	return parseIndex(raw)
}

func parseIndex(raw []byte) (*ocispec.Index, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, contentf("%s: %w", ocispec.ImageIndexFile, err)
	}
	if index.SchemaVersion != 2 {
		return nil, contentf("%s: schema version %d", ocispec.ImageIndexFile, index.SchemaVersion)
	}
	for _, d := range index.Manifests {
		if err := checkDescriptor(d); err != nil {
			return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
	}
	return &index, nil
}

func marshalIndex(index *ocispec.Index) ([]byte, error) {
	index.SchemaVersion = 2
	index.MediaType = ocispec.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []ocispec.Descriptor{}
	}
	return json.Marshal(index)
}

func (s *Store) writeIndex(index *ocispec.Index) error {
	raw, err := marshalIndex(index)
	if err != nil {
		return err
	}
	if len(raw) > MaxIndexBytes {
		return fmt.Errorf("%s would exceed %d bytes; remove names first", ocispec.ImageIndexFile, MaxIndexBytes)
	}
	return s.writeFile(ocispec.ImageIndexFile, raw)
}

// changeIndex lets change work on the index while no other process can. An
// error of change leaves the index as it is.
func (s *Store) changeIndex(ctx context.Context, change func(*ocispec.Index) error) error {
	return s.alone(ctx, func() error {
		index, err := s.readIndex()
		if err != nil {
			return err
		}
		if err := change(index); err != nil {
			return err
		}
		return s.writeIndex(index)
	})
}

// alone lets change work on the lists of the store, as the index, while no other process can.
func (s *Store) alone(ctx context.Context, change func() error) (err error) {
	// GC removes temporary files, and there is one for a moment.
	hold, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold.Close() //nolint:errcheck // closing a lock file loses nothing
	lock, err := lockExclusive(ctx, filepath.Join(s.dir, indexLockFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return change()
}

func nameOf(desc ocispec.Descriptor) string { return desc.Annotations[ocispec.AnnotationRefName] }

// lookup finds a name or a digest among the entries of a layout. The empty
// name is the only entry, where there is but one.
func lookup(index *ocispec.Index, name string) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	for _, d := range index.Manifests {
		if name == "" || nameOf(d) == name || d.Digest.String() == name {
			if !slices.ContainsFunc(found, func(f ocispec.Descriptor) bool { return f.Digest == d.Digest }) {
				found = append(found, d)
			}
		}
	}
	switch {
	case len(found) == 1:
		desc := plain(found[0])
		desc.ArtifactType = found[0].ArtifactType
		return desc, nil
	case len(found) > 1 && name == "":
		names := make([]string, 0, len(found))
		for _, d := range found {
			names = append(names, quoteName(nameOf(d)))
		}
		return ocispec.Descriptor{}, fmt.Errorf("%w: a tag is needed, there are %s", ErrReference, strings.Join(names[:min(len(names), 10)], ", "))
	case len(found) > 1:
		return ocispec.Descriptor{}, contentf("name %s leads to %d manifests", quoteName(name), len(found))
	case name == "":
		return ocispec.Descriptor{}, fmt.Errorf("%w: the layout is empty", ErrNotFound)
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: no such name", ErrNotFound)
}

// Resolve finds what a name, or the digest of a manifest, leads to. The empty
// name is the only manifest of the store, if there is but one.
func (s *Store) Resolve(ctx context.Context, name string) (ocispec.Descriptor, error) {
	index, err := s.readIndex()
	if err != nil {
		return ocispec.Descriptor{}, opError("resolve", s.refText(name), err)
	}
	desc, err := lookup(index, name)
	if errors.Is(err, ErrNotFound) && digest.Digest(name).Validate() == nil {
		desc, err = s.resolveDigest(ctx, digest.Digest(name))
	}
	return desc, opError("resolve", s.refText(name), err)
}

// resolveDigest finds a manifest that no name leads to: a part of an index.
func (s *Store) resolveDigest(_ context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	path, err := s.blobPath(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	raw, err := readSmall(path, MaxManifestBytes)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: no manifest %s", ErrNotFound, d)
	}
	return describeManifest(d, raw)
}

// describeManifest makes the descriptor of a manifest that says itself what it is.
func describeManifest(d digest.Digest, raw []byte) (ocispec.Descriptor, error) {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.SchemaVersion != 2 {
		return ocispec.Descriptor{}, fmt.Errorf("%w: blob %s is no manifest", ErrNotFound, d)
	}
	switch {
	case m.MediaType != "":
	case m.Manifests != nil:
		m.MediaType = ocispec.MediaTypeImageIndex
	default:
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(raw)), ArtifactType: m.ArtifactType}
	if d.Algorithm().FromBytes(raw) != d {
		return ocispec.Descriptor{}, contentf("manifest %s does not match its digest", d)
	}
	return desc, nil
}

func (s *Store) refText(name string) string {
	if name == "" {
		return s.dir
	}
	return name
}

// Tag makes name lead to desc, whatever it led to before. The manifest must be in the store.
func (s *Store) Tag(ctx context.Context, desc ocispec.Descriptor, name string) error {
	return opError("tag", s.refText(name), s.tag(ctx, desc, name, false))
}

// TagNew is Tag for a name that must not lead to anything else yet: that is an ErrExists.
func (s *Store) TagNew(ctx context.Context, desc ocispec.Descriptor, name string) error {
	return opError("tag", s.refText(name), s.tag(ctx, desc, name, true))
}

func (s *Store) tag(ctx context.Context, desc ocispec.Descriptor, name string, fresh bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := checkDescriptor(desc); err != nil {
		return err
	}
	// GC must not take the manifest away between the look and the name.
	hold, err := s.Hold(ctx)
	if err != nil {
		return err
	}
	defer hold.Close() //nolint:errcheck // closing a lock file loses nothing
	if there, err := s.Exists(ctx, desc); err != nil || !there {
		if err == nil {
			err = fmt.Errorf("%w: manifest %s", ErrNotFound, desc.Digest)
		}
		return err
	}
	entry := plain(desc)
	entry.ArtifactType = desc.ArtifactType
	entry.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	return s.changeIndex(ctx, func(index *ocispec.Index) error {
		if old, err := lookup(index, name); fresh && err == nil && old.Digest != desc.Digest {
			return fmt.Errorf("%w: name leads to %s", ErrExists, old.Digest)
		}
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return nameOf(d) == name || d.Digest == desc.Digest && nameOf(d) == ""
		})
		index.Manifests = append(index.Manifests, entry)
		return nil
	})
}

// Untag removes a name, or all names of a digest. The content stays until [Store.GC].
func (s *Store) Untag(ctx context.Context, name string) error {
	return opError("remove", s.refText(name), s.changeIndex(ctx, func(index *ocispec.Index) error {
		before := len(index.Manifests)
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return name != "" && (nameOf(d) == name || d.Digest.String() == name)
		})
		if len(index.Manifests) == before {
			return fmt.Errorf("%w: no such name", ErrNotFound)
		}
		return nil
	}))
}

// Names tells all names in alphabetical order, and reads nothing but the index.
func (s *Store) Names() ([]string, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, opError("list", s.dir, err)
	}
	var names []string
	for _, d := range index.Manifests {
		if name := nameOf(d); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// List tells all names in alphabetical order, with what their manifests say of
// themselves. A manifest that is damaged does not hide the others.
func (s *Store) List(ctx context.Context) ([]Named, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, opError("list", s.dir, err)
	}
	return describeAll(ctx, s, index), nil
}

func describeAll(ctx context.Context, src content.Fetcher, index *ocispec.Index) []Named {
	list := make([]Named, 0, len(index.Manifests))
	parts := map[digest.Digest]map[digest.Digest]int64{} // sizes, by the manifest and then by what it leads to
	users := map[digest.Digest]int{}                     // how many manifests lead to it
	for _, d := range index.Manifests {
		n := Named{Name: nameOf(d), Descriptor: plain(d)}
		n.Descriptor.ArtifactType = d.ArtifactType
		if _, m, err := fetchManifest(ctx, src, d); err != nil {
			n.Err = err
		} else {
			n.Annotations, n.ArtifactType = m.Annotations, m.ArtifactType
			if m.Config != nil {
				n.ConfigType = m.Config.MediaType
			}
			first := parts[d.Digest] == nil // it may have several names
			sizes := map[digest.Digest]int64{}
			for _, part := range m.parts() {
				n.Bytes += part.Size
				if _, twice := sizes[part.Digest]; first && !twice {
					users[part.Digest]++
				}
				sizes[part.Digest] = part.Size
			}
			parts[d.Digest] = sizes
		}
		list = append(list, n)
	}
	for i := range list {
		for part, size := range parts[list[i].Descriptor.Digest] {
			if users[part] > 1 {
				list[i].Shared += size
			}
		}
	}
	slices.SortFunc(list, func(a, b Named) int {
		return strings.Compare(a.Name+"\x00"+a.Descriptor.Digest.String(), b.Name+"\x00"+b.Descriptor.Digest.String())
	})
	return list
}

package foreign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
)

// Target is who is to restore what [Convert] gives.
type Target string

// The targets. Podman, CRI-O and containerd restore what is universal; the others are
// stricter: what that engine demands must be known.
const (
	ForAll        Target = "universal"
	ForPodman     Target = Podman
	ForCRIO       Target = CRIO
	ForContainerd Target = Containerd
	// ForClient is containerd's client, which has nothing to put in the place of what another engine made.
	ForClient Target = "ctr"
)

// ConvertOptions adjust [Convert].
type ConvertOptions struct {
	Target Target
	// Known goes before what the checkpoint says.
	Known Known
	// ContainerdBase lets config.dump name the base image as containerd looks it up. CRI-O then
	// refuses it: it wants the bare ID in the same field.
	ContainerdBase bool
	// Without are mount points that are left out of the metadata.
	Without []string
	// Images are the members of CRIU's images that get another content, or that are added.
	Images map[string][]byte
	// OwnTmpfs are mount points of which Images has the content, where an engine had bound a tmpfs of its making.
	OwnTmpfs []string
	// RootMode are the permissions of the container's root directory, 0 if they are not known. Podman and CRI-O give it
	// others, on which CRIU's images do not agree with them, unless it is among the changes of the root file system.
	RootMode fs.FileMode
}

// MissingError is what a checkpoint must say and does not.
type MissingError struct {
	Target Target
	What   []string
}

// Error names all of it.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s needs what the checkpoint does not say: %s", e.Target, strings.Join(e.What, ", "))
}

// Convert gives the checkpoint that open gives as the target restores it: what the metadata
// members say is kept, what they lack is added, and the changes of the root file system are told
// in the dialects of all engines. Memory and images pass unchanged. It reads checkpoints of
// ckarchive itself once; of others the changes of the root file system are read before. What
// open gives must have digests of its members, and the result has them too. The caller closes it.
func Convert(ctx context.Context, open OpenFunc, opts ConvertOptions) (archive.Source, error) {
	src, err := open(ctx)
	if err != nil {
		return nil, err
	}
	head, rest, err := archive.Peek(ctx, src)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	c, err := newConverted(head, opts)
	if err == nil && c.meta.Rootfs == nil {
		// Made by another engine, which tells deletions in one dialect only.
		if s, ok := src.(*Source); ok {
			open = s.again
		}
		err = c.translate(ctx, open, opts)
	}
	if err == nil {
		err = c.seal()
	}
	if err != nil {
		return nil, errors.Join(err, rest.Close())
	}
	c.rest = rest
	return c, nil
}

// again gives the same source from its beginning.
func (s *Source) again(context.Context) (archive.Source, error) {
	return &Source{open: s.open, meta: s.meta, members: s.members}, nil
}

// converted is a checkpoint with other metadata.
type converted struct {
	rest     archive.Source
	meta     *archive.Metadata
	replaced map[string][]byte // members by name; those that were not yet given
	prefix   []byte            // what goes before the changes of the root file system
	held     *held             // an entry that comes behind added ones
	ended    bool
}

type held struct {
	entry archive.Entry
	r     io.Reader
}

var _ archive.Source = (*converted)(nil)

func newConverted(head map[string][]byte, opts ConvertOptions) (*converted, error) {
	meta, err := archive.ParseMetadata(head[archive.MetadataFile])
	if err != nil {
		return nil, err
	}
	opts.Known.fill(meta)
	c := &converted{meta: meta, replaced: map[string][]byte{}}
	spec, err := c.leaveOut(head, opts)
	if err == nil {
		spec, err = withOwnNamespaces(spec)
	}
	switch {
	case err != nil:
	case opts.Target == ForClient:
		spec, err = clientSpec(spec, opts.OwnTmpfs)
	case opts.Target == ForCRIO:
		spec, err = withoutOwn(spec)
	}
	if err != nil {
		return nil, err
	}
	made, err := archive.Universal(meta, spec)
	if err != nil {
		return nil, err
	}
	c.replaced[archive.SpecDump] = made[archive.SpecDump]
	for _, name := range []string{archive.StatusDump, archive.BindMounts} {
		if head[name] == nil {
			c.replaced[name] = made[name]
		}
	}
	if c.replaced[archive.ConfigDump], err = mergeConfig(head[archive.ConfigDump], made[archive.ConfigDump], meta, opts); err != nil {
		return nil, err
	}
	return c, opts.demand(meta)
}

// mergeConfig keeps what an engine wrote and adds what others look for. Fields that an engine
// refuses in another's form are rewritten.
func mergeConfig(original, made []byte, m *archive.Metadata, opts ConvertOptions) ([]byte, error) {
	var all, universal map[string]json.RawMessage
	if err := archive.DecodeJSON(archive.ConfigDump, original, &all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(made, &universal); err != nil {
		return nil, err
	}
	leavePod(all)
	for key, value := range universal {
		if old, ok := all[key]; !ok || isEmpty(old) {
			all[key] = value
		}
	}
	// The runtime goes by its own name, and what flags say goes before what was there.
	for _, key := range []string{"runtime", "rootfsImageID", "rootfsImageName", "rootfsImageRef", "rootfsImage", "RawImageName"} {
		if value, ok := universal[key]; ok && !isEmpty(value) {
			all[key] = value
		}
	}
	k := opts.Known
	set := func(key, value string) error {
		if value == "" {
			return nil
		}
		raw, err := json.Marshal(value)
		all[key] = raw
		return err
	}
	err := errors.Join(set("id", k.ID), set("name", k.Name))
	if opts.Target == ForContainerd || opts.Target == ForClient || opts.ContainerdBase {
		err = errors.Join(err, set("rootfsImageRef", containerdRef(m.Base, k.Base)))
	}
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(all, "", "  ")
	return append(b, '\n'), err
}

// containerdRef is the name under which containerd finds an image: by its manifest, which it can fetch, or by its ID, which it has
// if somebody says that one.
func containerdRef(b *archive.Base, told archive.Base) string {
	switch {
	case b == nil:
		return ""
	case told.ImageID != "" && told.Manifest == "":
		return sha256Prefix + strings.TrimPrefix(b.ImageID, sha256Prefix)
	case b.Manifest != "" && b.Image != "":
		return repository(b.Image) + "@" + b.Manifest
	case b.ImageID != "":
		return sha256Prefix + strings.TrimPrefix(b.ImageID, sha256Prefix)
	}
	return b.Image
}

// repository is an image's name without its tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// qualified is a name that an engine can look up without guessing: with a registry's host.
var qualified = regexp.MustCompile(`^[a-z0-9][a-z0-9._:-]*/[a-z0-9][^ @]*(@sha256:[0-9a-f]{64})?$`)

// demand refuses what the target would refuse. The rules are Podman's container_validate.go and
// checkpoint_restore.go, CRI-O's server/container_restore.go and containerd's
// internal/cri/server/container_checkpoint_linux.go.
func (o *ConvertOptions) demand(m *archive.Metadata) error {
	var b archive.Base
	if m.Base != nil {
		b = *m.Base
	}
	missing := []string{}
	need := func(ok bool, what string) {
		if !ok {
			missing = append(missing, what)
		}
	}
	switch o.Target {
	case ForPodman:
		need(m.Container.ID != "", "the container's ID")
		need(qualified.MatchString(b.Image), "the full name of the base image")
		need(isImageID(b.ImageID), "the ID of the base image")
	case ForCRIO:
		need(b.ImageID == "" || isImageID(b.ImageID), "the ID of the base image as 64 hex digits")
		need(isImageID(b.ImageID) || b.Image != "", "the name or the ID of the base image")
	case ForContainerd, ForClient:
		need(b.Image != "", "the name of the base image")
	}
	if o.Target != ForAll && m.Format == archive.FormatGVisor {
		return fmt.Errorf("%s restores no sandbox of gVisor: only runsc does", o.Target)
	}
	if len(missing) > 0 {
		return &MissingError{Target: o.Target, What: missing}
	}
	return nil
}

// seal brings the list of members in ckarchive.json up to date.
func (c *converted) seal() error {
	for name, content := range c.replaced {
		sum := sha256.Sum256(content)
		c.list(archive.Member{Name: name, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(c.meta.Members, func(a, b archive.Member) int { return compare(a.Name, b.Name) })
	raw, err := c.meta.Marshal()
	c.replaced[archive.MetadataFile] = raw
	return err
}

func (c *converted) list(m archive.Member) {
	i := slices.IndexFunc(c.meta.Members, func(old archive.Member) bool { return old.Name == m.Name })
	if i < 0 {
		c.meta.Members = append(c.meta.Members, m)
		return
	}
	c.meta.Members[i] = m
}

// Next implements [archive.Source].
func (c *converted) Next(ctx context.Context) (archive.Entry, io.Reader, error) {
	if ctx.Err() != nil {
		return archive.Entry{}, nil, context.Cause(ctx)
	}
	if c.held == nil && !c.ended {
		e, r, err := c.rest.Next(ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			return e, nil, err
		}
		c.ended = err != nil
		if !c.ended {
			c.held = &held{e, r}
		}
	}
	if name, ok := c.added(); ok {
		return c.give(archive.Entry{Name: name, Mode: memberMode, ModTime: c.meta.Created})
	}
	if c.ended {
		return archive.Entry{}, nil, io.EOF
	}
	h := c.held
	c.held = nil
	if c.replaced[h.entry.Name] != nil {
		return c.give(h.entry)
	}
	if h.entry.Name == archive.RootfsDiff && len(c.prefix) > 0 {
		h.entry.Size += int64(len(c.prefix))
		h.r = io.MultiReader(bytes.NewReader(c.prefix), h.r)
	}
	return h.entry, h.r, nil
}

// added is a new member whose place is before the entry that is held.
func (c *converted) added() (string, bool) {
	first := ""
	for name := range c.replaced {
		if (c.held == nil || archive.Less(name, c.held.entry.Name)) && (first == "" || archive.Less(name, first)) {
			first = name
		}
	}
	return first, first != ""
}

func (c *converted) give(e archive.Entry) (archive.Entry, io.Reader, error) {
	content := c.replaced[e.Name]
	delete(c.replaced, e.Name)
	e.Size = int64(len(content))
	return e, bytes.NewReader(content), nil
}

// Close implements [archive.Source].
func (c *converted) Close() error { return c.rest.Close() }

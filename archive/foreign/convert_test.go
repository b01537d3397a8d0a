package foreign_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/archive/foreign"
)

func convert(t *testing.T, open foreign.OpenFunc, opts foreign.ConvertOptions) archive.Source {
	t.Helper()
	src, err := foreign.Convert(t.Context(), open, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

func reading(path string) foreign.OpenFunc {
	return func(ctx context.Context) (archive.Source, error) {
		return foreign.Open(ctx, opening(path), foreign.Options{Digests: true})
	}
}

var hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// accepts says why the consumers would refuse a checkpoint, by the rules that they have in their
// sources: Podman's libpod/container_validate.go and pkg/checkpoint/checkpoint_restore.go, CRI-O's
// server/container_restore.go, containerd's internal/cri/server/container_checkpoint_linux.go, and
// checkpointctl's internal/container.go.
func accepts(files map[string][]byte, target foreign.Target) []string {
	refused := []string{}
	need := func(ok bool, why string) {
		if !ok {
			refused = append(refused, why)
		}
	}
	var config struct {
		ID, Name, Runtime              string
		RootfsImageID, RootfsImageName string
		RootfsImageRef                 string
		Dependencies                   []string
		CreateNetNS                    bool
		NewNetworks                    map[string]any
	}
	var spec struct {
		Annotations map[string]string
		Linux       struct{ Namespaces []struct{ Type string } }
	}
	need(json.Unmarshal(files[archive.ConfigDump], &config) == nil, "config.dump")
	need(json.Unmarshal(files[archive.SpecDump], &spec) == nil, "spec.dump")
	need(files[archive.Image(archive.Inventory)] != nil && files[archive.Image(archive.Descriptors)] != nil, "images")
	if target == foreign.ForPodman || target == foreign.ForAll {
		need(config.Runtime == "runc" || config.Runtime == "crun", "podman: runtime "+config.Runtime)
		need(hexID.MatchString(config.ID) && config.Name != "", "podman: ID and name")
		need(hexID.MatchString(config.RootfsImageID) && strings.Contains(config.RootfsImageName, "/"), "podman: base image")
		need(len(config.Dependencies) == 0, "podman: dependencies")
		own := slices.ContainsFunc(spec.Linux.Namespaces, func(n struct{ Type string }) bool { return n.Type == "network" })
		need(own == config.CreateNetNS && (len(config.NewNetworks) == 0 || own), "podman: network")
	}
	if target == foreign.ForCRIO || target == foreign.ForAll {
		need(json.Valid([]byte(spec.Annotations["io.kubernetes.cri-o.Annotations"])), "cri-o: annotations")
		need(config.RootfsImageRef == "" || hexID.MatchString(config.RootfsImageRef), "cri-o: rootfsImageRef")
	}
	if target == foreign.ForContainerd || target == foreign.ForAll {
		need(json.Valid(files[archive.StatusDump]), "containerd: status.dump")
		need(config.RootfsImageRef != "" && config.RootfsImageName != "", "containerd: base image")
	}
	if target == foreign.ForContainerd {
		need(strings.HasPrefix(config.RootfsImageRef, "sha256:") || strings.Contains(config.RootfsImageRef, "@sha256:"), "containerd: rootfsImageRef")
	}
	return refused
}

func TestConvert(t *testing.T) {
	files, err := filepath.Glob("testdata/*.tar.zst")
	if err != nil || len(files) < 4 {
		t.Fatalf("test data: %q, %v", files, err)
	}
	for _, file := range files {
		for _, target := range []foreign.Target{foreign.ForAll, foreign.ForPodman, foreign.ForCRIO, foreign.ForContainerd} {
			t.Run(filepath.Base(file)+" for "+string(target), func(t *testing.T) {
				opts := foreign.ConvertOptions{Target: target}
				rep, err := archive.Verify(t.Context(), convert(t, reading(file), opts), archive.CopyOptions{})
				if err != nil || !rep.Proven {
					t.Fatalf("verify: proven %v, %v", rep.Proven, err)
				}
				list, err := archivetest.Read(t.Context(), convert(t, reading(file), opts))
				if err != nil {
					t.Fatal(err)
				}
				got := map[string][]byte{}
				for _, f := range list {
					got[f.Name] = f.Content
				}
				if refused := accepts(got, target); len(refused) > 0 {
					t.Errorf("refused for %q", refused)
				}
				first, second := sumOf(t, convert(t, reading(file), opts)), sumOf(t, convert(t, reading(file), opts))
				if first != second {
					t.Errorf("converted twice: %x and %x", first, second)
				}
			})
		}
	}
}

// The rules of accepts refuse what the engines make themselves, for each other.
func TestEnginesDisagree(t *testing.T) {
	for file, others := range map[string][]foreign.Target{
		"crio.tar.zst":           {foreign.ForPodman, foreign.ForContainerd},
		"containerd-cri.tar.zst": {foreign.ForPodman, foreign.ForCRIO},
		"podman-hostnet.tar.zst": {foreign.ForCRIO, foreign.ForContainerd},
	} {
		list, err := archivetest.Read(t.Context(), open(t, "testdata/"+file, foreign.Options{}))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]byte{}
		for _, f := range list {
			got[f.Name] = f.Content
		}
		for _, target := range others {
			if len(accepts(got, target)) == 0 {
				t.Errorf("%s would be accepted by %s as it is", file, target)
			}
		}
	}
}

// deletionsOf reads both dialects of a converted checkpoint.
func deletionsOf(t *testing.T, file string, target foreign.Target) (whiteouts, listed, present []string) {
	t.Helper()
	list, err := archivetest.Read(t.Context(), convert(t, reading(file), foreign.ConvertOptions{Target: target}))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		switch f.Name {
		case archive.DeletedFiles:
			if err := json.Unmarshal(f.Content, &listed); err != nil {
				t.Fatal(err)
			}
		case archive.RootfsDiff:
			plain, _, err := archive.Decompress(bytes.NewReader(f.Content))
			if err != nil {
				t.Fatal(err)
			}
			for r := tar.NewReader(plain); ; {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(h.Name, ".wh.") {
					whiteouts = append(whiteouts, h.Name)
				} else {
					present = append(present, h.Name)
				}
			}
		}
	}
	return whiteouts, listed, present
}

// Deletions are told to all engines, whichever dialect they were in.
func TestDialects(t *testing.T) {
	for _, test := range []struct {
		file              string
		whiteouts, listed []string
	}{
		{
			"testdata/crio.tar.zst",
			[]string{"data/.wh.del", "data/.wh.deldir", "data/.wh.opq"},
			[]string{"/data/del", "/data/deldir", "/data/opq", "/data/.wh.del", "/data/.wh.deldir", "/data/.wh.opq"},
		},
		{
			"testdata/containerd-cri.tar.zst",
			[]string{"data/.wh.del", "data/.wh.deldir", "data/opq/.wh.a", "data/opq/.wh.b"},
			[]string{"/data/del", "/data/.wh.del", "/data/deldir", "/data/.wh.deldir", "/data/opq/a", "/data/opq/.wh.a", "/data/opq/b", "/data/opq/.wh.b"},
		},
	} {
		whiteouts, listed, present := deletionsOf(t, test.file, foreign.ForAll)
		if !slices.Equal(whiteouts, test.whiteouts) {
			t.Errorf("%s: whiteouts %q, want %q", test.file, whiteouts, test.whiteouts)
		}
		if !slices.Equal(listed, test.listed) {
			t.Errorf("%s: listed %q, want %q", test.file, listed, test.listed)
		}
		if !slices.Contains(present, "data/opq/new") {
			t.Errorf("%s: data/opq/new is lost: %q", test.file, present)
		}
	}
}

// An archive may list very many deletions: the time that they take grows with their number only.
func TestManyDeletions(t *testing.T) {
	const deletions = 150_000
	names := make([]string, deletions)
	for i := range names {
		names[i] = "/data/" + strconv.Itoa(i)
	}
	raw, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "crio")
	unpack(t, dir, open(t, "testdata/crio.tar.zst", foreign.Options{}))
	err = errors.Join(os.WriteFile(filepath.Join(dir, archive.DeletedFiles), raw, 0o600), os.Remove(filepath.Join(dir, archive.MetadataFile)))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, listed, _ := deletionsOf(t, dir, foreign.ForAll)
	if took := time.Since(began); len(listed) < 2*deletions || took > 30*time.Second {
		t.Errorf("%d of %d deletions in %v", len(listed), 2*deletions, took)
	}
}

// In the overlay of containerd's client a directory that was deleted and made again is an opaque one, and no whiteout is in its
// place when what is in it is unpacked.
func TestOpaqueForClient(t *testing.T) {
	whiteouts, _, present := deletionsOf(t, "testdata/crio.tar.zst", foreign.ForClient)
	if want := []string{"data/.wh.del", "data/.wh.deldir", "data/opq/.wh..wh..opq"}; !slices.Equal(whiteouts, want) {
		t.Errorf("whiteouts %q, want %q", whiteouts, want)
	}
	if len(present) == 0 || present[0] != "data/opq/" || !slices.Contains(present, "data/opq/new") {
		t.Errorf("present are %q, want data/opq/ before what is in it", present)
	}
}

// The root directory and its permissions are the first of the changes, once: containers/storage applies it by that name only.
func TestRootMode(t *testing.T) {
	roots := func(open foreign.OpenFunc, mode fs.FileMode) []int64 {
		t.Helper()
		list, err := archivetest.Read(t.Context(), convert(t, open, foreign.ConvertOptions{Target: foreign.ForAll, RootMode: mode}))
		if err != nil {
			t.Fatal(err)
		}
		modes := []int64{}
		for _, f := range list {
			if f.Name != archive.RootfsDiff {
				continue
			}
			plain, _, err := archive.Decompress(bytes.NewReader(f.Content))
			if err != nil {
				t.Fatal(err)
			}
			tr := tar.NewReader(plain)
			for first := true; ; first = false {
				h, err := tr.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if h.Name == "/" {
					modes = append(modes, h.Mode)
					if !first || h.Typeflag != tar.TypeDir {
						t.Errorf("the root directory is not the first entry, or of type %q", h.Typeflag)
					}
				}
			}
		}
		return modes
	}
	for _, file := range []string{"testdata/crio.tar.zst", "testdata/containerd-cri.tar.zst"} {
		if got := roots(reading(file), 0o711); !slices.Equal(got, []int64{0o711}) {
			t.Errorf("%s: %o, want 711 once", file, got)
		}
		if got := roots(reading(file), 0); len(got) > 0 {
			t.Errorf("%s, not known: %o, want none", file, got)
		}
	}
}

// A sandbox of gVisor is for runsc alone, in the one form that all read.
func TestConvertSandbox(t *testing.T) {
	files := archivetest.Checkpoint()
	i := slices.IndexFunc(files, func(f archivetest.File) bool { return f.Name == archive.MetadataFile })
	m, err := archive.ParseMetadata(files[i].Content)
	if err != nil {
		t.Fatal(err)
	}
	m.Format = archive.FormatGVisor
	if files[i].Content, err = m.Marshal(); err != nil {
		t.Fatal(err)
	}
	own := func(context.Context) (archive.Source, error) { return archivetest.Source(files), nil }
	for target, taken := range map[foreign.Target]bool{
		foreign.ForAll: true, foreign.ForPodman: false, foreign.ForCRIO: false, foreign.ForContainerd: false,
	} {
		src, err := foreign.Convert(t.Context(), own, foreign.ConvertOptions{Target: target})
		if err == nil {
			err = src.Close()
		} else if !taken && strings.Contains(err.Error(), "gVisor") {
			continue
		}
		if err != nil || !taken {
			t.Errorf("%s: %v, want that it is taken: %v", target, err, taken)
		}
	}
}

// What nobody knows is asked for, and a flag's word goes before the checkpoint's.
func TestConvertKnown(t *testing.T) {
	own := func(context.Context) (archive.Source, error) {
		return archivetest.Source(archivetest.Checkpoint()), nil
	}
	_, err := foreign.Convert(t.Context(), own, foreign.ConvertOptions{Target: foreign.ForPodman})
	var missing *foreign.MissingError
	if !errors.As(err, &missing) || !slices.Equal(missing.What, []string{"the full name of the base image", "the ID of the base image"}) {
		t.Fatalf("got %v, want what is missing", err)
	}
	id := strings.Repeat("ab", 32)
	known := foreign.Known{Name: "two", Base: archive.Base{Image: "docker.io/library/x:1", ImageID: "sha256:" + id, Manifest: "sha256:" + strings.Repeat("cd", 32)}}
	there := known // the ID is of an image that the node has
	there.Base.Manifest = ""
	for _, test := range []struct {
		opts foreign.ConvertOptions
		ref  string
	}{
		{foreign.ConvertOptions{Target: foreign.ForPodman, Known: known}, id},
		{foreign.ConvertOptions{Target: foreign.ForAll, Known: known, ContainerdBase: true}, "docker.io/library/x@" + known.Base.Manifest},
		{foreign.ConvertOptions{Target: foreign.ForContainerd, Known: there}, "sha256:" + id},
	} {
		src := convert(t, own, test.opts)
		head, rest, err := archive.Peek(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		var config struct{ Name, RootfsImageID, RootfsImageName, RootfsImageRef string }
		if err := json.Unmarshal(head[archive.ConfigDump], &config); err != nil {
			t.Fatal(err)
		}
		if config.Name != "two" || config.RootfsImageID != id || config.RootfsImageName != "docker.io/library/x:1" || config.RootfsImageRef != test.ref {
			t.Errorf("config.dump: got %+v, want the reference %s", config, test.ref)
		}
		if rep, err := archive.Verify(t.Context(), rest, archive.CopyOptions{}); err != nil || !rep.Proven {
			t.Errorf("verify: proven %v, %v", rep.Proven, err)
		}
	}
}

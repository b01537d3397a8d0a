package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageServer is a registry with one repository, library/base, that counts what is read.
type imageServer struct {
	mu    sync.Mutex
	has   map[string][]byte // by the end of the path
	types map[string]string
	reads map[string]int
}

func (s *imageServer) put(name, mediaType string, b []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []string{name, desc.Digest.String()} {
		s.has[key], s.types[key] = b, mediaType
	}
	return desc
}

// tag gives the tag v1 to an image of one layer with one file.
func (s *imageServer) tag(t *testing.T, file string) (layer ocispec.Descriptor) {
	t.Helper()
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644}), w.Close()); err != nil {
		t.Fatal(err)
	}
	layer = s.put("layer", ocispec.MediaTypeImageLayer, content.Bytes())
	config, err := json.Marshal(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}})
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: s.put("config", ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer}}
	m.SchemaVersion = 2
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s.put("v1", m.MediaType, manifest)
	return layer
}

func (s *imageServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	b, ok := s.has[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method == http.MethodGet {
		s.reads[digest.FromBytes(b).String()]++
	}
	w.Header().Set("Content-Type", s.types[name])
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(b).String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// TestBaseIsJudgedOnce: what is unpacked is what was judged, and for several containers it is fetched once.
func TestBaseIsJudgedOnce(t *testing.T) {
	if !isRoot() {
		t.Skip("a root file system has files of root")
	}
	s := &imageServer{has: map[string][]byte{}, types: map[string]string{}, reads: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	layer := s.tag(t, "judged")
	base := strings.TrimPrefix(server.URL, "http://") + "/library/base:v1"
	m := parseRestore(t, "--plain-http", "--detach", "--count", "3", "--base", base)
	m.app.cli.Root, m.home = t.TempDir(), t.TempDir()
	if found, err := m.checkBase(t.Context()); err != nil {
		t.Fatal(found, err)
	}
	// One is unpacked and, unless they share its blocks, three are copied.
	if got := m.baseNeed(); got != layer.Size && got != 4*layer.Size {
		t.Errorf("the base needs %d bytes, want once or four times %d", got, layer.Size)
	}
	s.tag(t, "moved")
	if err := m.shareBase(t.Context(), m.app.newProgress()); err != nil {
		t.Fatal(err)
	}
	var roots []string
	for range 3 {
		one := &restore{cmd: m.cmd, app: m.app, base: m.base, rootfs: filepath.Join(t.TempDir(), "rootfs")}
		if _, err := one.checkBase(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := one.copyBase(t.Context()); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(one.rootfs)
		if err != nil || len(files) != 1 || files[0].Name() != "judged" {
			t.Errorf("the root file system has %v, want the file of the image that was judged: %v", files, err)
		}
		roots = append(roots, filepath.Join(one.rootfs, "judged"))
	}
	if len(s.reads) != 3 {
		t.Errorf("%d blobs were read, want a manifest, a config and a layer", len(s.reads))
	}
	for blob, n := range s.reads {
		if n != 1 {
			t.Errorf("%s was read %d times", blob, n)
		}
	}
	if err := os.WriteFile(roots[0], []byte("own"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(roots[1]); err != nil || len(b) > 0 {
		t.Errorf("two containers have one file: %q, %v", b, err)
	}
	if err := m.closeBase(); err != nil || m.base != nil {
		t.Errorf("close: %v", err)
	}
}

package env

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// OCIArchive writes an image of a root file system, as an OCI layout in a tar file that knows it by tag, and
// gives its ID without the algorithm. Its command waits.
func OCIArchive(tb testing.TB, rootfs, file, tag string) string {
	tb.Helper()
	layer, err := exec.CommandContext(tb.Context(), "tar", "-C", rootfs, "--numeric-owner", "--sort=name", "-cf", "-", ".").Output()
	if err != nil {
		tb.Fatalf("archive %s: %v", rootfs, err)
	}
	var out bytes.Buffer
	w := &layoutWriter{tar: tar.NewWriter(&out)}
	content := w.blob(v1.MediaTypeImageLayer, layer)
	config := w.json(v1.MediaTypeImageConfig, v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   v1.ImageConfig{Cmd: []string{"/bin/sleep", "1000000"}},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{content.Digest}},
	})
	manifest := w.json(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{content},
	})
	manifest.Annotations = map[string]string{v1.AnnotationRefName: tag}
	w.document(v1.ImageIndexFile, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{manifest}})
	w.document(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if w.err == nil {
		w.err = w.tar.Close()
	}
	if w.err == nil {
		w.err = os.WriteFile(file, out.Bytes(), 0o600)
	}
	if w.err != nil {
		tb.Fatalf("make an image of %s: %v", rootfs, w.err)
	}
	return config.Digest.Encoded()
}

// layoutWriter writes the files of a layout. It keeps its first error.
type layoutWriter struct {
	tar *tar.Writer
	err error
}

func (w *layoutWriter) file(name string, content []byte) {
	if w.err == nil {
		w.err = w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
	}
	if w.err == nil {
		_, w.err = io.Copy(w.tar, bytes.NewReader(content))
	}
}

func (w *layoutWriter) blob(mediaType string, content []byte) v1.Descriptor {
	sum := digest.FromBytes(content)
	w.file(fmt.Sprintf("%s/%s/%s", v1.ImageBlobsDir, sum.Algorithm(), sum.Encoded()), content)
	return v1.Descriptor{MediaType: mediaType, Digest: sum, Size: int64(len(content))}
}

func (w *layoutWriter) json(mediaType string, v any) v1.Descriptor {
	return w.blob(mediaType, w.marshal(v))
}

func (w *layoutWriter) document(name string, v any) { w.file(name, w.marshal(v)) }

func (w *layoutWriter) marshal(v any) []byte {
	b, err := json.Marshal(v)
	if w.err == nil {
		w.err = err
	}
	return b
}

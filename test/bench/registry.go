package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registryServer is Debian's docker-registry, with its content below dir.
type registryServer struct {
	host string
	dir  string
	cmd  *exec.Cmd
}

// startRegistry starts one and waits until it answers. The caller stops it.
func startRegistry(ctx context.Context, dir string) (*registryServer, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	r := &registryServer{host: fmt.Sprintf("127.0.0.1:%d", port), dir: filepath.Join(dir, "content")}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", r.dir, r.host)
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	r.cmd = exec.CommandContext(context.WithoutCancel(ctx), "docker-registry", "serve", file)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start docker-registry: %w", err)
	}
	err = await(ctx, "answer of the registry", func() (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.host+"/v2/", nil)
		if err != nil {
			return false, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, response.Body.Close()
	})
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

func (r *registryServer) stop() error {
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = r.cmd.Wait() // SIGTERM is how it ends
	return nil
}

// stored is how many bytes of blobs it keeps.
func (r *registryServer) stored() (n int64, err error) {
	err = filepath.WalkDir(r.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "data" || !strings.Contains(path, "/blobs/") {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// writeLayout makes an OCI layout of one file, which it takes over, as other tools push files: one layer.
func writeLayout(dir, file string) error {
	blobs := filepath.Join(dir, ocispec.ImageBlobsDir, "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return err
	}
	layer, err := describe(file)
	if err != nil {
		return err
	}
	layer.MediaType = ocispec.MediaTypeImageLayerZstd
	if err := os.Rename(file, filepath.Join(blobs, layer.Digest.Encoded())); err != nil {
		return err
	}
	put := func(mediaType string, v any) (ocispec.Descriptor, error) {
		raw, err := json.Marshal(v)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		return d, os.WriteFile(filepath.Join(blobs, d.Digest.Encoded()), raw, 0o600)
	}
	config, err := put(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		// skopeo takes it as it is: nobody unpacks it as an image.
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: layoutTag}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{manifest}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), index, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)
}

// layoutTag is the name in the layouts that are made here.
const layoutTag = "checkpoint"

func describe(file string) (ocispec.Descriptor, error) {
	f, err := os.Open(file)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	sum, err := digest.FromReader(f)
	return ocispec.Descriptor{Digest: sum, Size: info.Size()}, err
}

// layerOf finds the one layer in a layout that has one manifest.
func layerOf(dir string) (string, error) {
	read := func(path string, v any) error {
		raw, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		return err
	}
	var index ocispec.Index
	if err := read(filepath.Join(dir, ocispec.ImageIndexFile), &index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s has %d manifests, not one", dir, len(index.Manifests))
	}
	blob := func(d digest.Digest) string {
		return filepath.Join(dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
	}
	var m ocispec.Manifest
	if err := read(blob(index.Manifests[0].Digest), &m); err != nil {
		return "", err
	}
	if len(m.Layers) != 1 {
		return "", fmt.Errorf("%s has %d layers, not one", dir, len(m.Layers))
	}
	return blob(m.Layers[0].Digest), nil
}

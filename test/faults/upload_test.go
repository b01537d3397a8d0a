package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
	"github.com/ckarchive/ckarchive/test/env"
)

// fullUploads is set by `make bench`: packs have the size that they usually have.
const fullUploads = "CKARCHIVE_UPLOADS_FULL"

// How many uploads are cut by the network, and how many by the death of ckarchive.
const (
	cuts  = 20
	kills = 4
)

// noise is memory that does not compress.
func noise(n int) []byte {
	memory := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(memory) // never fails
	return memory
}

// store makes a checkpoint in the native form, with that memory, in the store root of dir.
func store(t *testing.T, dir string, memory []byte, opts artifact.NativeOptions) ocispec.Descriptor {
	t.Helper()
	ctx := t.Context()
	s, err := registry.OpenStore(ctx, filepath.Join(dir, "root"), registry.StoreOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	w, err := artifact.NewNativeWriter(ctx, s, opts)
	if err == nil {
		_, err = archive.Copy(ctx, w, archivetest.Source(archivetest.WithMemory(t, memory)), archive.CopyOptions{})
	}
	if err == nil {
		err = w.Commit(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w.Descriptor()
}

// stored makes a checkpoint alone in the store, and gives its digest and its size with all blobs.
func stored(t *testing.T, dir, name string, memory int, packBytes int64) (string, int64) {
	t.Helper()
	desc := store(t, dir, noise(memory), artifact.NativeOptions{Tag: name, PackBytes: packBytes})
	size, blobs := int64(0), filepath.Join(dir, "root", ocispec.ImageBlobsDir, "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return desc.Digest.String(), size
}

// An upload that is cut anywhere, by the network or by the death of ckarchive, is finished by doing it again,
// and little is sent twice: what a registry has whole is not sent again.
func TestUploadCut(t *testing.T) {
	memory, packBytes, atOnce := 9<<20, int64(512<<10), 8
	if os.Getenv(fullUploads) != "" {
		memory, packBytes, atOnce = 288<<20, 0, 2
	}
	dir := t.TempDir()
	digest, size := stored(t, dir, "localhost/cut:v1", memory, packBytes)
	for version, v3 := range map[string]bool{"second": false, "third": true} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(20, 20))
			server := env.Registry(t, env.RegistryOptions{V3: v3})
			// Most of the time of a cut upload is waiting for a network that does not come back.
			var group sync.WaitGroup
			slots := make(chan struct{}, atOnce)
			for i := range cuts + kills {
				u := cutUpload{server: server.Host, repository: fmt.Sprintf("%s%d:v1", version, i), place: 1 + random.Int64N(size), kill: i >= cuts, digest: digest, size: size}
				group.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					u.try(t, dir)
				})
			}
			group.Wait()
			t.Logf("%d bytes each, in packs of %d", size, packBytes)
		})
	}
}

// cutUpload is one that is cut.
type cutUpload struct {
	server, repository string
	place              int64 // bytes that go through
	kill               bool  // the process, too
	digest             string
	size               int64
}

// try cuts it, and does it again.
func (u cutUpload) try(t *testing.T, dir string) {
	own := filepath.Join(dir, u.repository) // all of them read one store
	if err := os.MkdirAll(filepath.Join(own, "tmp"), 0o700); err != nil {
		t.Error(err)
		return
	}
	push := func(host string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), env.Ckarchive(t), "push", "--quiet", "--plain-http", "localhost/cut:v1", host+"/"+u.repository)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + own, "TMPDIR=" + filepath.Join(own, "tmp"), "LC_ALL=C",
			"CKARCHIVE_ROOT=" + filepath.Join(dir, "root"), "CKARCHIVE_RUN=" + filepath.Join(own, "run"),
		}
		return cmd
	}
	var first *exec.Cmd
	started := make(chan struct{})
	cutting := env.Sever(t, u.server, u.place, func() {
		<-started
		if u.kill {
			_ = first.Process.Signal(syscall.SIGKILL) // its end is looked at below
		}
	})
	var said strings.Builder
	first = push(cutting.Host)
	first.Stderr = &said
	if err := first.Start(); err != nil {
		t.Error(err)
		return
	}
	close(started)
	err := first.Wait()
	what := fmt.Sprintf("%s after %d of %d bytes", u.repository, u.place, u.size)
	if want := 9; !u.kill && first.ProcessState.ExitCode() != want {
		t.Errorf("%s: cut, the first push ends with %v, want status %d: %s", what, err, want, &said)
	}
	if status, ok := first.ProcessState.Sys().(syscall.WaitStatus); u.kill && (!ok || status.Signal() != syscall.SIGKILL) {
		t.Errorf("%s: the first push was to be killed, it ends with %v", what, err)
	}

	counting := env.Sever(t, u.server, -1, nil)
	began := time.Now()
	again := push(counting.Host)
	out, err := again.CombinedOutput()
	if err != nil || !strings.Contains(string(out), u.digest) {
		t.Errorf("%s: again: %v: %s, want %s", what, err, out, u.digest)
	}
	if sent := cutting.Sent() + counting.Sent(); sent*10 > u.size*13 {
		t.Errorf("%s: %d bytes were sent in all, more than 1.3 times as many", what, sent)
	} else {
		t.Logf("%s: %.2f times as many were sent in all, the second time took %v", what, float64(sent)/float64(u.size), time.Since(began).Round(time.Millisecond))
	}
	c := registry.NewClient(registry.ClientOptions{PlainHTTP: true})
	repository, err := c.Repository(u.server + "/" + u.repository)
	if err != nil {
		t.Error(err)
		return
	}
	desc, err := repository.Resolve(t.Context(), "")
	if err != nil || desc.Digest.String() != u.digest {
		t.Errorf("%s: the registry has %s, %v, want %s", what, desc.Digest, err, u.digest)
	}
	if err := verify(t, repository, desc); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// verify reads all of a checkpoint.
func verify(t *testing.T, from content.Fetcher, desc ocispec.Descriptor) error {
	src, err := artifact.OpenCheckpoint(t.Context(), from, desc, artifact.OpenOptions{})
	if err != nil {
		return err
	}
	verified := archive.NewVerified(src)
	defer verified.Close()
	_, err = archive.Copy(t.Context(), archive.Discard{}, verified, archive.CopyOptions{})
	return err
}

package faults

import (
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/archive/archivetest"
	"github.com/ckarchive/ckarchive/oci/artifact"
	"github.com/ckarchive/ckarchive/registry"
	"github.com/ckarchive/ckarchive/test/env"
)

// generations puts checkpoints of one container into the store root of dir, as localhost/c:0 and so on, each a child of the
// one before with little new memory.
func generations(t *testing.T, dir string, n, memoryBytes int) []ocispec.Descriptor {
	t.Helper()
	memory, list := noise(memoryBytes), []ocispec.Descriptor{}
	opts := artifact.NativeOptions{PackBytes: 512 << 10}
	for i := range n {
		opts.Tag = "localhost/c:" + string(rune('0'+i))
		list = append(list, store(t, dir, memory, opts))
		s, err := registry.OpenStore(t.Context(), filepath.Join(dir, "root"), registry.StoreOptions{})
		must(t, err)
		opts.Parent, err = artifact.OpenNative(t.Context(), s, list[i], artifact.OpenOptions{})
		must(t, err)
		t.Cleanup(func() { must(t, opts.Parent.Close()) })
		memory[i*4096]++
	}
	return list
}

// carrying is ckarchive with the store root of dir.
func carrying(t *testing.T, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), env.Ckarchive(t), append([]string{"--quiet"}, args...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + t.TempDir(), "LC_ALL=C",
		"CKARCHIVE_ROOT=" + filepath.Join(dir, "root"), "CKARCHIVE_RUN=" + filepath.Join(dir, "run"),
	}
	return cmd
}

// carry runs it, and gives how long it took.
func carry(t *testing.T, dir string, args ...string) time.Duration {
	t.Helper()
	began := time.Now()
	if out, err := carrying(t, dir, args...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return time.Since(began)
}

// checkThere reads all of the checkpoint at ref, which has to be desc.
func checkThere(t *testing.T, ref string, desc ocispec.Descriptor) {
	t.Helper()
	repository, err := registry.NewClient(registry.ClientOptions{PlainHTTP: true}).Repository(ref)
	must(t, err)
	got, err := repository.Resolve(t.Context(), "")
	if err != nil || got.Digest != desc.Digest {
		t.Errorf("%s is %s, %v, want %s", ref, got.Digest, err, desc.Digest)
		return
	}
	if err := verify(t, repository, got); err != nil {
		t.Errorf("%s: %v", ref, err)
	}
}

// eachRegistry runs a test against both versions of distribution.
func eachRegistry(t *testing.T, test func(t *testing.T, server *env.RegistryServer)) {
	for version, v3 := range map[string]bool{"second": false, "third": true} {
		t.Run(version, func(t *testing.T) { test(t, env.Registry(t, env.RegistryOptions{V3: v3})) })
	}
}

// What the registry has is not sent, in whichever of its repositories it is: that of the parent, or another one.
func TestCarryLittle(t *testing.T) {
	eachRegistry(t, func(t *testing.T, server *env.RegistryServer) {
		dir := t.TempDir()
		list := generations(t, dir, 3, 4<<20)
		var listed []struct{ Bytes, SharedBytes int64 }
		out, err := carrying(t, dir, "--json", "list").Output()
		must(t, err)
		must(t, json.Unmarshal(out, &listed))
		for _, l := range listed {
			if own := l.Bytes - l.SharedBytes; len(listed) != 3 || own <= 0 || own > 64<<10 {
				t.Errorf("of %d bytes %d are shared, want nearly all", l.Bytes, l.SharedBytes)
			}
		}
		counting := env.Sever(t, server.Host, -1, nil)
		for i, step := range []struct {
			src, to     string
			desc        ocispec.Descriptor
			least, most int64 // bytes
			mounted     int64 // packs at least
		}{
			{"localhost/c:0", "/one/c:0", list[0], 4 << 20, 5 << 20, 0},
			{"localhost/c:1", "/one/c:1", list[1], 0, 64 << 10, 0},
			{"localhost/c:1", "/two/c:1", list[1], 0, 64 << 10, 8},
			{"localhost/c:2", "/three/c:2", list[2], 0, 64 << 10, 8},
		} {
			before := counting.Sent()
			var said struct {
				Moved struct{ Blobs, Bytes, Skipped, Mounted int64 }
			}
			out, err := carrying(t, dir, "--json", "push", "--plain-http", step.src, counting.Host+step.to).Output()
			must(t, err)
			must(t, json.Unmarshal(out, &said))
			if m := said.Moved; m.Mounted < step.mounted || m.Mounted > 0 && step.mounted == 0 || m.Bytes < step.least || m.Bytes > step.most || (m.Skipped > 0) != (i == 1) {
				t.Errorf("%s to %s: it says that it moved %+v, want %d to %d bytes and %d blobs mounted", step.src, step.to, m, step.least, step.most, step.mounted)
			}
			sent := counting.Sent() - before
			if sent < step.least || sent > step.most {
				t.Errorf("%s to %s: %d bytes were sent, want %d to %d", step.src, step.to, sent, step.least, step.most)
			}
			t.Logf("%s to %s: %d bytes", step.src, step.to, sent)
			checkThere(t, server.Host+step.to, step.desc)
		}
		// What a repository has by a mount is its own.
		for _, desc := range list[:2] {
			server.Delete(t, "one/c", desc.Digest.String())
		}
		server.CollectGarbage(t)
		checkThere(t, server.Host+"/two/c:1", list[1])
	})
}

// A registry that collects its garbage while a push is under way removes what was sent: it gets that again. The store
// does not do so to itself.
func TestGarbageCollectedMeanwhile(t *testing.T) {
	eachRegistry(t, func(t *testing.T, server *env.RegistryServer) {
		dir := t.TempDir()
		list := generations(t, dir, 2, 1<<20)
		var collected sync.Once
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: server.Host})
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/"+list[1].Digest.String()) {
				collected.Do(func() {
					before := len(server.Blobs(t))
					server.CollectGarbage(t)
					if after := len(server.Blobs(t)); after >= before {
						t.Errorf("the registry had %d blobs and has %d, want fewer", before, after)
					}
					if out, err := carrying(t, dir, "gc").CombinedOutput(); err == nil || !strings.Contains(string(out), "in use") {
						t.Errorf("gc of the store while it is pushed: %v: %s", err, out)
					}
				})
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(front.Close)
		host := strings.TrimPrefix(front.URL, "http://")
		carry(t, dir, "push", "--plain-http", "localhost/c:0", host+"/c:0")
		carry(t, dir, "push", "--plain-http", "localhost/c:1", host+"/c:1")
		collected.Do(func() { t.Error("no manifest came") })
		for i, desc := range list {
			checkThere(t, server.Host+"/c:"+string(rune('0'+i)), desc)
		}
	})
}

// archived writes an archive file with the checkpoint that the container had that many hours later, and gives its path.
func archived(t *testing.T, memory []byte, hours int) string {
	t.Helper()
	files := archivetest.WithMemory(t, memory)
	for i, f := range files {
		if f.Name == archive.MetadataFile {
			meta, err := archive.ParseMetadata(f.Content)
			must(t, err)
			meta.Created = meta.Created.Add(time.Duration(hours) * time.Hour)
			files[i].Content, err = meta.Marshal()
			must(t, err)
		}
	}
	path := filepath.Join(t.TempDir(), "c.tar.zst")
	out, err := archive.CreateFile(path, archive.FileOptions{Compression: archive.Zstd})
	must(t, err)
	_, err = archive.Copy(t.Context(), out, archivetest.Source(files), archive.CopyOptions{})
	must(t, err)
	must(t, out.Commit(t.Context()))
	return path
}

// parentAt is the digest of the parent of a checkpoint in a registry.
func parentAt(t *testing.T, ref string) string {
	t.Helper()
	repository, err := registry.NewClient(registry.ClientOptions{PlainHTTP: true}).Repository(ref)
	must(t, err)
	desc, err := repository.Resolve(t.Context(), "")
	must(t, err)
	must(t, verify(t, repository, desc))
	c, err := artifact.OpenCheckpoint(t.Context(), repository, desc, artifact.OpenOptions{})
	must(t, err)
	defer c.Close() //nolint:errcheck // read only
	return c.Annotations()[artifact.AnnotationParent]
}

// The parent of a file that is pushed is the last checkpoint that the repository has as well, also one that was pushed from
// a file; with another one more would be sent than of a whole checkpoint.
func TestParentThatTheTargetHas(t *testing.T) {
	eachRegistry(t, func(t *testing.T, server *env.RegistryServer) {
		dir := t.TempDir()
		const whole, little = 4 << 20, 64 << 10
		memory := noise(whole)
		var files []string
		for i := range 4 {
			files = append(files, archived(t, memory, i))
			memory[i*4096]++
		}
		counting := env.Sever(t, server.Host, -1, nil)
		digestOf := func(ref string) string {
			repository, err := registry.NewClient(registry.ClientOptions{PlainHTTP: true}).Repository(ref)
			must(t, err)
			desc, err := repository.Resolve(t.Context(), "")
			must(t, err)
			return desc.Digest.String()
		}
		one, other := counting.Host+"/one/c", counting.Host+"/other/c"
		carry(t, dir, "import", files[0], "c:0")
		carry(t, dir, "push", "--plain-http", "c:0", one+":0")
		carry(t, dir, "import", files[1], "c:1") // is only here
		for _, step := range []struct {
			file, to, parent string // a reference
			least, most      int64
		}{
			{files[2], one + ":2", one + ":0", 0, little},
			{files[3], one + ":3", one + ":2", 0, little},
			{files[3], other + ":3", "", 0, whole + little}, // some may be mounted
		} {
			before := counting.Sent()
			carry(t, dir, "push", "--plain-http", step.file, step.to)
			sent, want := counting.Sent()-before, ""
			if step.parent != "" {
				want = digestOf(step.parent)
			}
			if sent < step.least || sent > step.most {
				t.Errorf("%s: %d bytes were sent, want %d to %d", step.to, sent, step.least, step.most)
			}
			if got := parentAt(t, step.to); got != want {
				t.Errorf("%s: the parent is %q, want %q", step.to, got, want)
			}
		}
		// What was pushed from a file is there until the next gc, and no longer.
		carry(t, dir, "gc")
		carry(t, dir, "push", "--plain-http", files[3], one+":again")
		if got, want := parentAt(t, one+":again"), digestOf(one+":0"); got != want {
			t.Errorf("after gc the parent is %q, want %q", got, want)
		}
	})
}

// A pull that was killed anywhere goes on in the middle of the blob when it is done again.
func TestPullKilled(t *testing.T) {
	const size = 16 << 20 // one pack
	eachRegistry(t, func(t *testing.T, server *env.RegistryServer) {
		t.Parallel()
		dir := t.TempDir()
		desc := store(t, dir, noise(size), artifact.NativeOptions{Tag: "localhost/c:0"})
		carry(t, dir, "push", "--plain-http", "localhost/c:0", server.Host+"/c:0")
		random := rand.New(rand.NewPCG(21, 21))
		var group sync.WaitGroup
		var all atomic.Int64 // bytes that were kept
		for range 3 {
			place := size/2 + random.Int64N(size/4)
			group.Go(func() {
				dir := t.TempDir()
				var first *exec.Cmd
				started := make(chan struct{})
				cutting := env.Sever(t, server.Host, place, func() {
					<-started
					_ = first.Process.Signal(syscall.SIGKILL) // its end is looked at below
				})
				first = carrying(t, dir, "pull", "--plain-http", cutting.Host+"/c:0")
				err := first.Start()
				close(started)
				if err == nil {
					err = first.Wait()
				}
				if err == nil {
					t.Errorf("killed after %d bytes, the pull succeeds", place)
				}
				// What was in the buffers of the network is lost, and on a busy machine that is much.
				var kept int64
				must(t, filepath.WalkDir(filepath.Join(dir, "root"), func(_ string, e fs.DirEntry, err error) error {
					if err != nil || !e.Type().IsRegular() {
						return err
					}
					info, err := e.Info()
					kept += info.Size()
					return err
				}))
				counting := env.Sever(t, server.Host, 1<<40, nil)
				out, err := carrying(t, dir, "pull", "--plain-http", counting.Host+"/c:0").CombinedOutput()
				if err != nil || !strings.Contains(string(out), desc.Digest.String()) {
					t.Errorf("killed after %d bytes, again: %v: %s", place, err, out)
				}
				all.Add(kept)
				if again := 1<<40 - counting.Left(); again > size-kept+64<<10 {
					t.Errorf("killed after %d bytes, %d were kept, and %d came the second time, of %d", place, kept, again, size)
				}
				s, err := registry.OpenStore(t.Context(), filepath.Join(dir, "root"), registry.StoreOptions{})
				if err == nil {
					err = verify(t, s, desc)
				}
				if err != nil {
					t.Errorf("killed after %d bytes: %v", place, err)
				}
			})
		}
		group.Wait()
		if all.Load() < 1<<20 {
			t.Errorf("no more than %d bytes were kept in all", all.Load())
		}
	})
}

// --limit-rate holds in both directions.
func TestLimitRate(t *testing.T) {
	server := env.Registry(t, env.RegistryOptions{})
	dir := t.TempDir()
	list := generations(t, dir, 1, 1<<20)
	to := server.Host + "/c:0"
	least := 900 * time.Millisecond // for a mebibyte, of which a little goes at once
	if took := carry(t, dir, "push", "--plain-http", "--limit-rate", "1M", "localhost/c:0", to); took < least {
		t.Errorf("the push took %v, want at least %v", took, least)
	}
	checkThere(t, to, list[0])
	if took := carry(t, t.TempDir(), "pull", "--plain-http", "--limit-rate", "1M", to); took < least {
		t.Errorf("the pull took %v, want at least %v", took, least)
	}
	if took := carry(t, t.TempDir(), "pull", "--plain-http", to, filepath.Join(t.TempDir(), "c.tar")); took > least {
		t.Logf("without a limit it takes %v: the machine is slow", took)
	}
}

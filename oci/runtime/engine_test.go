package runtime

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/ckarchive/ckarchive/archive"
)

var (
	imageID  = strings.Repeat("1", 64)
	manifest = "sha256:" + strings.Repeat("2", 64)
	diffID   = "sha256:" + strings.Repeat("3", 64)
)

// checkEngine compares what was found of a container with the fields of want.
func checkEngine(t *testing.T, c *Container, want Container) {
	t.Helper()
	if c.Engine != want.Engine || c.Name != want.Name || c.Pod != want.Pod || c.Namespace != want.Namespace {
		t.Errorf("engine %q, name %q, pod %q, namespace %q; want %q, %q, %q, %q",
			c.Engine, c.Name, c.Pod, c.Namespace, want.Engine, want.Name, want.Pod, want.Namespace)
	}
	got, image := describeImage(c.Image), describeImage(want.Image)
	if got != image {
		t.Errorf("image %s, want %s", got, image)
	}
	if err := c.Dumpable(); err != nil {
		t.Error(err)
	}
}

func describeImage(b *archive.Base) string {
	if b == nil {
		return "unknown"
	}
	return strings.Join([]string{b.Image, b.ImageID, b.Manifest, strings.Join(b.DiffIDs, ",")}, " ")
}

// find looks for every name and wants the same container.
func (h fakeHost) find(names ...string) *Container {
	h.t.Helper()
	var found *Container
	for _, name := range names {
		c, err := Find(h.t.Context(), name, h.options())
		if err != nil {
			h.t.Fatalf("%s: %v", name, err)
		}
		if found != nil && found.ID != c.ID {
			h.t.Fatalf("%s: found %s, and %s by another name", name, c.ID, found.ID)
		}
		found = c
	}
	return found
}

// storage writes a containers/storage directory with one image and the containers.
func (h fakeHost) storage(graph, file string, containers ...object) {
	h.write(graph+"/overlay-containers/"+file, containers)
	h.write(graph+"/overlay-images/images.json", []object{
		{"id": strings.Repeat("9", 64), "digest": "sha256:other"},
		{"id": imageID, "digest": manifest, "names": []string{"host.test/base:1"}},
	})
	name := "=" + base64.StdEncoding.EncodeToString([]byte("sha256:"+imageID))
	h.write(graph+"/overlay-images/"+imageID+"/"+name, object{"rootfs": object{"diff_ids": []string{diffID}}})
}

func TestPodman(t *testing.T) {
	const graph = "/var/lib/containers/storage"
	want := Container{Engine: Podman, Name: "web", Image: &archive.Base{
		Image: "host.test/base:1", ImageID: "sha256:" + imageID, Manifest: manifest, DiffIDs: []string{diffID},
	}}
	id := longID("0559")
	userdata := "/overlay-containers/" + id + "/userdata"
	metadata := func(image string) string { return `{"image-name":"` + image + `","name":"web"}` }
	stored := object{"id": id, "names": []string{"web"}, "image": imageID, "metadata": metadata("host.test/base:1")}
	for _, tt := range []struct {
		name, runtime, graph, file string
		stored                     object
		mounts                     []string
		image                      *archive.Base
	}{
		{name: "root", runtime: "crun", graph: graph, file: "containers.json", stored: stored, image: want.Image},
		{name: "with runc", runtime: "runc", graph: graph, file: "containers.json", stored: stored, image: want.Image},
		{name: "another graph root", runtime: "crun", graph: "/data[1]/pods", file: "containers.json", stored: stored, image: want.Image},
		{name: "podman run --rm", runtime: "crun", graph: graph, file: "volatile-containers.json", stored: stored, image: want.Image},
		{
			name: "by the image's ID", runtime: "crun", graph: graph, file: "containers.json", image: want.Image,
			stored: object{"id": id, "names": []string{"web"}, "image": imageID, "metadata": metadata(imageID[:12])},
		},
		{
			name: "--rootfs", runtime: "crun", graph: graph, file: "containers.json",
			stored: object{"id": id, "names": []string{"web"}, "image": "", "metadata": metadata("")},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newFakeHost(t)
			h.add(made{runtime: tt.runtime, root: "/run/" + tt.runtime, id: id, bundle: tt.graph + userdata, annotations: object{managerKey: "libpod"}})
			h.storage(tt.graph, tt.file, object{"id": longID("f"), "names": []string{"db"}}, tt.stored)
			want := want
			want.Image = tt.image
			checkEngine(t, h.find(id, "web", "055"), want)
		})
	}
}

func TestStoredImage(t *testing.T) {
	h := newFakeHost(t)
	h.storage("/var/lib/containers/storage", "containers.json")
	const name = "host.test/base:1"
	for _, tt := range []struct {
		what      string
		base      archive.Base
		id, other string
	}{
		{"its ID", archive.Base{ImageID: "sha256:" + imageID}, imageID, ""},
		{"its ID without the algorithm", archive.Base{ImageID: imageID}, imageID, ""},
		{"its manifest", archive.Base{Manifest: manifest}, imageID, ""},
		{"its layers under another ID", archive.Base{ImageID: "sha256:" + longID("1"), DiffIDs: []string{diffID}}, imageID, ""},
		{"other layers under its ID and name", archive.Base{Image: name, ImageID: "sha256:" + imageID, DiffIDs: []string{"sha256:x"}}, "", imageID},
		{"another image of that name", archive.Base{Image: name, ImageID: "sha256:" + longID("1")}, "", imageID},
		{"an image that is not there", archive.Base{Image: "host.test/none:1", ImageID: "sha256:" + longID("1")}, "", ""},
		{"no image", archive.Base{}, "", ""},
	} {
		if id, other := StoredImage(h.options().Host, tt.base); id != tt.id || other != tt.other {
			t.Errorf("%s: %q, %q, want %q, %q", tt.what, id, other, tt.id, tt.other)
		}
	}
}

// TestPodmanTransient has the list of containers in the run root, which only a mount tells.
func TestPodmanTransient(t *testing.T) {
	h := newFakeHost(t)
	id := longID("0559")
	userdata := "/overlay-containers/" + id + "/userdata"
	h.add(made{
		runtime: "crun", root: "/run/crun", id: id, bundle: "/graph" + userdata,
		mounts: []string{"/runroot" + userdata + "/.containerenv"},
	})
	h.write("/runroot/overlay-containers/volatile-containers.json", []object{{"id": id, "names": []string{"web"}}})
	checkEngine(t, h.find("web"), Container{Engine: Podman, Name: "web"})
}

func TestDocker(t *testing.T) {
	id := longID("d0c")
	type file = object
	classic := &archive.Base{Image: "docker.io/library/nginx:latest", ImageID: "sha256:" + imageID, DiffIDs: []string{diffID}}
	for _, tt := range []struct {
		name, root, task, data string
		config                 file
		image                  *archive.Base
	}{
		{
			name: "usual", root: "/run/docker/runtime-runc/moby", task: "/run/containerd", data: "/var/lib/docker",
			config: file{"Driver": "overlay2", "Config": file{"Image": "nginx"}}, image: classic,
		},
		{
			name: "data elsewhere, containerd of its own", root: "/run/docker/runtime-crun/moby",
			task: "/run/docker/containerd/daemon", data: "/data/docker",
			config: file{"Driver": "overlay2", "Config": file{"Image": "nginx"}}, image: classic,
		},
		{
			name: "image in containerd's store", root: "/run/docker/runtime-runc/moby", task: "/run/containerd", data: "/var/lib/docker",
			config: file{"Driver": "overlayfs", "Config": file{"Image": "host.test:5000/a/b"}, "ImageManifest": file{"digest": manifest}},
			image:  &archive.Base{Image: "host.test:5000/a/b:latest", Manifest: manifest},
		},
		{
			name: "by the image's ID", root: "/run/docker/runtime-runc/moby", task: "/run/containerd", data: "/var/lib/docker",
			config: file{"Driver": "../..", "Config": file{"Image": imageID[:12]}},
			image:  &archive.Base{ImageID: "sha256:" + imageID},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newFakeHost(t)
			dir := tt.data + "/containers/" + id
			h.add(made{
				runtime: "runc", root: tt.root, id: id, bundle: tt.task + "/io.containerd.runtime.v2.task/moby/" + id,
				mounts: []string{dir + "/hosts", dir + "/resolv.conf"},
			})
			tt.config["ID"], tt.config["Name"], tt.config["Image"] = id, "/web", "sha256:"+imageID
			h.write(dir+"/config.v2.json", tt.config)
			h.write(tt.data+"/image/overlay2/imagedb/content/sha256/"+imageID, object{"rootfs": object{"diff_ids": []string{diffID}}})
			checkEngine(t, h.find(id, "web", "d0c"), Container{Engine: Docker, Name: "web", Namespace: "moby", Image: tt.image})
		})
	}
}

func TestDockerName(t *testing.T) {
	for name, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1": "docker.io/library/nginx:1", "a/b": "docker.io/a/b:latest",
		"localhost/a": "localhost/a:latest", "h:5000/a": "h:5000/a:latest", "h.test/a@" + manifest: "h.test/a@" + manifest,
	} {
		if got := dockerName(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestContainerd(t *testing.T) {
	for _, tt := range []struct {
		name, root, namespace string
		annotations           object
		finds                 []string
		want                  Container
	}{
		{
			name: "ctr", root: "/run/containerd/runc/default", namespace: "default", finds: []string{"task1"},
			want: Container{},
		},
		{
			name: "nerdctl", root: "/run/containerd/runc/default", namespace: "default", finds: []string{"task1", "web"},
			annotations: object{nerdctlName: "web"}, want: Container{Name: "web"},
		},
		{
			name: "kubernetes", root: "/run/containerd/runc/k8s.io", namespace: "k8s.io",
			finds: []string{"task1", "k1", "p1/k1", "default/p1/k1"},
			annotations: object{
				criContainerName: "k1", criImageName: "host.test/base:1", criPod: "p1", criPodNamespace: "default",
			},
			want: Container{Name: "k1", Pod: "default/p1", Image: &archive.Base{Image: "host.test/base:1"}},
		},
		{
			name: "sandbox", root: "/run/containerd/runc/k8s.io", namespace: "k8s.io", finds: []string{"task1"},
			annotations: object{criPod: "p1", criPodNamespace: "default"}, want: Container{Pod: "default/p1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newFakeHost(t)
			h.add(made{
				runtime: "runc", root: tt.root, id: "task1", annotations: tt.annotations,
				bundle: "/run/containerd/io.containerd.runtime.v2.task/" + tt.namespace + "/task1",
			})
			tt.want.Engine, tt.want.Namespace = Containerd, tt.namespace
			checkEngine(t, h.find(tt.finds...), tt.want)
		})
	}
}

// TestPods wants containers that Kubernetes calls the same to be told by their pods.
func TestPods(t *testing.T) {
	h := newFakeHost(t)
	for id, pod := range map[string]string{longID("a"): "p1", longID("b"): "p2"} {
		h.add(made{
			runtime: "runc", root: "/run/containerd/runc/k8s.io", id: id,
			bundle:      "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id,
			annotations: object{criContainerName: "web", criPod: pod, criPodNamespace: "default"},
		})
	}
	_, err := Find(t.Context(), "web", h.options())
	if !errors.As(err, new(*AmbiguousError)) || !strings.Contains(err.Error(), `pod "default/p2"`) {
		t.Errorf("got %v, want an AmbiguousError with the pods", err)
	}
	if c := h.find("p2/web", "default/p2/web"); c.ID != longID("b") {
		t.Errorf("found %s", c.ID)
	}
}

func TestCRIO(t *testing.T) {
	h := newFakeHost(t)
	id, sandbox := longID("d5ca"), longID("0f9b")
	h.storage("/var/lib/containers/storage", "containers.json")
	const runs = "/run/containers/storage/overlay-containers/"
	h.add(made{
		runtime: "crun", root: "/run/crun", id: id, bundle: runs + id + "/userdata",
		rootfs: "/var/lib/containers/storage/overlay/ee3d/merged",
		annotations: object{
			managerKey: "cri-o", crioContainer: "k1", crioType: "container", crioImageName: "host.test/base:1", crioImageRef: imageID,
			crioDigests: "host.test/base@" + manifest, crioName: "k8s_k1_q1_default_uid_0", crioPod: "k8s_q1_default_uid_0",
		},
	})
	h.add(made{
		runtime: "crun", root: "/run/crun", id: sandbox, bundle: runs + sandbox + "/userdata",
		annotations: object{
			managerKey: "cri-o", crioContainer: "POD", crioType: "sandbox", crioPod: "k8s_q1_default_uid_0", crioName: "k8s_q1_default_uid_0",
		},
	})
	checkEngine(t, h.find(id, "k1", "q1/k1", "default/q1/k1", "k8s_k1_q1_default_uid_0", "d5c"), Container{
		Engine: CRIO, Name: "k1", Pod: "default/q1", Image: &archive.Base{
			Image: "host.test/base:1", ImageID: "sha256:" + imageID, Manifest: manifest, DiffIDs: []string{diffID},
		},
	})
	checkEngine(t, h.find(sandbox, "k8s_q1_default_uid_0"), Container{Engine: CRIO, Pod: "default/q1"})
}

func TestOneDigest(t *testing.T) {
	for list, want := range map[string]string{
		"": "", "a": "", "a@sha256:1": "sha256:1", "a@sha256:1,b@sha256:1": "sha256:1",
		`["a@sha256:1"]`: "sha256:1", "a@sha256:1 a@sha256:2": "", "a@sha256:1 b": "",
	} {
		if got := oneDigest(list); got != want {
			t.Errorf("%q: got %q, want %q", list, got, want)
		}
	}
}

// TestRestoredElsewhere wants the place of the bundle to count, and not the
// annotations that an archive of Podman's brought to runc.
func TestRestoredElsewhere(t *testing.T) {
	h := newFakeHost(t)
	h.add(made{runtime: "runc", root: "/run/runc", id: "again", annotations: object{
		managerKey: "libpod", criContainerName: "k1", crioContainer: "k1", nerdctlName: "k1",
	}})
	checkEngine(t, h.find("again"), Container{})
	if _, err := Find(t.Context(), "k1", h.options()); !errors.Is(err, ErrNotFound) {
		t.Errorf("by the first generation's name: %v, want ErrNotFound", err)
	}
}

// TestIdle wants to hear of containers that engines have and that do not run.
func TestIdle(t *testing.T) {
	h := newFakeHost(t)
	id := longID("5109")
	h.write("/var/lib/containers/storage/overlay-containers/containers.json", []object{{"id": id, "names": []string{"asleep"}}})
	h.write("/var/lib/docker/containers/"+id+"/config.v2.json", object{"ID": id, "Name": "/resting"})
	for name, engine := range map[string]string{"asleep": Podman, id: Podman, "resting": Docker} {
		if _, err := Find(t.Context(), name, h.options()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), engine) {
			t.Errorf("%s: %v, want ErrNotRunning of %s", name, err, engine)
		}
	}
	opts := h.options()
	opts.Root = h.path("/run/crun")
	if _, err := Find(t.Context(), "asleep", opts); !errors.Is(err, ErrNotFound) {
		t.Errorf("with a state directory: %v, want ErrNotFound", err)
	}
}

func TestAfterStop(t *testing.T) {
	runc := Runtime{Name: "runc", Path: "/usr/sbin/runc", Root: "/run/my runc"}
	for _, tt := range []struct {
		name string
		c    Container
		want []string
	}{
		{"runc", Container{ID: "c1", Runtime: runc}, []string{"runc --root '/run/my runc' delete c1"}},
		{
			"another binary",
			Container{ID: "c1", Runtime: Runtime{Name: "runc", Path: "/opt/runc-1.5", Root: "/r"}},
			[]string{"/opt/runc-1.5 --root /r delete c1"},
		},
		{
			"a user's",
			Container{ID: "c1", User: 7, Runtime: Runtime{Name: "crun", Root: "/run/user/7/crun"}},
			[]string{"sudo -u '#7' XDG_RUNTIME_DIR=/run/user/7 crun --root /run/user/7/crun delete c1"},
		},
		{
			"podman",
			Container{ID: "c1", Engine: Podman, Bundle: "/var/lib/containers/storage/overlay-containers/c1/userdata"},
			[]string{"podman ps -a shows it as Exited (137)", "restart policy", ": podman rm c1"},
		},
		{
			"podman elsewhere",
			Container{ID: "c1", Engine: Podman, Bundle: "/it's/overlay-containers/c1/userdata"},
			[]string{`podman --root '/it'\''s' ps -a`, `podman --root '/it'\''s' rm c1`},
		},
		{"docker", Container{ID: "c1", Engine: Docker}, []string{"docker update --restart=no c1", ": docker rm c1"}},
		{
			"containerd",
			Container{ID: "c1", Engine: Containerd, Namespace: "default"},
			[]string{"ctr -n default tasks delete c1 && ctr -n default containers delete c1"},
		},
		{
			"kubernetes",
			Container{ID: "c1", Engine: Containerd, Namespace: "k8s.io", Pod: "ns/p1"},
			[]string{"restartPolicy", "kubectl -n ns delete pod p1", "crictl rm c1"},
		},
		{"cri-o", Container{ID: "c1", Engine: CRIO}, []string{"kubelet", "crictl rm c1"}},
	} {
		got := tt.c.AfterStop()
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q lacks %q", tt.name, got, want)
			}
		}
	}
	if got := (&Container{ID: "c1", Runtime: Runtime{Name: Direct}}).AfterStop(); got != "" {
		t.Errorf("direct: %q, want nothing", got)
	}
}

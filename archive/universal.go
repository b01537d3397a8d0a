package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Universal gives the metadata members by which Podman, CRI-O, containerd and
// checkpointctl know a checkpoint: config.dump, spec.dump, status.dump and bind.mounts. spec
// is the container's config.json, whose unknown fields are kept. The members depend on
// nothing but the arguments.
func Universal(m *Metadata, spec []byte) (map[string][]byte, error) {
	var parsed specs.Spec
	if err := json.Unmarshal(spec, &parsed); err != nil {
		return nil, fmt.Errorf("read the container's spec: %w", err)
	}
	specDump, err := annotate(spec, m)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{SpecDump: specDump}
	for name, v := range map[string]any{
		ConfigDump: newConfigDump(m, &parsed),
		StatusDump: newStatusDump(m),
		BindMounts: bindMounts(&parsed, m.Externals),
	} {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		files[name] = append(b, '\n')
	}
	return files, nil
}

// configDump is config.dump: checkpointctl's fields and those without which
// Podman does not import (libpod's ContainerConfig).
type configDump struct {
	metadata.ContainerConfig
	RawImageName  string                   `json:"RawImageName,omitempty"`
	RootfsImageID string                   `json:"rootfsImageID,omitempty"`
	NetworkMode   string                   `json:"networkMode,omitempty"`
	CreateNetNS   bool                     `json:"createNetNS"`
	NewNetworks   map[string]podmanNetwork `json:"newNetworks,omitempty"`
	Networks      []podmanOrderedNetwork   `json:"orderedNetworks,omitempty"`
	CgroupsMode   string                   `json:"cgroupsMode"`
	LogDriver     string                   `json:"logDriver"`
	StopSignal    int                      `json:"stopSignal"`
	StopTimeout   int                      `json:"stopTimeout"`
	ShmSize       int64                    `json:"shmSize"`
	LabelOpts     []string                 `json:"labelopts,omitempty"`
	Command       []string                 `json:"command,omitempty"`
	NamedVolumes  []podmanVolume           `json:"namedVolumes,omitempty"`
}

type podmanVolume struct {
	Name string `json:"volumeName"`
	Dest string `json:"dest"`
}

type podmanNetwork struct {
	InterfaceName string `json:"interface_name"`
}

type podmanOrderedNetwork struct {
	Name string `json:"name"`
	podmanNetwork
}

// What Podman gives a container that says nothing else.
const (
	podmanShmBytes    = 65536000
	podmanStopSeconds = 10
	sigTERM           = 15
)

func newConfigDump(m *Metadata, spec *specs.Spec) configDump {
	c := configDump{
		ContainerConfig: metadata.ContainerConfig{
			ID:             engineID(m),
			Name:           displayName(m),
			OCIRuntime:     engineRuntime(m.Container.Runtime.Name),
			CreatedTime:    m.Container.Created.UTC(),
			CheckpointedAt: m.Created.UTC(),
		},
		CgroupsMode: "enabled",
		LogDriver:   "k8s-file",
		StopSignal:  sigTERM,
		StopTimeout: podmanStopSeconds,
		ShmSize:     podmanShmBytes,
	}
	if m.Base != nil && m.Base.Image != "" {
		id := strings.TrimPrefix(m.Base.ImageID, "sha256:")
		c.RootfsImage, c.RootfsImageName, c.RawImageName = m.Base.Image, m.Base.Image, m.Base.Image
		c.RootfsImageRef, c.RootfsImageID = id, id
	}
	if spec.Process != nil {
		c.Command = spec.Process.Args
		if spec.Process.SelinuxLabel == "" {
			c.LabelOpts = []string{"disable"}
		}
	}
	for _, v := range m.Volumes {
		c.NamedVolumes = append(c.NamedVolumes, podmanVolume{v.Name, v.Path})
	}
	path, own := networkNamespace(spec)
	c.CreateNetNS = own
	switch {
	case !own:
		c.NetworkMode = "host"
	case path == "":
		// It is in the images, and nobody put more than lo into it.
		c.NetworkMode = "none"
	default:
		network := podmanNetwork{InterfaceName: "eth0"}
		c.NetworkMode = "bridge"
		c.NewNetworks = map[string]podmanNetwork{"podman": network}
		c.Networks = []podmanOrderedNetwork{{Name: "podman", podmanNetwork: network}}
	}
	return c
}

// engineRuntime is a name that the engines know.
func engineRuntime(name string) string {
	if name == "" || name == "direct" {
		return "runc"
	}
	return name
}

// displayName is the name that people know the container by.
func displayName(m *Metadata) string {
	if m.Container.Name != "" {
		return m.Container.Name
	}
	return m.Container.ID
}

// engineID is the container's ID where it has the form that the engines demand, 64 hex
// digits, else one made from it and from when the container was made: checkpointctl compares only
// checkpoints of the same ID.
func engineID(m *Metadata) string {
	if isSHA256(m.Container.ID) {
		return m.Container.ID
	}
	sum := sha256.Sum256([]byte(m.Container.ID + "\x00" + m.Container.Created.UTC().Format(time.RFC3339Nano)))
	return hex.EncodeToString(sum[:])
}

// networkNamespace gives the path of the container's network namespace, which is empty for one that its
// runtime made, and whether it has one.
func networkNamespace(spec *specs.Spec) (path string, own bool) {
	if spec.Linux == nil {
		return "", false
	}
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if i < 0 {
		return "", false
	}
	return spec.Linux.Namespaces[i].Path, true
}

// statusDump is status.dump: the CRI's ContainerStatus as far as containerd needs it.
type statusDump struct {
	ID        string            `json:"id"`
	Metadata  map[string]string `json:"metadata"`
	State     int               `json:"state"`      // 1: running
	CreatedAt int64             `json:"created_at"` // nanoseconds since 1970
	StartedAt int64             `json:"started_at"`
	Image     map[string]string `json:"image"`
	ImageRef  string            `json:"image_ref"`
	Labels    map[string]string `json:"labels"`
	Notes     map[string]string `json:"annotations"`
}

func newStatusDump(m *Metadata) statusDump {
	name := displayName(m)
	s := statusDump{
		ID:        engineID(m),
		Metadata:  map[string]string{"name": name},
		State:     1,
		CreatedAt: unixNano(m.Container.Created),
		StartedAt: unixNano(m.Container.Created),
		Image:     map[string]string{},
		Labels:    map[string]string{"io.kubernetes.container.name": name},
		Notes:     map[string]string{},
	}
	if m.Base != nil && m.Base.Image != "" {
		s.Image = map[string]string{"image": m.Base.Image, "user_specified_image": m.Base.Image}
		s.ImageRef = strings.TrimPrefix(m.Base.ImageID, "sha256:")
	}
	return s
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// The annotations of spec.dump by which consumers recognise and accept it.
const (
	annotationManager   = "io.container.manager"
	annotationCRIO      = "io.kubernetes.cri-o.Annotations"
	annotationContainer = "io.kubernetes.cri.container-name"
)

// annotate adds to the spec what the consumers insist on, where it is missing.
func annotate(spec []byte, m *Metadata) ([]byte, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(spec, &raw); err != nil {
		return nil, fmt.Errorf("read the container's spec: %w", err)
	}
	if raw == nil {
		return nil, errors.New("read the container's spec: it is null")
	}
	notes := map[string]string{}
	if b, ok := raw["annotations"]; ok {
		if err := json.Unmarshal(b, &notes); err != nil {
			return nil, fmt.Errorf("read the annotations of the container's spec: %w", err)
		}
	}
	if notes == nil {
		notes = map[string]string{}
	}
	for key, value := range map[string]string{
		annotationManager:   "libpod", // checkpointctl shows the name from config.dump for it
		annotationCRIO:      "{}",
		annotationContainer: displayName(m),
	} {
		if _, ok := notes[key]; !ok {
			notes[key] = value
		}
	}
	b, err := json.Marshal(notes)
	if err != nil {
		return nil, err
	}
	raw["annotations"] = b
	out, err := json.MarshalIndent(raw, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(out, '\n'), nil
}

// bindMount is one element of CRI-O's bind.mounts.
type bindMount struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	FileType    string `json:"file_type"`
	Permissions uint32 `json:"permissions"`
}

// IsBind tells whether a mount brings a host path into the container: its options decide,
// not its type.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func bindMounts(spec *specs.Spec, externals []External) []bindMount {
	directory := map[string]bool{}
	for _, e := range externals {
		if e.Kind == "mount" && e.Directory {
			directory[e.Path] = true
		}
	}
	list := []bindMount{}
	for _, m := range spec.Mounts {
		if !IsBind(m) {
			continue
		}
		b := bindMount{Source: m.Source, Destination: m.Destination, FileType: "file", Permissions: 0o644}
		if directory[m.Destination] {
			b.FileType, b.Permissions = "directory", 0o755
		}
		list = append(list, b)
	}
	return list
}

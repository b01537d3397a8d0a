package foreign

import (
	"bufio"
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ckarchive/ckarchive/archive"
)

// The names of the engines in [archive.Container].
const (
	Podman     = "podman"
	CRIO       = "cri-o"
	Containerd = "containerd"
)

// The annotations by which a runtime spec names its engine.
const (
	specManager   = "io.container.manager"
	specCRIOPod   = "io.kubernetes.cri-o.SandboxID"
	specCRIPrefix = "io.kubernetes.cri."
)

// configDump is what is read of config.dump: checkpointctl's fields, and Podman's.
type configDump struct {
	metadata.ContainerConfig
	RootfsImageID string `json:"rootfsImageID"`
}

// Facts gives what the metadata members of another engine's checkpoint say. What they do not say
// stays empty.
func Facts(members map[string][]byte) (*archive.Metadata, error) {
	m := &archive.Metadata{FormatVersion: archive.FormatVersion, Format: archive.FormatCRIU, Members: []archive.Member{}}
	config, spec := configDump{}, specs.Spec{}
	if raw, ok := members[archive.ConfigDump]; ok {
		if err := archive.DecodeJSON(archive.ConfigDump, raw, &config); err != nil {
			return nil, err
		}
	}
	if raw, ok := members[archive.SpecDump]; ok {
		if err := archive.DecodeJSON(archive.SpecDump, raw, &spec); err != nil {
			return nil, err
		}
	}
	m.Container = archive.Container{
		ID: config.ID, Name: config.Name, Created: config.CreatedTime.UTC(),
		Engine:  engine(&spec, &config),
		Runtime: archive.Runtime{Name: runtimeName(config.OCIRuntime)},
	}
	m.Created = config.CheckpointedAt.UTC()
	m.Base = base(&config)
	m.Tool = m.Container.Engine
	fromLog(m, members[archive.DumpLog])
	fromImages(m, members)
	return m, nil
}

// Known is what is known of a checkpoint from elsewhere: by an operator, or from around it. What is
// set goes before what the checkpoint says.
type Known struct {
	ID, Name string // of the container
	Engine   string // who managed it
	Runtime  string
	Base     archive.Base // its image; field by field
	// Annotations are those of the image that it is in. They fill what nobody else says.
	Annotations map[string]string
	// Spec is the OCI runtime configuration, for checkpoints without one.
	Spec []byte
}

// Told is the optional ability of an [archive.Source] to say what is known of its checkpoint beside
// its members.
type Told interface{ Known() Known }

func (k *Known) fill(m *archive.Metadata) {
	b := archive.Base{}
	if m.Base != nil {
		b = *m.Base
	}
	for _, f := range []struct {
		field *string
		value string
	}{
		{&m.Container.ID, k.ID},
		{&m.Container.Name, k.Name},
		{&m.Container.Engine, k.Engine},
		{&m.Container.Runtime.Name, runtimeName(k.Runtime)},
		{&b.Image, k.Base.Image},
		{&b.ImageID, strings.TrimPrefix(k.Base.ImageID, sha256Prefix)},
		{&b.Manifest, k.Base.Manifest},
	} {
		if f.value != "" {
			*f.field = f.value
		}
	}
	if b.Image != "" || b.ImageID != "" || b.Manifest != "" {
		m.Base = &b
	}
	if m.Tool == "" {
		m.Tool = m.Container.Engine
	}
	fromAnnotations(m, k.Annotations)
}

// minimalConfig is a config.dump with what is known and no more.
func minimalConfig(m *archive.Metadata) ([]byte, error) {
	c := metadata.ContainerConfig{
		ID: m.Container.ID, Name: m.Container.Name, OCIRuntime: m.Container.Runtime.Name,
		CreatedTime: m.Container.Created, CheckpointedAt: m.Created,
	}
	if m.Base != nil {
		c.RootfsImage, c.RootfsImageName, c.RootfsImageRef = m.Base.Image, m.Base.Image, m.Base.ImageID
	}
	raw, err := json.MarshalIndent(c, "", "  ")
	return append(raw, '\n'), err
}

// engine tells by what only one of them writes who made the checkpoint.
func engine(spec *specs.Spec, config *configDump) string {
	switch manager := spec.Annotations[specManager]; {
	case manager == "libpod":
		return Podman
	case manager == CRIO || spec.Annotations[specCRIOPod] != "":
		return CRIO
	case strings.HasPrefix(config.OCIRuntime, containerdRuntime):
		return Containerd
	}
	for key := range spec.Annotations {
		if strings.HasPrefix(key, specCRIPrefix) {
			return Containerd
		}
	}
	return ""
}

// containerdRuntime begins the names that containerd has for runtimes, as io.containerd.runc.v2.
const containerdRuntime = "io.containerd."

// runtimeName is a runtime's own name.
func runtimeName(name string) string {
	if rest, ok := strings.CutPrefix(name, containerdRuntime); ok {
		name, _, _ = strings.Cut(rest, ".")
	}
	return name
}

// base is the image that the root file system's changes are relative to.
func base(c *configDump) *archive.Base {
	b := &archive.Base{Image: c.RootfsImageName, ImageID: c.RootfsImageID}
	ref := c.RootfsImageRef
	switch name, manifest, found := strings.Cut(ref, "@"); {
	case found: // containerd: the image's name with the digest of its manifest
		b.Manifest = manifest
		if b.Image == "" {
			b.Image = name
		}
	case b.ImageID == "" && isImageID(ref): // containerd and, without the algorithm, CRI-O
		b.ImageID = ref
	}
	b.ImageID = strings.TrimPrefix(b.ImageID, sha256Prefix)
	if b.Image == "" {
		b.Image = c.RootfsImage
	}
	if b.Image == "" && b.ImageID == "" && b.Manifest == "" {
		return nil
	}
	return b
}

const sha256Prefix = "sha256:"

var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{64}$`)

func isImageID(s string) bool { return imageID.MatchString(s) }

// What CRIU's log says of itself and its host:
//
//	(00.000019) Version: 4.2.1 (gitid 0)
//	(00.000044) Running on host Linux 6.18.0 #1 SMP ... x86_64
var (
	logVersion = regexp.MustCompile(`\) Version: ([0-9][0-9.]*)`)
	logHost    = regexp.MustCompile(`\) Running on \S+ Linux (\S+) .* (\S+)$`)
)

// logHead is how many lines CRIU takes for that, at most.
const logHead = 100

func fromLog(m *archive.Metadata, log []byte) {
	lines := bufio.NewScanner(bytes.NewReader(log))
	for n := 0; n < logHead && lines.Scan(); n++ {
		if v := logVersion.FindStringSubmatch(lines.Text()); v != nil && m.CRIU == "" {
			m.CRIU = v[1]
		}
		if h := logHost.FindStringSubmatch(lines.Text()); h != nil && m.Host.Kernel == "" {
			m.Host.Kernel, m.Host.Architecture = h[1], goArchitecture(h[2])
		}
	}
}

// goArchitecture is Go's name for an architecture that uname knows.
func goArchitecture(machine string) string {
	return map[string]string{"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}[machine]
}

// The families of annotations on checkpoint images, without their last words.
const (
	podmanPrefix = "io.podman.annotations.checkpoint."
	criuPrefix   = "org.criu.checkpoint."
)

// fromAnnotations takes what only the annotations of an image say.
func fromAnnotations(m *archive.Metadata, notes map[string]string) {
	set := func(field *string, keys ...string) {
		for _, key := range keys {
			if *field == "" {
				*field = notes[key]
			}
		}
	}
	both := func(word string) []string { return []string{podmanPrefix + word, criuPrefix + word} }
	set(&m.Container.Engine, criuPrefix+"engine.name")
	set(&m.Container.Runtime.Version, both("runtime.version")...)
	m.Container.Runtime.Version, _, _ = strings.Cut(m.Container.Runtime.Version, "\n")
	set(&m.Host.Architecture, both("host.arch")...)
	set(&m.Host.Kernel, both("host.kernel")...)
	set(&m.Host.CgroupVersion, podmanPrefix+"cgroups.version", criuPrefix+"cgroup.version")
	set(&m.Host.Distribution, both("distribution.name")...)
	set(&m.Host.Version, both("distribution.version")...)
	number := ""
	set(&number, both("criu.version")...)
	if m.CRIU == "" {
		m.CRIU = criuVersion(number)
	}
	if v := notes[podmanPrefix+"podman.version"]; v != "" && m.Tool == Podman {
		m.Tool += "/" + v
	}
}

// criuVersion is a version as people write it: engines count 4.2.1 as 40201.
func criuVersion(number string) string {
	n, err := strconv.Atoi(number)
	if err != nil || n <= 0 {
		return number
	}
	const step = 100
	v := strconv.Itoa(n/step/step) + "." + strconv.Itoa(n/step%step)
	if patch := n % step; patch > 0 {
		v += "." + strconv.Itoa(patch)
	}
	return v
}

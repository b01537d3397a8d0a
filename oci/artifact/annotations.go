package artifact

import (
	"strconv"
	"strings"
	"time"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ckarchive/ckarchive/archive"
)

// Type is the artifact type of the universal image.
const Type = "application/vnd.ckarchive.checkpoint.v1"

// AnnotationContainer is the ID of the container, by which its next checkpoint finds this one.
const AnnotationContainer = "io.ckarchive.container"

// CRI-O's annotations; it takes an image for a checkpoint by the first.
const (
	crioName            = "io.kubernetes.cri-o.annotations.checkpoint.name"
	crioRawImageName    = "io.kubernetes.cri-o.annotations.checkpoint.rawImageName"
	crioRootfsImageID   = "io.kubernetes.cri-o.annotations.checkpoint.rootfsImageID"
	crioRootfsImageName = "io.kubernetes.cri-o.annotations.checkpoint.rootfsImageName"
	crioCRIUVersion     = "io.kubernetes.cri-o.annotations.checkpoint.criu.version"
)

// Podman's annotations; it takes an image for a checkpoint by the first, and
// demands that it names the host's runtime.
const (
	podmanRuntimeName         = "io.podman.annotations.checkpoint.runtime.name"
	podmanName                = "io.podman.annotations.checkpoint.name"
	podmanRawImageName        = "io.podman.annotations.checkpoint.rawImageName"
	podmanRootfsImageID       = "io.podman.annotations.checkpoint.rootfsImageID"
	podmanRootfsImageName     = "io.podman.annotations.checkpoint.rootfsImageName"
	podmanCRIUVersion         = "io.podman.annotations.checkpoint.criu.version"
	podmanRuntimeVersion      = "io.podman.annotations.checkpoint.runtime.version"
	podmanHostArch            = "io.podman.annotations.checkpoint.host.arch"
	podmanHostKernel          = "io.podman.annotations.checkpoint.host.kernel"
	podmanCgroupsVersion      = "io.podman.annotations.checkpoint.cgroups.version"
	podmanDistributionName    = "io.podman.annotations.checkpoint.distribution.name"
	podmanDistributionVersion = "io.podman.annotations.checkpoint.distribution.version"
)

// recognise are the annotations by which an image is a checkpoint, one of each family at least.
func recognise() []string {
	return []string{metadata.CheckpointAnnotationName, crioName, podmanName, podmanRuntimeName}
}

// defaultRuntime stands in the annotations of a checkpoint that no runtime took
// part in: Podman refuses an image without one.
const defaultRuntime = "runc"

// annotate makes the annotations of all three families.
func annotate(f *facts) map[string]string {
	m := f.meta
	name := m.Container.Name
	if name == "" {
		name = m.Container.ID
	}
	if name == "" {
		name = "checkpoint"
	}
	runtimeName := m.Container.Runtime.Name
	if runtimeName == "" || runtimeName == "direct" {
		runtimeName = defaultRuntime
	}
	var base archive.Base
	if m.Base != nil {
		base = *m.Base
	}
	criu := criuNumber(m.CRIU)
	imageID := strings.TrimPrefix(base.ImageID, "sha256:")
	notes := map[string]string{}
	set := func(value string, keys ...string) {
		for _, key := range keys {
			if value != "" {
				notes[key] = value
			}
		}
	}
	set(m.Container.ID, AnnotationContainer)
	set(name, metadata.CheckpointAnnotationName, crioName, podmanName)
	set(m.Container.Engine, metadata.CheckpointAnnotationEngine)
	set(runtimeName, metadata.CheckpointAnnotationRuntimeName, podmanRuntimeName)
	set(m.Container.Runtime.Version, metadata.CheckpointAnnotationRuntimeVersion, podmanRuntimeVersion)
	set(criu, metadata.CheckpointAnnotationCriuVersion, crioCRIUVersion, podmanCRIUVersion)
	set(m.Host.Architecture, metadata.CheckpointAnnotationHostArch, podmanHostArch)
	set(m.Host.Kernel, metadata.CheckpointAnnotationHostKernel, podmanHostKernel)
	set(m.Host.CgroupVersion, metadata.CheckpointAnnotationCgroupVersion, podmanCgroupsVersion)
	set(m.Host.Distribution, metadata.CheckpointAnnotationDistributionName, podmanDistributionName)
	set(m.Host.Version, metadata.CheckpointAnnotationDistributionVersion, podmanDistributionVersion)
	set(base.Image, metadata.CheckpointAnnotationRootfsImageName, metadata.CheckpointAnnotationRawImageName,
		metadata.CheckpointAnnotationRootfsImageUserRequested, crioRawImageName, crioRootfsImageName,
		podmanRawImageName, podmanRootfsImageName, ocispec.AnnotationBaseImageName)
	set(imageID, metadata.CheckpointAnnotationRootfsImageID, crioRootfsImageID, podmanRootfsImageID)
	set(base.Manifest, metadata.CheckpointAnnotationRootfsImageSha, ocispec.AnnotationBaseImageDigest)
	set(f.pod.name, metadata.CheckpointAnnotationPod)
	set(f.pod.namespace, metadata.CheckpointAnnotationNamespace)
	set(f.pod.uid, metadata.CheckpointAnnotationPodUID)
	set("checkpoint of "+name, ocispec.AnnotationTitle)
	set(m.Created.UTC().Format(time.RFC3339Nano), ocispec.AnnotationCreated)
	return notes
}

// criuNumber is a version as CRIU itself and all engines count it: 4.2.1 is
// 40201. What is no version stays as it is.
func criuNumber(version string) string {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return version
	}
	n := 0
	for i := range 3 {
		part := 0
		if i < len(parts) {
			var err error
			if part, err = strconv.Atoi(parts[i]); err != nil || part < 0 || part > 99 {
				return version
			}
		}
		n = n*100 + part
	}
	return strconv.Itoa(n)
}
